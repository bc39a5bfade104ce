"""Selections against the original code's own result, a row-by-row replay of it, and recounts."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from replay_data import InputError, ReplayFormatError, TrajectoryStore
from replay_data.episode import EpisodeSource
from replay_data.selection.build import build_store
from replay_data.selection.episodes import Selection, SelectionMethod
from replay_data.sources import dopamine_reader
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.rl_unplugged import RLUnpluggedRun, shard_name
from replay_data.storage.gzip_streams import create_gzip, open_gzip
from replay_data.store_metadata import StoreSource
from tests.conftest import DATA
from tests.replay_data.recordings import (
    MEANINGS,
    indices_in_truth,
    random_episode,
    truth,
    write_log,
    write_shard,
)

SMALL_DRAW: dict[str, Any] = {"num_buffers": 5, "num_steps": 8000, "trajectories_per_buffer": 3}


def log() -> DopamineLog:
    return DopamineLog(DATA / "dopamine_log", "Breakout", 1, 4)


def shards() -> RLUnpluggedRun:
    return RLUnpluggedRun(DATA / "rl_unplugged", "Breakout", 1, 4)


def build(
    out: Path,
    source: EpisodeSource,
    kind: SelectionMethod,
    num_workers: int | None = None,
    verify: bool = False,
    **options: Any,
) -> TrajectoryStore:
    return build_store(
        out,
        source,
        Selection.of(kind, **options),
        game="Breakout",
        action_meanings=MEANINGS,
        about=StoreSource("test"),
        num_workers=num_workers,
        verify=verify,
        show_progress=False,
    )


@cache
def columns() -> dict[int, dict[str, npt.NDArray[Any]]]:
    """What the files of the recorded log hold."""
    directory = DATA / "dopamine_log" / "Breakout" / "1" / "replay_logs"
    held: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for number in range(45, 50):
        held[number] = {}
        for element in ("observation", "action", "reward", "terminal"):
            with gzip.open(directory / f"$store$_{element}_ckpt.{number}.gz") as file:
                held[number][element] = np.load(file)
    return held


@dataclass
class Replayed:
    """What the original's create_dataset does, one row at a time (its 100,000 rows set to ``capacity``)."""

    rows: list[tuple[int, int]]
    visits: list[tuple[int, int, int]]
    done: list[int]
    rtg: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.int64]


def replay_original(
    seed: int, num_buffers: int, num_steps: int, trajectories_per_buffer: int, capacity: int = 6000
) -> Replayed:
    np.random.seed(seed)  # noqa: NPY002 (the original's generator)
    pointers = np.zeros(50, dtype=int)
    rows: list[tuple[int, int]] = []
    visits: list[tuple[int, int, int]] = []
    done: list[int] = []
    while len(rows) < num_steps:
        buffer = int(np.random.choice(np.arange(50 - num_buffers, 50), 1)[0])  # noqa: NPY002
        row, before, left = pointers[buffer], len(rows), trajectories_per_buffer
        while True:
            rows.append((buffer, int(row)))
            terminal = columns()[buffer]["terminal"][row]
            if terminal:
                done.append(len(rows))
                left -= 1
            row += 1
            if row >= capacity:
                del rows[before:]
                break
            if terminal and left < 0:
                visits.append((buffer, int(pointers[buffer]), int(row)))
                pointers[buffer] = row
                break
    rewards = np.array([columns()[buffer]["reward"][row] for buffer, row in rows])
    rtg = np.zeros_like(rewards)
    timesteps = np.zeros(len(rows) + 1, dtype=np.int64)
    start = 0
    for end in done:
        for row in range(end - 1, start - 1, -1):
            rtg[row] = sum(rewards[row:end])  # IndexError where an abandoned visit left an end past the last row
        start = end
    start = 0
    for end in done:
        timesteps[start : end + 1] = np.arange(end + 1 - start)
        start = end + 1
    return Replayed(rows, visits, done, rtg, timesteps)


def test_original_equals_what_the_original_code_returned(tmp_path: Path) -> None:
    store = build(tmp_path / "store", log(), "original", seed=123, **SMALL_DRAW)
    with np.load(DATA / "dopamine_log" / "original_selection_seed123.npz") as expected:
        assert np.array_equal(store.actions, expected["actions"])
        assert np.array_equal(store.returns_to_go, expected["rtg"])
        assert np.array_equal(store.timesteps, expected["timesteps"][:-1])
        assert np.array_equal(store.episode_ends, expected["done_idxs"])
        newest = store.frames[store.frame_index].sum(axis=(1, 2), dtype=np.uint64)
        assert np.array_equal(newest, expected["newest_frame_sum"])
        for row, digest in zip(expected["obs_rows"], expected["obs_sha256"], strict=True):
            assert hashlib.sha256(store.stacked(int(row)).tobytes()).hexdigest() == digest
    store.verify()


# Visits that reach the last row are given up and leave their episode ends behind; the last seed's stay in order.
LEFT_BEHIND = (16, 22, 27, 1811433748)


# The last two read no further than row 4,000, as the original stops at row 100,000 of 1,000,000.
@pytest.mark.parametrize(
    ("seed", "capacity"), [(seed, 6000) for seed in (0, 1, 2, *LEFT_BEHIND, 231, 312)] + [(1, 4000), (3, 4000)]
)
def test_original_equals_a_replay_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, capacity: int
) -> None:
    monkeypatch.setattr(dopamine_reader, "PAPER_CAPACITY", capacity)
    store = build(tmp_path / "store", log(), "original", seed=seed, **SMALL_DRAW)
    expected = replay_original(seed, **SMALL_DRAW, capacity=capacity)
    held = columns()
    assert store.actions.tolist() == [held[buffer]["action"][row] for buffer, row in expected.rows]
    assert store.rewards.tolist() == [held[buffer]["reward"][row] for buffer, row in expected.rows]
    assert np.array_equal(store.returns_to_go, expected.rtg)
    assert np.array_equal(store.timesteps, expected.timesteps[:-1])
    for step, (buffer, row) in enumerate(expected.rows):
        if step % 37 == 0 or row < 3:
            stack = held[buffer]["observation"][np.arange(row - 3, row + 1) % capacity]
            assert np.array_equal(store.stacked(step), stack)
    ends = [step + 1 for step, (buffer, row) in enumerate(expected.rows) if held[buffer]["terminal"][row]]
    assert store.episode_ends.tolist() == ends
    left_behind = ends != expected.done
    assert left_behind == (seed in LEFT_BEHIND)
    assert store.metadata.source.original_done_idxs == (tuple(expected.done) if left_behind else None)


def test_original_says_where_the_original_code_fails(tmp_path: Path) -> None:
    options = {**SMALL_DRAW, "trajectories_per_buffer": 10}
    failing = 0
    for seed in range(6):
        try:
            replay_original(seed, **options)
        except IndexError:
            failing += 1
            with pytest.raises(InputError, match="the original code ends with an IndexError"):
                build(tmp_path / str(seed), log(), "original", seed=seed, **options)
        else:
            build(tmp_path / str(seed), log(), "original", seed=seed, **options)
    assert 0 < failing < 6
    with pytest.raises(InputError, match=r"reach only 2\d,\d{3} of 500,000 steps .* --selection even or all"):
        build(tmp_path / "endless", log(), "original", num_buffers=5, trajectories_per_buffer=1)
    with pytest.raises(InputError, match="counts rows of a replay log"):
        build(tmp_path / "shards", shards(), "original")
    assert not list(tmp_path.glob("*endless*")) + list(tmp_path.glob("*shards*"))


@pytest.mark.parametrize("seed", [0, 16, 123])
def test_corrected_is_the_same_draw_of_whole_episodes(tmp_path: Path, seed: int) -> None:
    store = build(tmp_path / "store", log(), "corrected", seed=seed, **SMALL_DRAW)
    found = indices_in_truth(store)
    assert len(store) >= SMALL_DRAW["num_steps"]

    # Rows of the log that each true episode fills: three of padding and its steps; link rows hold one each.
    starts = np.cumsum([0, *(len(episode) + 3 for episode in truth())])
    first_row = {45: 0, 46: 6000, 47: 12_000, 48: 18_000, 49: 24_000}
    expected: list[int] = []
    more = SMALL_DRAW["num_steps"]
    for _ in range(20):  # a larger draw goes on where the smaller one stopped
        expected = [
            index
            for buffer, start, stop in replay_original(seed, **{**SMALL_DRAW, "num_steps": more}).visits
            for index in range(len(truth()))
            if starts[index] >= first_row[buffer] + start and starts[index + 1] <= first_row[buffer] + stop
        ]
        if sum(len(truth()[index]) for index in expected) >= SMALL_DRAW["num_steps"]:
            break
        more += 300
    assert found == expected
    counts = dict.fromkeys(range(45, 50), 0)
    for index in found:
        counts[int(np.searchsorted(list(first_row.values()), starts[index], side="right")) + 44] += 1
    assert store.metadata.source.episodes_per_shard == {n: count for n, count in counts.items() if count}


def test_corrected_shards_are_drawn_by_the_same_numbers(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_steps": 1000, "trajectories_per_buffer": 0}
    store = build(tmp_path / "store", shards(), "corrected", seed=5, **options)
    pointers, expected, steps = [0, 6], [], 0
    random = np.random.RandomState(5)
    while steps < 1000:
        shard = int(random.choice(np.arange(2), 1)[0])
        expected.append(pointers[shard])
        steps += len(truth()[pointers[shard]])
        pointers[shard] += 1
    assert indices_in_truth(store) == expected
    with pytest.raises(InputError, match=r"visits of 3 \+ 1 episodes reach only"):
        build(tmp_path / "more", shards(), "corrected", trajectories_per_buffer=3)


def test_even_takes_the_same_share_of_every_part(tmp_path: Path) -> None:
    for name, source, first in (("log", log(), [0, 14, 25, 34, 47]), ("shards", shards(), [0, 6])):
        share = 1300
        store = build(tmp_path / name, source, "even", num_steps=share * len(first) - 1)
        expected = []
        for index in first:
            steps = 0
            while steps < share:
                expected.append(index)
                steps += len(truth()[index])
                index += 1
        assert indices_in_truth(store) == expected
    with pytest.raises(
        InputError, match=r"number 0 .* holds 2,5\d\d steps of whole episodes, less than its share of 3,"
    ):
        build(tmp_path / "more", shards(), "even", num_steps=6000)


def test_top_takes_the_best_by_return(tmp_path: Path) -> None:
    returns = [float(episode.rewards.sum()) for episode in truth()]
    for percent, count in ((1, 1), (10, 6), (50, 28), (100, 55)):
        store = build(tmp_path / str(percent), log(), "top", top_episode_percent=percent)
        ranked = sorted(range(55), key=lambda index: (-returns[index], index))
        assert indices_in_truth(store) == sorted(ranked[:count])
    store = build(tmp_path / "last", log(), "top", top_episode_percent=50, num_buffers=2)
    assert set(store.metadata.source.episodes_per_shard) <= {48, 49}
    store = build(tmp_path / "shards", shards(), "top", top_episode_percent=25)
    assert indices_in_truth(store) == sorted(sorted(range(12), key=lambda index: (-returns[index], index))[:3])


def test_all_takes_all(tmp_path: Path) -> None:
    assert indices_in_truth(build(tmp_path / "log", log(), "all")) == list(range(55))
    store = build(tmp_path / "shards", shards(), "all")
    assert indices_in_truth(store) == list(range(12))
    assert store.raw_rewards is not None
    assert np.array_equal(store.raw_rewards, np.concatenate([episode.raw_rewards for episode in truth()[:12]]))
    store = build(tmp_path / "last", log(), "all", num_buffers=1)
    assert indices_in_truth(store) == list(range(47, 55))
    assert store.metadata.source == StoreSource(
        "test", selection={"method": "all", "num_buffers": 1}, verified=True, episodes_per_shard={49: 8}
    )
    assert store.metadata.reward_clipping is True
    assert store.metadata.sticky_actions == 0.25


@pytest.mark.parametrize("kind", ["original", "corrected", "even", "top", "all"])
def test_any_number_of_workers_makes_the_same_store(tmp_path: Path, kind: SelectionMethod) -> None:
    options = SMALL_DRAW if kind in ("original", "corrected") else {"num_buffers": 5}
    if kind == "even":
        options = {**options, "num_steps": 8000}
    digests = {build(tmp_path / str(n), log(), kind, num_workers=n, **options).digest for n in (1, 2, 7)}
    assert len(digests) == 1


def test_raw_rewards_are_kept_where_they_say_more(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 5) for _ in range(3)]
    write_shard(tmp_path / "raw" / "Breakout" / shard_name(1, 0, 1), episodes, clipped_rewards=False)
    store = build(tmp_path / "kept", RLUnpluggedRun(tmp_path / "raw", "Breakout", 1, 4), "all")
    assert store.raw_rewards is not None
    raw = [episode.raw_rewards for episode in episodes if episode.raw_rewards is not None]
    assert np.array_equal(store.raw_rewards, np.concatenate(raw))
    assert store.metadata.max_score == max(float(values.sum()) for values in raw)
    for values in raw:
        values.clip(-1, 1, out=values)
    write_shard(tmp_path / "clipped" / "Breakout" / shard_name(1, 0, 1), episodes)
    store = build(tmp_path / "dropped", RLUnpluggedRun(tmp_path / "clipped", "Breakout", 1, 4), "all")
    assert store.raw_rewards is None
    assert store.metadata.max_score is None
    assert not (tmp_path / "dropped" / "raw_rewards.npy").exists()


def test_damage_found_late_leaves_no_store(tmp_path: Path) -> None:
    directory = write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(10)], 150)
    file = directory / "$store$_reward_ckpt.0.gz"
    content = file.read_bytes()
    file.write_bytes(content[:-8] + bytes(8))  # gzip's checksum and size
    options: dict[str, Any] = {"num_steps": 30, "trajectories_per_buffer": 0}
    with pytest.raises(ReplayFormatError, match=r"reward_ckpt\.0\.gz is damaged"):
        build(tmp_path / "store", DopamineLog(tmp_path, "Breakout", 1, 4), "corrected", **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Breakout"]


def test_what_reading_ahead_finds_changes_nothing(tmp_path: Path) -> None:
    """Damage beyond what is selected is found when everything is verified, and never otherwise."""
    rng = np.random.default_rng(0)
    for shard in range(2):
        file = tmp_path / "Breakout" / shard_name(1, shard, 2)
        write_shard(file, [random_episode(rng, 5) for _ in range(3)])
    with open_gzip(file) as stream:
        content = bytearray(stream.read())
    content[-5] ^= 1
    with create_gzip(file) as stream:
        stream.write(content)
    digests = set()
    for index, workers in enumerate((1, 2, 3)):
        for seed in range(4):
            options: dict[str, Any] = {"num_steps": 9, "trajectories_per_buffer": 0, "seed": seed}
            source = RLUnpluggedRun(tmp_path, "Breakout", 1, 4)
            store = build(tmp_path / f"{index}-{seed}", source, "corrected", num_workers=workers, **options)
            digests.add(store.digest)
            if 1 in store.metadata.source.episodes_per_shard:
                with pytest.raises(ReplayFormatError, match="damaged at record 2"):
                    build(tmp_path / "verified", source, "corrected", num_workers=workers, verify=True, **options)
    assert len(digests) <= 4


@pytest.mark.parametrize("element", ["action", "reward", "terminal"])
def test_the_small_files_of_every_buffer_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, element: str
) -> None:
    monkeypatch.setattr(dopamine_reader, "CHECKED_ROWS", 100)
    directory = write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(20)], 150)
    file = directory / f"$store$_{element}_ckpt.1.gz"
    file.write_bytes(file.read_bytes()[:-8] + bytes(8))  # gzip's checksum and size
    with pytest.raises(ReplayFormatError, match=rf"{element}_ckpt\.1\.gz is damaged"):
        build(tmp_path / "store", DopamineLog(tmp_path, "Breakout", 1, 4), "even", num_steps=100)


@pytest.mark.parametrize("verify", [False, True])
def test_a_store_says_whether_all_checksums_were_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    monkeypatch.setattr(dopamine_reader, "CHECKED_ROWS", 5999)
    options: dict[str, Any] = {"num_buffers": 5, "num_steps": 1000, "trajectories_per_buffer": 0}
    assert build(tmp_path / "draw", log(), "corrected", verify=verify, **options).metadata.source.verified == verify
    assert build(tmp_path / "all", log(), "all", verify=verify).metadata.source.verified


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "all",
            {"num_steps": 5},
            "--num-steps means nothing to --selection all, which takes --num-buffers; leave it out",
        ),
        ("even", {"seed": 5}, "--seed means nothing to --selection even"),
        ("corrected", {"top_episode_percent": 5}, "--top-episode-percent means nothing to --selection corrected"),
        ("corrected", {"num_steps": 0}, "--num-steps is 0; it must be at least 1"),
        ("corrected", {"num_buffers": 0}, "--num-buffers is 0; it must be at least 1"),
        ("corrected", {"seed": -1}, "--seed is -1; it must be from 0 to"),
        ("top", {"top_episode_percent": 101}, "--top-episode-percent is 101; it must be from"),
        ("corrected", {"trajectories_per_buffer": -1}, "--trajectories-per-buffer is -1; it must be at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(kind: SelectionMethod, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Selection.of(kind, **options)


def test_parts_outside_the_draw_are_named(tmp_path: Path) -> None:
    write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(10)], 100)
    with pytest.raises(InputError, match=r"the run has only 0-2, but the last 5 of 50 are 45-49; raise --num-buffers"):
        build(tmp_path / "store", DopamineLog(tmp_path, "Breakout", 1, 4), "corrected", num_buffers=5)
