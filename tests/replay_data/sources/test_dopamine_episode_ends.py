"""Where episodes of a Dopamine log end: listed in the sidecars of recorded logs, found by their padding in others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import ReplayFormatError
from replay_data.episode import Episode
from replay_data.sources import dopamine_episode_splitter, dopamine_rows
from replay_data.sources.dopamine_sidecar import sidecar_path
from tests.replay_data.recordings import (
    MEANINGS,
    black_episode,
    build,
    open_log,
    random_episode,
    recording_of,
    same,
    write_log,
)

RECORDING = recording_of("Breakout", MEANINGS)


def read(path: Path) -> list[Episode]:
    """Return every whole episode of a log."""
    episodes = []
    for buffer in open_log(path).shards.values():
        episodes += list(buffer.episodes())
        buffer.close()
    return episodes


def change_sidecar(directory: Path, index: int, change: Callable[[Any], None]) -> None:
    """Change the content of the sidecar of buffer ``index``."""
    path = sidecar_path(directory, index)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def remove_sidecars(directory: Path, *indices: int) -> None:
    """Remove the sidecars of the buffers at ``indices``."""
    for index in indices:
        sidecar_path(directory, index).unlink()


def to_version_1(content: Any) -> None:
    """Change the content of a sidecar to format version 1."""
    del content["format_version"]
    content["recording"].update(content["recording"].pop("settings"))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=9),
    rows=st.integers(5, 30),
    chunk=st.integers(1, 40),
    version_1=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_recorded_log_reads_back_whatever_its_frames_show(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, bool, bool]],
    rows: int,
    chunk: int,
    version_1: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    episodes = [
        black_episode(steps, terminated=terminated) if black else random_episode(rng, steps, terminated=terminated)
        for steps, terminated, black in lengths
    ]
    path = tmp_path_factory.mktemp("log")
    directory = write_log(path, episodes, rows, recording=RECORDING)
    indices = list(open_log(path).shards)
    if version_1:
        for index in indices:
            change_sidecar(directory, index, to_version_1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dopamine_rows, "CHUNK_ROWS", chunk)
        found = read(path)
    assert [len(episode) for episode in found] == [len(episode) for episode in episodes]
    assert all(same(*pair, raw_rewards=True) for pair in zip(found, episodes, strict=True))
    assert not any(episode.num_uncertain_ends for episode in found)

    # Without one of the buffers, exactly the episodes without a row in it are left. The link row of the buffer after it
    # is not read.
    removed = int(rng.choice(indices))
    for file in directory.glob(f"*.{removed}.*"):
        file.unlink()
    stops = np.cumsum([3 + len(episode) for episode in episodes])
    kept = [
        episode
        for episode, stop in zip(episodes, stops, strict=True)
        if stop <= removed * rows - 1 or stop - len(episode) - 3 >= removed * rows + rows
    ]
    if len(indices) > 1:
        found = read(path)
        assert len(found) == len(kept)
        assert all(same(*pair, raw_rewards=True) for pair in zip(found, kept, strict=True))


def test_known_ends_are_kept_where_a_sidecar_is_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # An episode of 17 steps fills a buffer of 20 rows, from the row after a link row to the next link row. Buffer 3
    # begins with the last step of the fourth episode.
    lengths = [17, 7, 7, 17, 17, 17, 7, 7]
    episodes = [
        black_episode(steps, terminated=False)
        if index in (0, 1, 2, 5, 6)
        else random_episode(rng, steps, terminated=False)
        for index, steps in enumerate(lengths)
    ]
    directory = write_log(tmp_path, episodes, 20, recording=RECORDING)
    assert not open_log(tmp_path).notes
    remove_sidecars(directory, 3)
    (note,) = open_log(tmp_path).notes
    assert "missing for buffers 3; raw rewards are left out" in note
    found = read(tmp_path)
    assert all(same(*pair) for pair in zip(found, episodes, strict=True))
    assert all(episode.raw_rewards is None for episode in found)  # known for all or for none
    assert [episode.num_uncertain_ends for episode in found] == [0, 0, 0, 1, 0, 0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    rows=st.integers(5, 25),
    blank_share=st.sampled_from([0.3, 0.6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_missing_sidecars_spoil_no_episode_of_other_buffers(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, bool]],
    rows: int,
    blank_share: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    episodes = [black_episode(steps, terminated=terminated) for steps, terminated in lengths]
    marks = iter(range(1, 256))
    for episode in episodes:
        for step in np.flatnonzero(rng.random(len(episode)) > blank_share):
            episode.frames[step, 0, 0] = next(marks)
    path = tmp_path_factory.mktemp("log")
    directory = write_log(path, episodes, rows, recording=RECORDING)
    known = {index for index in open_log(path).shards if rng.random() < 0.5}
    remove_sidecars(directory, *(open_log(path).shards.keys() - known))
    found = read(path)

    marks_found = [mark for episode in found for mark in episode.frames[:, 0, 0] if mark]
    assert len(marks_found) == len(set(marks_found))  # no step is read twice
    rest = iter(found)
    for episode, stop in zip(episodes, np.cumsum([3 + len(episode) for episode in episodes]), strict=True):
        files = (np.arange(stop - 3 - len(episode), stop) + 1) // rows  # that hold its rows
        if known.issuperset(files.tolist()):
            assert any(same(each, episode) for each in rest)


def drop_episode(index: int) -> Callable[[Any], None]:
    """Return a change of a sidecar that removes one of its episodes."""
    return lambda content: content["episodes"].pop(index)


def set_field(index: int, name: str, value: int) -> Callable[[Any], None]:
    """Return a change of a sidecar that sets a field of one of its episodes."""
    return lambda content: content["episodes"][index].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Buffer 0 holds rows 0 to 28 of the log, which are 7 + 3, 4 + 3, 5 + 3 and some of 9 + 3.
        (drop_episode(0), r"0\.json is damaged .*4 steps.*row 16, but none that ends where this one begins"),
        (drop_episode(1), r"0\.json is damaged .*5 steps.*row 24, but none that ends where this one begins"),
        (drop_episode(2), r"0\.gz, row 17: an episode of 17 steps begins here, but the sidecar .* lists 9 steps"),
        (lambda content: content.update(episodes=[]), r"0\.json is damaged \(row 16 of the buffer is terminal"),
        (set_field(0, "row", 8), r"0\.json is damaged .*row 16, but none that ends where this one begins"),
        (set_field(2, "row", 25), r"0\.json is damaged .*row 25, but none that ends where this one begins"),
        (
            set_field(1, "steps", 3),
            r"0\.json is damaged .*an episode of 3 steps .* row 16, but none that ends where this one begins",
        ),
        (set_field(0, "steps", 0), r"0\.json is damaged .*an episode of 0 steps that ends in row 9"),
        (set_field(0, "steps", 70), r"0\.gz, row 0: an episode of 7 steps begins here, but .* lists 70 steps"),
        (set_field(2, "row", 30), r"0\.json is damaged .*ends in row 30"),
        (set_field(2, "row", -1), r"0\.json is damaged .*ends in row -1"),
    ],
)
def test_a_sidecar_that_contradicts_the_rows_is_refused(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, steps, terminated=steps == 4) for steps in (7, 4, 5, 9, 6)]
    directory = write_log(tmp_path, episodes, 30, recording=RECORDING)
    assert len(read(tmp_path)) == 5
    change_sidecar(directory, 0, change)
    with pytest.raises(ReplayFormatError, match=message):
        read(tmp_path)


def test_padding_that_is_not_zero_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    directory = write_log(tmp_path, [random_episode(rng, 7), random_episode(rng, 7)], 30, recording=RECORDING)
    write_log(tmp_path / "other", [random_episode(rng, 6), random_episode(rng, 8)], 30, recording=RECORDING)
    other = tmp_path / "other" / "Breakout" / "1" / "replay_logs"
    for path in [sidecar_path(directory, 0), *directory.glob("*terminal*"), *directory.glob("*reward*")]:
        path.write_bytes((other / path.name).read_bytes())
    message = r"observation_ckpt\.0\.gz, row 9: an episode should begin with three rows of zeros"
    with pytest.raises(ReplayFormatError, match=message):
        read(tmp_path)


def played(notation: str) -> Episode:
    """Return an episode from a notation with a letter for each step, ``b`` for a blank one and ``x`` for any other.

    A final ``.`` means that the episode is terminated.
    """
    steps = notation.rstrip(".")
    episode = random_episode(np.random.default_rng(0), len(steps), terminated=notation != steps)
    episode.actions[:] = 1
    for step, letter in enumerate(steps):
        if letter == "b":
            episode.frames[step] = episode.actions[step] = episode.rewards[step] = 0
    return dataclasses.replace(episode, raw_rewards=None)


@pytest.mark.parametrize(
    ("episodes", "lengths", "uncertain"),
    [
        # Terminals are certain, and so is the padding after them.
        (["xxx.", "bbbx.", "bbbb.", "xbbx."], [3, 4, 4, 4], [0, 0, 0, 0]),
        # Three blank rows are padding, or a game that fades to black for three steps.
        (["xxx", "xxxx.", "xx."], [3, 4, 2], [1, 0, 0]),
        (["xxbbbx."], [2, 1], [1, 0]),
        # Four are part of the episode, unless a time limit is known.
        (["xxbbbbx."], [7], [1]),
        (["xxx", "bxx."], [3 + 3 + 3], [1]),
        (["xxxxx", "xxxxx", "bxxxx", "bbx."], [5, 5, 5, 3], [1, 1, 1, 0]),
        (["xxxxx", "xxxbb", "x."], [5, 5, 1], [1, 1, 0]),
        # A game that begins with a black frame shows four blank rows at each beginning, certain or not.
        (["bxx", "bxxx.", "bx", "xx", "bxxx."], [3, 4, 2, 2, 4], [1, 0, 1, 1, 0]),
        (["xx.", "bbx.", "xxx", "bx", "bbx."], [2, 3, 3 + 3 + 2, 3], [0, 0, 2, 0]),
        # A truncated episode of black frames may hide in seven blank rows.
        (["xx.", "b", "x."], [2, 1 + 3 + 1], [0, 1]),
        # A longer episode disproves a time limit, but not if it may be several.
        (["xxxxx", "xxxxxxx.", "xxxxx", "bx."], [5, 7, 5 + 3 + 2], [1, 0, 1]),
        (["xxxxx", "bxxxx", "xxxxx", "xxxxx", "bxxx", "x."], [5 + 3 + 5, 5, 5, 4, 1], [2, 1, 1, 1, 0]),
        # Dopamine's time limit, 20 steps here, is certain.
        (["x" * 20, "x.", "x" * 20, "bx."], [20, 1, 20, 2], [0, 0, 0, 0]),
        (["x" * 18 + "bb", "bbx."], [20, 3], [0, 0]),
        (["b" * 20, "x."], [20, 1], [0, 0]),
    ],
)
def test_the_padding_decides_without_sidecars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, episodes: list[str], lengths: list[int], uncertain: list[int]
) -> None:
    monkeypatch.setattr(dopamine_episode_splitter, "DOPAMINE_TIME_LIMIT", 20)
    written = [played(notation) for notation in episodes]
    directory = write_log(tmp_path, written, 200, recording=RECORDING)
    assert all(same(*pair) for pair in zip(read(tmp_path), written, strict=True))  # the sidecar knows better
    remove_sidecars(directory, 0)
    found = read(tmp_path)
    assert [len(episode) for episode in found] == lengths
    assert [episode.num_uncertain_ends for episode in found] == uncertain


def test_later_buffers_know_how_the_first_episode_began(tmp_path: Path) -> None:
    episodes = [played(notation) for notation in ["bxxxxxx"] * 15]
    directory = write_log(tmp_path, episodes, 30, recording=RECORDING)
    remove_sidecars(directory, *open_log(tmp_path).shards)
    found = read(tmp_path)
    assert all(same(*pair) for pair in zip(found, episodes, strict=False))
    assert len(found) == len(episodes) - 1  # zeros follow the last one


def test_a_store_counts_its_uncertain_ends(tmp_path: Path) -> None:
    episodes = [played(notation) for notation in ("xxbbbbx.", "xxx", "xx.", "xxx", "xx.")]
    directory = write_log(tmp_path, episodes, 200, recording=RECORDING)
    recorded = build(tmp_path / "recorded", open_log(tmp_path), "all")
    remove_sidecars(directory, 0)
    foreign = build(tmp_path / "foreign", open_log(tmp_path), "all")
    assert recorded.num_episodes == foreign.num_episodes == 5
    assert recorded.metadata.source.num_uncertain_ends == 0
    assert foreign.metadata.source.num_uncertain_ends == 3
    assert "num_uncertain_ends" not in (tmp_path / "recorded" / "metadata.json").read_text()
