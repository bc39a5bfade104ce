"""Dopamine logs: read what Dopamine wrote, write what its circular buffer holds, and refuse damaged files."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replay_data import InputError, ReplayFormatError
from replay_data.episode import Episode
from replay_data.sources import dopamine_episode_splitter, dopamine_rows
from replay_data.sources.dopamine_format import ELEMENTS
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_writer import DopamineLogWriter
from tests.conftest import DATA
from tests.replay_data.recordings import (
    attempt,
    circular_memory,
    damaged,
    open_log,
    random_episode,
    same,
    truth,
    write_log,
)


def read(path: Path) -> list[Episode]:
    """Return every whole episode of a log, and compare all checksums."""
    episodes = []
    for buffer in open_log(path).shards.values():
        episodes += list(buffer.episodes())
        buffer.check()
        buffer.close()
    return episodes


def copy_log(path: Path) -> Path:
    """Copy the recorded log and return the copy's ``replay_logs`` directory."""
    shutil.copytree(DATA / "dopamine_log" / "Breakout", path / "Breakout")
    return path / "Breakout" / "1" / "replay_logs"


def rewrite(directory: Path, element: str, array: Any) -> None:
    """Replace one file of buffer 46."""
    with gzip.open(directory / f"{element}_ckpt.46.gz", "wb") as file:
        np.save(file, array)


def test_a_log_that_dopamine_wrote_is_read() -> None:
    log = open_log()
    assert list(log.shards) == [45, 46, 47, 48, 49]
    assert [buffer.fresh for buffer in log.shards.values()] == [5999] * 5
    episodes = read(DATA / "dopamine_log")
    assert len(episodes) == len(truth()) == 55
    assert all(same(episode, played) for episode, played in zip(episodes, truth(), strict=True))


def test_an_episode_continues_only_in_the_next_buffer(tmp_path: Path) -> None:
    directory = copy_log(tmp_path)
    for file in directory.glob("*.47.gz"):
        file.unlink()
    played = truth()
    # Buffer 46 ends, and buffer 48 begins, in an episode that continues in buffer 47.
    starts = np.cumsum([0, *(len(episode) + 3 for episode in played)])
    kept = [
        episode
        for episode, start, end in zip(played, starts[:-1], starts[1:], strict=True)
        if end <= 11_999 or start >= 18_000 - 1
    ]
    episodes = read(tmp_path)
    assert len(episodes) == len(kept) < 55
    assert all(same(episode, other) for episode, other in zip(episodes, kept, strict=True))


@pytest.mark.parametrize("add_count", [None, 12_000])
def test_a_log_without_add_counts_is_read_as_a_public_one(tmp_path: Path, add_count: int | None) -> None:
    directory = copy_log(tmp_path)
    for count in directory.glob("add_count*"):
        count.unlink()
    if add_count is None:
        assert len(read(tmp_path)) == 55
    else:  # a count that contradicts its neighbors: all rows are fresh, and no episode continues
        rewrite(directory, "add_count", np.array(add_count))
        assert len(read(tmp_path)) < 55


def load(directory: Path, name: str, index: int) -> Any:
    """Return the array in a file of buffer ``index``."""
    with gzip.open(directory / f"{name}_ckpt.{index}.gz") as file:
        return np.load(file)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), min_size=1, max_size=14),
    rows=st.integers(5, 30),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@example(  # the last episode begins with the first row of a buffer, and is no longer than the first one's blank rows
    lengths=[(2, False, True), (1, False, False), (1, False, False), (8, False, False), (1, True, False)],
    rows=6,
    chunk=1,
    seed=0,
)
def test_a_written_log_is_a_circular_memory_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[tuple[int, bool, bool]], rows: int, chunk: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    episodes = [random_episode(rng, steps, terminated=terminated) for steps, terminated, _ in lengths]
    for index, (_, _, black) in enumerate(lengths):
        # A first step that looks like one more padding row.
        if black and (index == 0 or episodes[index - 1].terminated):
            episodes[index].frames[0] = episodes[index].actions[0] = episodes[index].rewards[0] = 0
            if not episodes[index].terminated:  # it must not touch the padding that shows the truncation
                episodes[index].actions[-1] = 1
    path = tmp_path_factory.mktemp("log")
    directory = write_log(path, episodes, rows)

    # The end of a truncated last episode is unknown: the padding of a next episode never came.
    whole = episodes if episodes[-1].terminated else episodes[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dopamine_rows, "CHUNK_ROWS", chunk)
        found = read(path)
    assert [len(episode) for episode in found] == [len(episode) for episode in whole]
    assert all(same(episode, played) for episode, played in zip(found, whole, strict=True))

    indices = list(open_log(path).shards)
    if len(indices) > 1:  # without one of the buffers: fewer episodes, each of them whole and only once
        removed = tmp_path_factory.mktemp("removed")
        shutil.copytree(path / "Breakout", removed / "Breakout")
        for file in (removed / "Breakout" / "1" / "replay_logs").glob(f"*.{rng.choice(indices)}.gz"):
            file.unlink()
        rest = iter(whole)
        assert all(any(same(episode, played) for played in rest) for episode in read(removed))

    saved = list(circular_memory(episodes, rows))
    added = int(saved[-1]["add_count"])
    saved = saved[: -1 if added % rows == rows - 1 else None]
    names = ["$store$_observation", "$store$_action", "$store$_reward", "$store$_terminal", "add_count"]
    for index, expected in enumerate(saved):
        arrays = {name: load(directory, name, index) for name in names}
        cursor = int(arrays["add_count"]) % rows
        if index < len(saved) - 1 or added % rows:
            assert arrays["add_count"] == expected["add_count"]
        fresh = [*range(cursor), rows - 1] if index else [*range(cursor)]  # and the link row
        for name in names[:-1]:
            memory = expected[name.removeprefix("$store$_")]
            assert arrays[name].dtype == memory.dtype
            assert arrays[name].shape == memory.shape
            if index < len(saved) - 1 or added % rows:
                assert np.array_equal(arrays[name][fresh], memory[fresh]), (name, index)
        invalid = load(directory, "invalid_range", index)
        assert invalid.tolist() == [(cursor - 1 + offset) % rows for offset in range(5)]
    assert not list(directory.glob(".*"))


def test_black_frames_are_steps_unless_they_are_padding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 20, terminated=index != 2) for index in range(5)]
    for index, num_black in enumerate((2, 4, 8, 1, 0)):  # the game fades to black, and the player does nothing
        black = slice(10, 10 + num_black)
        episodes[index].frames[black] = 0
        episodes[index].actions[black] = 0
        episodes[index].rewards[black] = 0
    episodes[3].frames[0] = episodes[3].actions[0] = episodes[3].rewards[0] = 0  # after a truncated one
    write_log(tmp_path, episodes, 1000)
    found = read(tmp_path)
    # Four black rows after a truncated episode cannot be told from a game that fades to black. No padding is found.
    assert [len(episode) for episode in found] == [20, 20, 20 + 3 + 20, 20]
    episodes[3].actions[0] = 1
    write_log(tmp_path / "other", episodes, 1000)
    assert [len(episode) for episode in read(tmp_path / "other")] == [20] * 5


def test_more_than_fifty_buffers_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 3) for _ in range(61)]
    write_log(tmp_path, episodes, 6)
    log = open_log(tmp_path)
    assert log.num_shards == len(log.shards) > 60
    assert len(read(tmp_path)) == 61


def test_reading_continues_at_any_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 7) for _ in range(10)]
    write_log(tmp_path, episodes, 500)
    (buffer,) = open_log(tmp_path).shards.values()
    assert buffer.terminal_rows(500).tolist() == list(range(9, 100, 10))
    rewards = np.concatenate([[0, 0, 0, *episode.rewards] for episode in episodes])
    assert np.array_equal(buffer.rewards(100), rewards)

    assert not list(buffer.episodes_to(9))  # the first episode ends with row 9
    found = list(buffer.episodes_to(20))
    assert buffer.position == 20
    found += buffer.episodes_to(35)
    assert len(found) == 3
    found += buffer.episodes_to(100)
    assert all(same(*pair) for pair in zip(found, episodes, strict=True))

    buffer.close()
    assert buffer.position == 0
    rows = [buffer.read_to(4), buffer.read_to(33)]
    assert [each.first_row for each in rows] == [0, 4]
    assert np.array_equal(np.concatenate([each.rewards for each in rows]), rewards[:33])
    assert np.array_equal(buffer.frames(30, 34)[3:], episodes[3].frames[:1])  # wherever the reader stands
    assert buffer.position == 33
    buffer.close()


def test_damage_is_named_or_harmless(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    episodes = [random_episode(rng, int(steps)) for steps in rng.integers(3, 20, size=12)]
    for episode in episodes:
        episode.frames[:, 4:] = 7  # small files are quick to read
    directory = write_log(tmp_path, episodes, 60)
    files = sorted(file for file in directory.iterdir() if "invalid_range" not in file.name)
    assert len(files) == 15
    refused = 0
    for _ in range(400):
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        file.write_bytes(damaged(content, rng))
        found, error = attempt(lambda: read(tmp_path))
        file.write_bytes(content)
        if error is not None:
            assert str(directory) in str(error)
            refused += 1
        else:
            assert len(found) == len(episodes)
            assert all(same(episode, played) for episode, played in zip(found, episodes, strict=True))
    assert 250 < refused < 400


@pytest.mark.parametrize(
    ("element", "array", "message"),
    [
        ("$store$_action", np.zeros((6000, 1)), r"action_ckpt\.46\.gz holds float64 \[6000, 1\].* int32 \[R\]"),
        ("$store$_action", np.zeros(6000, complex), r"no valid header .* '<c16'.*save its array as int32 \[R\]"),
        ("$store$_observation", np.zeros((9, 84, 80), np.uint8), r"uint8 \[9, 84, 80\].* uint8 \[R, 84, 84\]"),
        ("$store$_observation", np.zeros((84, 84, 3), np.uint8).T, "it is in Fortran order"),
        ("$store$_reward", np.zeros(5999, np.float32), r"reward_ckpt\.46\.gz has 5999 rows, but .* has 6000"),
        ("$store$_observation", np.zeros((0, 84, 84), np.uint8), "has 0 rows; a buffer has 5 to"),
        ("$store$_observation", np.zeros((4, 84, 84), np.uint8), "has 4 rows; a buffer has 5 to"),
        ("$store$_action", np.full(6000, 4, np.int32), r"action_ckpt\.46\.gz, row 5999: action 4 is not below 4"),
        ("$store$_action", np.full(6000, -1, np.int32), "action -1 is not below 4"),
        ("$store$_reward", np.full(6000, 7, np.float32), "reward 7 is not from -1 to 1"),
        ("$store$_reward", np.full(6000, np.nan, np.float32), "reward nan is not from -1 to 1"),
        ("$store$_terminal", np.full(6000, 2, np.uint8), "row 5999: terminal 2 is not 0 or 1"),
        ("$store$_terminal", np.ones(6000, np.uint8), "row 0: an episode should begin with three rows of zeros"),
        ("add_count", np.zeros(3), "add_count_ckpt.46.gz is damaged .it holds float64"),
        ("add_count", np.array({"a": 1}, dtype=object), r"add_count_ckpt\.46\.gz is damaged"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path: Path, element: str, array: Any, message: str) -> None:
    rewrite(copy_log(tmp_path), element, array)
    with pytest.raises(ReplayFormatError, match=message):
        read(tmp_path)


def test_missing_directories_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayFormatError, match=r"no directory .*nowhere"):
        read(tmp_path / "nowhere")
    with pytest.raises(ReplayFormatError, match=r"no Breakout in .*it is empty"):
        read(tmp_path)
    directory = tmp_path / "breakout" / "1" / "replay_logs"
    directory.mkdir(parents=True)
    with pytest.raises(ReplayFormatError, match=r"no Breakout in .*; rename breakout to Breakout"):
        read(tmp_path)
    (tmp_path / "breakout").rename(tmp_path / "Breakout")
    directory = tmp_path / "Breakout" / "1" / "replay_logs"
    with pytest.raises(ReplayFormatError, match=r"holds no replay log"):
        read(tmp_path)
    (directory / "$store$_action_ckpt.03.gz").touch()  # no index of a buffer
    with pytest.raises(ReplayFormatError, match="holds no replay log"):
        read(tmp_path)
    (directory / "$store$_action_ckpt.3.gz").touch()
    with pytest.raises(ReplayFormatError, match=r"\$store\$_observation_ckpt\.3\.gz is missing"):
        read(tmp_path)
    with pytest.raises(ReplayFormatError, match=rf"there is no run 2 in {tmp_path / 'Breakout'}; set `run` to 1$"):
        DopamineLog(tmp_path, "Breakout", 2, 4)
    (tmp_path / "Breakout" / "12" / "replay_logs").mkdir(parents=True)
    (tmp_path / "Breakout" / "3" / "0").mkdir(parents=True)  # in d4rl-atari's layout
    (tmp_path / "Breakout" / "3" / "0" / "observation.gz").touch()
    (tmp_path / "Breakout" / "4").mkdir()
    with pytest.raises(ReplayFormatError, match=r"no run 2 in .*; set `run` to one of 1, 3, 12$"):
        DopamineLog(tmp_path, "Breakout", 2, 4)
    (tmp_path / "Breakout" / "2").touch()
    with pytest.raises(ReplayFormatError, match="2 is a file, not a directory"):
        DopamineLog(tmp_path, "Breakout", 2, 4)
    with pytest.raises(ReplayFormatError, match="2 is a file, not a directory; give the directory that holds"):
        DopamineLog(tmp_path / "Breakout" / "2", "Breakout", 1, 4)
    with pytest.raises(ReplayFormatError, match=rf"no Breakout in .*; set `path` to {tmp_path}, which holds it"):
        read(directory)
    with pytest.raises(ReplayFormatError, match="holds episode shards; read them with `source` rl_unplugged"):
        read(DATA / "rl_unplugged")


def test_a_log_without_episode_ends_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dopamine_episode_splitter, "MAX_EPISODE_ROWS", 100)
    monkeypatch.setattr(dopamine_rows, "CHUNK_ROWS", 40)
    write_log(tmp_path, [random_episode(np.random.default_rng(0), 300)], 1000)
    with pytest.raises(ReplayFormatError, match="no episode has ended for 100 rows"):
        read(tmp_path)


def test_the_writer_refuses_invalid_arrays_and_leaves_complete_buffers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 10) for _ in range(5)]
    with pytest.raises(InputError, match="at least 5 rows"):
        write_log(tmp_path, episodes, 4)
    writer = DopamineLogWriter(tmp_path / "log", 20)
    for episode in episodes:
        writer.append(episode.frames, episode.actions, episode.rewards, terminated=True)
    writer.__exit__(RuntimeError, RuntimeError("power cut"), None)
    assert sorted(file.name for file in (tmp_path / "log").iterdir()) == sorted(
        f"{name}_ckpt.{index}.gz"
        for name in (*(f"$store$_{element}" for element in ELEMENTS), "add_count", "invalid_range")
        for index in range(3)  # of 65 rows
    )
    with pytest.raises(InputError, match="holds a replay log already"):
        DopamineLogWriter(tmp_path / "log", 20)
    with DopamineLogWriter(tmp_path / "new", 20) as writer:
        episode = episodes[0]
        with pytest.raises(InputError, match="10 actions need as many"):
            writer.append(episode.frames[:9], episode.actions, episode.rewards, terminated=True)
        with pytest.raises(InputError, match="integer actions from 0 to 17"):
            writer.append(episode.frames, episode.actions + 18, episode.rewards, terminated=True)
        with pytest.raises(InputError, match="clipped"):
            writer.append(episode.frames, episode.actions, episode.rewards * 5, terminated=True)
        assert writer.add_count == 0
    assert not (tmp_path / "new").exists()
