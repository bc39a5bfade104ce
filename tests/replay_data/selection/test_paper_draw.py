"""The paper's draw against the original code's own result, a row-by-row replay of it, and recounts."""

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

from replay_data import InputError, ReplayFormatError
from replay_data.selection import paper_draw
from replay_data.selection.paper_draw import BufferVisits, ShardVisits
from replay_data.sources import dopamine_buffer
from replay_data.sources.rl_unplugged import shard_name
from replay_data.storage.gzip_streams import create_gzip, open_gzip
from tests.conftest import DATA
from tests.replay_data.recordings import (
    build,
    indices_in_truth,
    open_log,
    open_shards,
    random_episode,
    truth,
    write_log,
    write_shard,
)

SMALL_DRAW: dict[str, Any] = {"num_buffers": 5, "num_steps": 8000, "trajectories_per_buffer": 3}


@cache
def columns() -> dict[int, dict[str, npt.NDArray[Any]]]:
    """Return the arrays of the recorded log, by buffer and element."""
    directory = DATA / "dopamine_log" / "Breakout" / "1" / "replay_logs"
    buffers: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for index in range(45, 50):
        buffers[index] = {}
        for element in ("observation", "action", "reward", "terminal"):
            with gzip.open(directory / f"$store$_{element}_ckpt.{index}.gz") as file:
                buffers[index][element] = np.load(file)
    return buffers


@dataclass
class Replay:
    """The result of the original's create_dataset.

    Attributes:
        rows: Buffer and row of each step.
        visits: Buffer, first row and exclusive end row of each visit.
        done: The original's ``done_idxs``.
        rtg: Returns-to-go, float32 ``[N]``.
        timesteps: int64 ``[N + 1]``.
    """

    rows: list[tuple[int, int]]
    visits: list[tuple[int, int, int]]
    done: list[int]
    rtg: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.int64]


def replay_original(
    seed: int, num_buffers: int, num_steps: int, trajectories_per_buffer: int, capacity: int = 6000
) -> Replay:
    """Do what the original's create_dataset does, one row at a time, with its 100,000 rows set to ``capacity``."""
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
            rtg[row] = sum(rewards[row:end])  # IndexError where a dropped visit left an end past the last row
        start = end
    start = 0
    for end in done:
        timesteps[start : end + 1] = np.arange(end + 1 - start)
        start = end + 1
    return Replay(rows, visits, done, rtg, timesteps)


def test_original_equals_the_result_of_the_original_code(tmp_path: Path) -> None:
    store = build(tmp_path / "store", open_log(), "original", seed=123, **SMALL_DRAW)
    with np.load(DATA / "dopamine_log" / "original_selection_seed123.npz") as expected:
        assert np.array_equal(store.actions, expected["actions"])
        assert np.array_equal(store.returns_to_go, expected["rtg"])
        assert np.array_equal(store.timesteps, expected["timesteps"][:-1])
        assert np.array_equal(store.episode_ends, expected["done_idxs"])
        newest = store.frames[store.frame_index].sum(axis=(1, 2), dtype=np.uint64)
        assert np.array_equal(newest, expected["newest_frame_sum"])
        for row, digest in zip(expected["obs_rows"], expected["obs_sha256"], strict=True):
            assert hashlib.sha256(store.state(int(row)).tobytes()).hexdigest() == digest
    store.verify()


# In these draws, visits that reach the last row are dropped and leave their episode ends behind. With the last seed,
# the ends stay in ascending order.
LEFT_BEHIND = (16, 22, 27, 1811433748)


# The last two draws read no further than row 4,000, as the original stops at row 100,000 of 1,000,000.
@pytest.mark.parametrize(
    ("seed", "capacity"), [(seed, 6000) for seed in (0, 1, 2, *LEFT_BEHIND, 231, 312)] + [(1, 4000), (3, 4000)]
)
def test_original_equals_a_replay_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, capacity: int
) -> None:
    monkeypatch.setattr(paper_draw, "PAPER_CAPACITY", capacity)
    store = build(tmp_path / "store", open_log(), "original", seed=seed, **SMALL_DRAW)
    expected = replay_original(seed, **SMALL_DRAW, capacity=capacity)
    buffers = columns()
    assert store.actions.tolist() == [buffers[buffer]["action"][row] for buffer, row in expected.rows]
    assert store.rewards.tolist() == [buffers[buffer]["reward"][row] for buffer, row in expected.rows]
    assert np.array_equal(store.returns_to_go, expected.rtg)
    assert np.array_equal(store.timesteps, expected.timesteps[:-1])
    for step, (buffer, row) in enumerate(expected.rows):
        if step % 37 == 0 or row < 3:
            stack = buffers[buffer]["observation"][np.arange(row - 3, row + 1) % capacity]
            assert np.array_equal(store.state(step), stack)
    ends = [step + 1 for step, (buffer, row) in enumerate(expected.rows) if buffers[buffer]["terminal"][row]]
    assert store.episode_ends.tolist() == ends
    left_behind = ends != expected.done
    assert left_behind == (seed in LEFT_BEHIND)
    assert store.metadata.source.original_done_idxs == (tuple(expected.done) if left_behind else None)


def test_original_refuses_draws_on_which_the_original_code_fails(tmp_path: Path) -> None:
    options = {**SMALL_DRAW, "trajectories_per_buffer": 10}
    failing = 0
    for seed in range(6):
        try:
            replay_original(seed, **options)
        except IndexError:
            failing += 1
            with pytest.raises(InputError, match="the original code ends with an IndexError"):
                build(tmp_path / str(seed), open_log(), "original", seed=seed, **options)
        else:
            build(tmp_path / str(seed), open_log(), "original", seed=seed, **options)
    assert 0 < failing < 6
    with pytest.raises(InputError, match=r"reach only 2\d,\d{3} of 500,000 steps .* `selection` even or all"):
        build(tmp_path / "endless", open_log(), "original", num_buffers=5, trajectories_per_buffer=1)
    with pytest.raises(InputError, match="counts rows of a Dopamine log; use `selection` corrected"):
        build(tmp_path / "shards", open_shards(), "original")
    assert not list(tmp_path.glob("*endless*")) + list(tmp_path.glob("*shards*"))


@pytest.mark.parametrize("seed", [0, 16, 123])
def test_corrected_is_the_same_draw_of_whole_episodes(tmp_path: Path, seed: int) -> None:
    store = build(tmp_path / "store", open_log(), "corrected", seed=seed, **SMALL_DRAW)
    indices = indices_in_truth(store)
    assert len(store) >= SMALL_DRAW["num_steps"]

    # An episode fills three rows of padding and its steps. Link rows hold one of these rows each.
    starts = np.cumsum([0, *(len(episode) + 3 for episode in truth())])
    first_row = {45: 0, 46: 6000, 47: 12_000, 48: 18_000, 49: 24_000}
    expected: list[int] = []
    more = SMALL_DRAW["num_steps"]
    for _ in range(20):  # a larger draw begins with the smaller one
        expected = [
            index
            for buffer, start, stop in replay_original(seed, **{**SMALL_DRAW, "num_steps": more}).visits
            for index in range(len(truth()))
            if starts[index] >= first_row[buffer] + start and starts[index + 1] <= first_row[buffer] + stop
        ]
        if sum(len(truth()[index]) for index in expected) >= SMALL_DRAW["num_steps"]:
            break
        more += 300
    assert indices == expected
    counts = dict.fromkeys(range(45, 50), 0)
    for index in indices:
        counts[int(np.searchsorted(list(first_row.values()), starts[index], side="right")) + 44] += 1
    assert store.metadata.source.episodes_per_shard == {n: count for n, count in counts.items() if count}


def test_corrected_draws_shards_by_the_same_random_numbers(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_steps": 1000, "trajectories_per_buffer": 0}
    store = build(tmp_path / "store", open_shards(), "corrected", seed=5, **options)
    pointers, expected, steps = [0, 6], [], 0
    random = np.random.RandomState(5)
    while steps < 1000:
        shard = int(random.choice(np.arange(2), 1)[0])
        expected.append(pointers[shard])
        steps += len(truth()[pointers[shard]])
        pointers[shard] += 1
    assert indices_in_truth(store) == expected
    with pytest.raises(InputError, match=r"visits of 3 \+ 1 episodes reach only"):
        build(tmp_path / "more", open_shards(), "corrected", trajectories_per_buffer=3)


def test_buffer_visits_end_before_row_100_000_and_at_the_last_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    write_log(tmp_path, [random_episode(rng, 7) for _ in range(10)], 500)
    (buffer,) = open_log(tmp_path).shards.values()
    visits = BufferVisits(buffer)
    assert [len(list(visits.visit(4))) for _ in range(3)] == [4, 4, 0]
    buffer.close()
    # Rows 0 to 39 hold four episodes. The fourth one ends in row 39.
    monkeypatch.setattr(paper_draw, "PAPER_CAPACITY", 40)
    visits = BufferVisits(buffer)
    assert (len(list(visits.visit(3))), visits.exhausted) == (3, False)
    assert (len(list(visits.visit(1))), visits.exhausted) == (0, True)
    buffer.close()


def test_buffer_visits_read_no_further_than_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    directory = write_log(tmp_path, [random_episode(rng, 47) for _ in range(40)], 2001)
    file = directory / "$store$_observation_ckpt.0.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (buffer,) = open_log(tmp_path).shards.values()
    visits = BufferVisits(buffer)
    assert len(list(visits.visit(5))) == len(list(visits.visit(5))) == 5  # the half that is left is enough
    with pytest.raises(ReplayFormatError, match=r"observation_ckpt\.0\.gz is damaged at row \d+ or after"):
        buffer.check()  # a file of few rows is read to its checksum
    monkeypatch.setattr(dopamine_buffer, "CHECKED_ROWS", 2000)
    buffer.close()
    assert len(list(BufferVisits(buffer).visit(10))) == 10
    assert buffer.check() is False
    with pytest.raises(ReplayFormatError, match="cut off"):
        buffer.check(everything=True)
    buffer.close()


def test_shard_visits_count_terminated_episodes_and_stop_at_row_100_000(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 7, terminated=index != 1) for index in range(8)]  # ten rows of a log each
    write_shard(tmp_path / "Breakout" / shard_name(1, 0, 1), episodes)
    (shard,) = open_shards(tmp_path).shards.values()
    visits = ShardVisits(shard)
    assert [len(list(visits.visit(3))) for _ in range(2)] == [4, 3]
    assert not list(visits.visit(3))
    assert visits.exhausted
    shard._records = map(pytest.fail, ["an exhausted shard reads no further"])
    assert not list(visits.visit(1))
    shard.close()
    monkeypatch.setattr(paper_draw, "PAPER_CAPACITY", 70)
    visits = ShardVisits(shard)
    assert [len(list(visits.visit(3))) for _ in range(2)] == [4, 0]


def test_a_visit_of_a_damaged_shard_fails_again(tmp_path: Path) -> None:
    file = tmp_path / "Breakout" / shard_name(1, 0, 1)
    write_shard(file, [random_episode(np.random.default_rng(0), 5)])
    with open_gzip(file) as stream:
        content = stream.read()
    with create_gzip(file) as stream:
        stream.write(content + content[:-1] + b"?" + content)
    (shard,) = open_shards(tmp_path).shards.values()
    visits = ShardVisits(shard)
    assert len(list(visits.visit(1))) == 1
    for _ in range(2):
        with pytest.raises(ReplayFormatError, match="damaged at record 1"):
            list(visits.visit(1))
    assert shard.check()
    with pytest.raises(ReplayFormatError, match="damaged at record 1"):
        shard.check(everything=True)
