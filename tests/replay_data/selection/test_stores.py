"""Stores selected from stores: every episode bit for bit, linked or copied, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import os
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.selection import stores
from replay_data.selection.methods import Selection, SelectionMethod
from replay_data.selection.stores import select_from_store, spread_episodes
from replay_data.store_metadata import StoreSource
from replay_data.testing import write_random_store
from tests.conftest import DATA
from tests.replay_data.recordings import build, open_log, random_episode, recording_of, write_log

ORIGIN = StoreSource(
    "dopamine", 3, {"method": "even", "num_steps": 9}, recording_of("Pong", ["NOOP", "FIRE"]), True, {0: 2, 7: 1}
)


def select(
    out: Path, path: Path, method: SelectionMethod, *, copy_frames: bool = False, verify: bool = False, **options: Any
) -> TrajectoryStore:
    selection = Selection.of(method, **options)
    return select_from_store(out, path, selection, copy_frames=copy_frames, verify=verify, show_progress=False)


def write_store(path: Path, lengths: list[int], seed: int, *, clip: bool, raw: bool, ends: bool) -> TrajectoryStore:
    """Write a store of random episodes, lead-in frames and returns-to-go, perhaps without raw rewards or terminated."""
    rng = np.random.default_rng(seed)
    with StoreWriter(
        path,
        game="Pong",
        action_meanings=["NOOP", "FIRE"],
        reward_clipping=clip,
        sticky_actions=None,
        source=ORIGIN,
    ) as writer:
        for length in lengths:
            raw_rewards = rng.integers(-2, 3, length).astype(np.float32)
            writer.append(
                rng.integers(0, 256, (length, 84, 84), np.uint8),
                rng.integers(0, 2, length),
                raw_rewards.clip(-1, 1) if clip else raw_rewards,
                raw_rewards if raw else None,
                terminated=bool(rng.integers(2)) if ends else None,
                lead_in=rng.integers(0, 256, (3, 84, 84), np.uint8),
                returns_to_go=rng.normal(size=length),
            )
    return TrajectoryStore.open(path)


def expected_choice(returns: list[float], lengths: list[int], method: str, options: dict[str, Any]) -> list[int]:
    """Return the episodes that a selection takes, one by one and without NumPy."""
    indices = range(len(returns))
    if method == "top":
        count = math.ceil(len(returns) * options["top_episode_percent"] / 100)
        return sorted(sorted(indices, key=lambda index: (-returns[index], index))[:count])
    if method == "return_range":
        low, high = options.get("min_return", -math.inf), options.get("max_return", math.inf)
        return [index for index in indices if low <= returns[index] <= high]
    if method == "even":
        taken: list[int] = []
        for index in sorted(indices, key=lambda index: index * Decimal(2).sqrt() % 1):
            if sum(lengths[each] for each in taken) < options["num_steps"]:
                taken.append(index)
        return sorted(taken)
    return list(indices)


def assert_same_episode(new: TrajectoryStore, position: int, old: TrajectoryStore, index: int) -> None:
    """Compare every step of an episode of two stores bit for bit."""
    start, old_start = int(new.episode_starts[position]), int(old.episode_starts[index])
    length = int(old.episode_ends[index]) - old_start
    assert new.episode_ends[position] - start == length
    for step in range(length):
        assert np.array_equal(new.state(start + step), old.state(old_start + step))
        for name in ("actions", "rewards", "returns_to_go", "timesteps"):
            assert getattr(new, name)[start + step] == getattr(old, name)[old_start + step]
        if old.raw_rewards is not None:
            assert new.raw_rewards is not None
            assert new.raw_rewards[start + step] == old.raw_rewards[old_start + step]
    if old.terminated is not None:
        assert new.terminated is not None
        assert new.terminated[position] == old.terminated[index]
    assert (new.raw_rewards is None, new.terminated is None) == (old.raw_rewards is None, old.terminated is None)


REQUESTS: st.SearchStrategy[tuple[SelectionMethod, dict[str, Any]]] = st.one_of(
    st.just(("all", {})),
    st.floats(1, 100).map(lambda percent: ("top", {"top_episode_percent": percent})),
    st.integers(1, 10).map(lambda num_steps: ("even", {"num_steps": num_steps})),
    st.integers(-4, 4).map(lambda low: ("return_range", {"min_return": low})),
    st.integers(-4, 4).map(lambda high: ("return_range", {"max_return": high})),
    st.tuples(st.integers(-4, 4), st.integers(0, 4)).map(
        lambda limits: ("return_range", {"min_return": limits[0] - 0.5, "max_return": limits[0] + limits[1]})
    ),
)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    request=REQUESTS,
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    copy_frames=st.booleans(),
)
def test_every_selected_episode_is_the_same_bit_for_bit(
    lengths: list[int],
    seed: int,
    request: tuple[SelectionMethod, dict[str, Any]],
    flags: tuple[bool, bool, bool],
    copy_frames: bool,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, out = Path(directory) / "old", Path(directory) / "new"
        old = write_store(path, lengths, seed, clip=flags[0], raw=flags[1], ends=flags[2])
        method, options = request
        pairs = zip(old.episode_starts.tolist(), old.episode_ends.tolist(), strict=True)
        returns = [sum(old.rewards[start:end].tolist()) for start, end in pairs]
        expected = expected_choice(returns, lengths, method, options)
        if not expected or (method == "even" and sum(lengths) < options["num_steps"]):
            message = f"run from {min(returns):g} to {max(returns):g}; change" if method != "even" else "less than"
            with pytest.raises(InputError, match=message):
                select(out, path, method, copy_frames=copy_frames, **options)
            assert os.listdir(directory) == ["old"]
            return
        new = select(out, path, method, copy_frames=copy_frames, **options)
        new.verify()
        assert new.num_episodes == len(expected)
        for position, index in enumerate(expected):
            assert_same_episode(new, position, old, index)
        assert new.metadata.source == StoreSource(
            "store",
            selection={"method": method, **options},
            verified=not copy_frames,
            details={"digest": old.digest, "frames": "copied" if copy_frames else "linked"},
            origin=ORIGIN,
        )
        copied_fields = ("game", "action_meanings", "reward_clipping", "sticky_actions")
        assert all(getattr(new.metadata, name) == getattr(old.metadata, name) for name in copied_fields)
        assert (out / "frames.npy").samefile(path / "frames.npy") != copy_frames
        if copy_frames:
            assert len(new.frames) == len(new) + 3 * new.num_episodes
            assert (new.digest == old.digest) == (expected == list(range(len(lengths))))
        else:
            assert new.metadata.arrays["frames"] == old.metadata.arrays["frames"]


@pytest.mark.parametrize("num_steps", [30, 100, 333, 700])
def test_even_takes_every_part_of_a_store_and_every_player(num_steps: int) -> None:
    chosen = spread_episodes(np.ones(1000, np.int64), num_steps)
    assert chosen.sum() == num_steps
    for start, length in itertools.product(range(0, 1000, 50), (50, 200)):
        part = chosen[start : start + length]
        assert abs(part.sum() - num_steps * len(part) / 1000) <= 3
    for num_players in range(2, 8):  # who take turns
        for player in range(num_players):
            episodes = chosen[player::num_players]
            assert abs(episodes.sum() - num_steps * len(episodes) / 1000) < 4


def test_even_prefers_neither_long_nor_short_episodes() -> None:
    lengths = np.random.default_rng(0).choice([10, 1000], 3000)
    chosen = spread_episodes(lengths, 150_000)
    assert np.mean(lengths[chosen] == 1000) == pytest.approx(np.mean(lengths == 1000), abs=0.05)
    assert 150_000 <= lengths[chosen].sum() < 151_000


def test_linked_frames_outlive_the_store_they_came_from(tmp_path: Path) -> None:
    old = write_random_store(tmp_path / "old", [5, 9, 2])
    states = [old.state(step).copy() for step in range(5, 14)]
    new = select(tmp_path / "new", tmp_path / "old", "even", num_steps=1)
    again = select(tmp_path / "again", tmp_path / "old", "return_range", min_return=float(old.episode_returns[1]))
    third = select(tmp_path / "third", tmp_path / "again", "all")
    del old
    shutil.rmtree(tmp_path / "old")
    new.verify()
    third.verify()
    step = third.episode_starts[third.episode_ends - third.episode_starts == 9].item()
    assert all(np.array_equal(third.state(step + offset), state) for offset, state in enumerate(states))
    assert third.metadata.source.origin == again.metadata.source
    assert third.metadata.source.first_origin == StoreSource("random")


def test_frames_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_random_store(tmp_path / "old", [5, 9])

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    new = select(tmp_path / "new", tmp_path / "old", "all", verify=True)
    assert not (tmp_path / "new" / "frames.npy").samefile(tmp_path / "old" / "frames.npy")
    assert new.digest == old.digest
    assert new.metadata.source.verified is True
    assert new.metadata.source.details["frames"] == "copied"


def test_a_linked_file_is_never_written(tmp_path: Path) -> None:
    old = write_random_store(tmp_path / "old", [5])
    about: dict[str, Any] = {"game": "Pong", "action_meanings": ["NOOP"], "reward_clipping": True}
    with StoreWriter(tmp_path / "new", **about, sticky_actions=None, source=StoreSource("test")) as writer:
        assert writer.link_frames(tmp_path / "old" / "frames.npy", old.metadata.arrays["frames"])
        with pytest.raises(ValueError, match="use append_linked"):
            writer.append(np.zeros((1, 84, 84), np.uint8), np.array([0]), np.array([0]), terminated=True)
        for first_frame, steps in ((2, 1), (4, 5), (8, 1)):
            with pytest.raises(InputError, match=f"frame {first_frame} is not the first of an episode"):
                writer.append_linked(first_frame, np.zeros(steps, int), np.zeros(steps), terminated=True)
        writer.append_linked(3, np.zeros(5, int), np.zeros(5), terminated=True)
    old.verify()


def test_a_store_without_terminated_stays_without(tmp_path: Path) -> None:
    path = DATA / "version_1" / "store"
    new = select(tmp_path / "new", path, "all", copy_frames=True)
    assert new.terminated is None
    assert new.digest == TrajectoryStore.open(path).digest
    assert new.metadata.source.first_origin.format == "scripted"
    assert new.metadata.source.first_origin.details["seed"] == 7


def test_damaged_frames_are_found_by_verify(tmp_path: Path) -> None:
    write_random_store(tmp_path / "old", [5, 9])
    frames = np.lib.format.open_memmap(tmp_path / "old" / "frames.npy", "r+")
    frames[4, 0, 0] ^= 1
    frames.flush()
    for copy_frames in (False, True):
        with pytest.raises(InputError, match=r"old/frames\.npy is damaged"):
            select(tmp_path / "new", tmp_path / "old", "all", copy_frames=copy_frames, verify=True)
    linked = select(tmp_path / "new", tmp_path / "old", "all")
    with pytest.raises(InputError, match=r"new/frames\.npy is damaged"):
        linked.verify()


@pytest.mark.parametrize("copy_frames", [False, True])
@pytest.mark.parametrize("change", ["written", "replaced", "removed"])
def test_a_store_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_frames: bool, change: str
) -> None:
    write_random_store(tmp_path / "old", [5, 9])
    frames = tmp_path / "old" / "frames.npy"
    append = stores._append_episode

    def append_and_change(*arguments: Any) -> None:
        append(*arguments)
        content = frames.read_bytes() if frames.exists() else b""
        if change != "written":
            frames.unlink(missing_ok=True)
        if change != "removed":
            frames.write_bytes(content)
            os.utime(frames, ns=(0, 0))

    monkeypatch.setattr(stores, "_append_episode", append_and_change)
    with pytest.raises(InputError, match=r"frames\.npy changed while it was read; run the command again"):
        select(tmp_path / "new", tmp_path / "old", "all", copy_frames=copy_frames)
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("copy_frames", [False, True])
def test_an_interruption_keeps_only_the_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_frames: bool
) -> None:
    old = write_random_store(tmp_path / "old", [5, 9])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stores, "_append_episode", interrupt)
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        select(tmp_path / "new", tmp_path / "old", "all", copy_frames=copy_frames)
    assert os.listdir(tmp_path) == ["old"]
    old.verify()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "corrected",
            {},
            r"`selection` corrected \(the default\) visits buffers, and a store has none; use `selection` even, top, "
            "return_range or all",
        ),
        ("original", {}, "`selection` original visits buffers, and a store has none; use"),
        ("top", {"num_buffers": 3}, "`num_buffers` counts the files of a recorded run"),
        ("even", {"num_steps": 15}, "holds 14 steps, less than 15; lower `num_steps`, or take all episodes"),
        ("return_range", {"min_return": 99}, "no episode has a return of at least 99; the returns of the 2 episodes"),
    ],
)
def test_a_selection_that_a_store_cannot_have_is_refused(
    tmp_path: Path, method: SelectionMethod, options: dict[str, Any], message: str
) -> None:
    write_random_store(tmp_path / "old", [5, 9])
    with pytest.raises(InputError, match=message):
        select(tmp_path / "new", tmp_path / "old", method, **options)
    assert os.listdir(tmp_path) == ["old"]


def test_an_output_in_the_store_is_refused(tmp_path: Path) -> None:
    write_random_store(tmp_path / "old", [5])
    before = sorted(os.listdir(tmp_path / "old"))
    (tmp_path / "link").symlink_to("old")
    for out in ("old/new", "old/a/b", "link/new", "old/../old/new"):
        with pytest.raises(InputError, match=r"(new|b) lies in the store at .*; choose a directory outside it"):
            select(tmp_path / out, tmp_path / "old", "all")
    for out in ("old", "link", "old/."):
        with pytest.raises(InputError, match="exists already"):
            select(tmp_path / out, tmp_path / "old", "all")
    with pytest.raises(InputError, match="no trajectory store at"):
        select(tmp_path / "new", tmp_path / "nowhere", "all")
    assert sorted(os.listdir(tmp_path / "old")) == before


def test_another_game_and_a_long_chain_are_refused(tmp_path: Path) -> None:
    write_random_store(tmp_path / "0", [5], game="Pong")
    with pytest.raises(InputError, match="holds Pong, not Breakout; correct `game` or leave it out"):
        select_from_store(tmp_path / "new", tmp_path / "0", Selection.of("all"), game="Breakout")
    for index in range(8):
        select(tmp_path / f"{index + 1}", tmp_path / f"{index}", "all")
    with pytest.raises(InputError, match="last of a chain of 9 stores; select from one of the first 8"):
        select(tmp_path / "9", tmp_path / "8", "all")


def test_the_papers_own_draw_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(6)], 200)
    build(tmp_path / "old", open_log(tmp_path), "original", num_steps=40, num_buffers=50, trajectories_per_buffer=1)
    with pytest.raises(InputError, match="built with `selection` original, where the timesteps of an episode depend"):
        select(tmp_path / "new", tmp_path / "old", "all")


def test_a_contradictory_origin_is_refused(tmp_path: Path) -> None:
    old = write_random_store(tmp_path / "old", [5])
    source = dataclasses.replace(old.metadata.source, origin=StoreSource("dopamine"))
    content = dataclasses.replace(old.metadata, source=source).to_json()
    content["source"]["origin"] = ["dopamine"]
    (tmp_path / "old" / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"metadata\.json cannot be read .*a list is where an object should be"):
        TrajectoryStore.open(tmp_path / "old")
