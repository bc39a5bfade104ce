"""The paper's draw of episodes: buffer visits (Chen et al. 2021, create_dataset.py).

The original code draws a random buffer again and again, and *visits* it: it reads on from the row where the last visit
of that buffer ended, until it has passed ``trajectories_per_buffer + 1`` terminals. It sees 100,000 rows of a buffer; a
visit that reaches the last of them is dropped, and the buffer is *exhausted*.

- `draw_visits` makes this draw and yields the whole episodes of each visit (the method ``corrected``).
- `write_original` writes the rows that the original code loads, its deviations included (the method ``original``;
  docs/protocol.md lists the deviations).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from replay_data.episode import LEAD_IN, Episode, Shard
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.selection.episodes import TaggedEpisode, tag_episodes
from replay_data.selection.methods import Selection
from replay_data.sources.dopamine_buffer import LogBuffer
from replay_data.sources.dopamine_format import PADDING
from replay_data.sources.dopamine_rows import Rows
from replay_data.sources.rl_unplugged import RLUnpluggedShard
from replay_data.sources.rl_unplugged_record import ShardRecord
from replay_data.storage.workers import Job, run_in_order
from replay_data.store_writer import StoreWriter

PAPER_CAPACITY = 100_000  # rows of a buffer that the original code sees (its replay_capacity)


def capacity(buffer: LogBuffer) -> int:
    """Return the number of rows of a buffer that the original code sees."""
    return min(PAPER_CAPACITY, buffer.rows)


def visit_ends(
    terminals: npt.NDArray[np.int64], start: int, num_ends: int, capacity: int
) -> tuple[npt.NDArray[np.int64], bool]:
    """Return where the episodes of a buffer visit end.

    Args:
        terminals: Rows of the buffer that are terminal, int64 ``[T]``, ascending.
        start: First row of the visit.
        num_ends: Number of terminals that the visit passes.
        capacity: Number of rows of the buffer that the original code sees.

    Returns:
        The exclusive end row of each terminated episode, int64 ``[num_ends]``, or fewer if there are fewer; and whether
        the visit is made, that is, has all its ends and does not reach the last row that the original code sees.
    """
    ends = terminals + 1
    ends = ends[ends > start][:num_ends]
    return ends, len(ends) == num_ends and bool(ends[-1] < capacity)


class _Visits(Protocol):
    """The buffer visits of one shard."""

    exhausted: bool
    """Whether no further visit of the shard is made."""

    def visit(self, num_ends: int) -> Iterator[Episode]:
        """Make the next visit, of ``num_ends`` terminated episodes, and yield its whole episodes."""


class BufferVisits:
    """The buffer visits of one buffer of a Dopamine log."""

    def __init__(self, buffer: LogBuffer):
        self.exhausted = False
        self._buffer = buffer

    def visit(self, num_ends: int) -> Iterator[Episode]:
        """Yield the whole episodes among the rows up to the next ``num_ends`` terminals.

        The first visit begins at row 0, most often in the middle of an episode, which is left out.
        """
        if self.exhausted:
            return
        terminals, start = self._buffer.terminal_positions(capacity(self._buffer)), self._buffer.position
        ends, made = visit_ends(terminals, start, num_ends, capacity(self._buffer))
        if not made:
            self.exhausted = True
            return
        yield from self._buffer.episodes_to(int(ends[-1]))


class ShardVisits:
    """The buffer visits of one RL Unplugged shard, whose rows are counted as if it were a buffer of a log."""

    def __init__(self, shard: RLUnpluggedShard):
        self.exhausted = False
        self._shard = shard
        self._rows = 0  # of a log that held the records read so far

    def visit(self, num_ends: int) -> Iterator[Episode]:
        """Yield the episodes up to the next ``num_ends`` terminated ones."""
        if self.exhausted:
            return
        records: list[ShardRecord] = []
        while num_ends:
            record = self._shard.read_record()
            if record is not None:
                self._rows += PADDING + len(record)
            if record is None or self._rows >= PAPER_CAPACITY:
                self.exhausted = True
                return
            records.append(record)
            num_ends -= record.terminated
        for record in records:
            yield self._shard.decode(record)


def _visits_of(shard: Shard) -> _Visits:
    if isinstance(shard, LogBuffer):
        return BufferVisits(shard)
    if isinstance(shard, RLUnpluggedShard):
        return ShardVisits(shard)
    raise InputError("this source format has no buffer visits; use `selection` even, top, return_range or all")


def draw_visits(shards: Mapping[int, Shard], indices: range, selection: Selection) -> Iterator[Job[TaggedEpisode]]:
    """Yield buffer visits of randomly drawn shards, until all shards are exhausted.

    Args:
        shards: The shards that are present, by index.
        indices: Indices to draw from; drawing a missing shard yields nothing.
        selection: Seed of the draw and size of a visit.
    """
    random = np.random.RandomState(selection.seed)  # the generator behind np.random.seed and np.random.choice
    visits = {index: _visits_of(shard) for index, shard in shards.items()}
    while not all(each.exhausted for each in visits.values()):
        index = int(random.choice(indices, 1)[0])
        if index in visits:
            episodes = partial(visits[index].visit, selection.trajectories_per_buffer + 1)
            yield Job(index, partial(tag_episodes, index, episodes))


def too_few_steps_error(steps: int, selection: Selection) -> InputError:
    """Return the error to raise if all shards are exhausted after ``steps`` steps."""
    return InputError(
        f"visits of {selection.trajectories_per_buffer} + 1 episodes reach only {steps:,} of {selection.num_steps:,} "
        "steps in the buffers or shards that are present; lower `num_steps` or `trajectories_per_buffer`, or use "
        "`selection` even or all"
    )


@dataclass(frozen=True)
class _OriginalPlan:
    """What the original code's create_dataset returns for N rows, without their frames and actions.

    Attributes:
        visits: Index of the buffer, first row, and exclusive end row of each episode, of each visit.
        returns_to_go: float32 ``[N]``.
        timesteps: int64 ``[N + 1]``.
        done_idxs: int64, the ends of the episodes, and among them the ends that dropped visits left behind.
    """

    visits: list[tuple[int, int, list[int]]]
    returns_to_go: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.int64]
    done_idxs: npt.NDArray[np.int64]


def _plan_original(buffers: Mapping[int, LogBuffer], indices: range, selection: Selection) -> _OriginalPlan:
    """Replay the original code's draw on the terminals and rewards alone (its create_dataset.py)."""
    random = np.random.RandomState(selection.seed)
    next_rows = dict.fromkeys(buffers, 0)
    exhausted: set[int] = set()
    visits: list[tuple[int, int, list[int]]] = []
    done_idxs: list[int] = []
    steps = 0
    while steps < selection.num_steps:
        if len(exhausted) == len(buffers):  # the original code would draw forever
            raise too_few_steps_error(steps, selection)
        index = int(random.choice(indices, 1)[0])
        if index not in buffers:
            continue
        buffer, start = buffers[index], next_rows[index]
        terminals = buffer.terminal_rows(capacity(buffer))
        ends, made = visit_ends(terminals, start, selection.trajectories_per_buffer + 1, capacity(buffer))
        done_idxs.extend((ends - start + steps).tolist())
        if not made:
            exhausted.add(index)  # the rows of this visit are dropped, but its episode ends stay in done_idxs
            continue
        visits.append((index, start, ends.tolist()))
        next_rows[index] = int(ends[-1])
        steps += int(ends[-1]) - start
    if max(done_idxs) > steps:
        raise InputError(
            f"the original code ends with an IndexError on this draw (a visit that it dropped left an episode end at "
            f"{max(done_idxs):,} of {steps:,} steps); use another `seed`, or `selection` corrected"
        )
    columns = {index: buffers[index].rewards(end) for index, end in next_rows.items() if end}
    rewards = np.concatenate([columns[index][start : ends[-1]] for index, start, ends in visits])
    return _OriginalPlan(
        visits, _original_returns_to_go(rewards, done_idxs), _original_timesteps(steps, done_idxs), np.array(done_idxs)
    )


def _original_returns_to_go(rewards: npt.NDArray[np.float32], done_idxs: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the sums of the rewards up to the next done index; skip an index that is not above the one before it."""
    returns_to_go = np.zeros(len(rewards), dtype=np.float32)
    start = 0
    for end in done_idxs:
        if start < end:
            returns_to_go[start:end] = np.cumsum(rewards[start:end][::-1], dtype=np.float64)[::-1]
        start = end
    return returns_to_go


def _original_timesteps(steps: int, done_idxs: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the original's timesteps, which start one step late from the second episode on."""
    timesteps = np.zeros(steps + 1, dtype=np.int64)
    start = 0
    for end in done_idxs:
        if start <= end:
            timesteps[start : end + 1] = np.arange(end + 1 - start)
        start = end + 1
    return timesteps


class _StackedRowReader:
    """Reads the visits of one buffer with the three frames before each episode, as the original code stacks them.

    The original code reads a buffer into a circular memory of 100,000 rows: the frames before row 0 are the last three
    of these.
    """

    def __init__(self, buffer: LogBuffer):
        self._buffer = buffer
        self._lead_in: npt.NDArray[np.uint8] | None = None  # the three frames before the next row

    def read(self, start: int, ends: Sequence[int]) -> Iterator[tuple[npt.NDArray[np.uint8], Rows]]:
        """Yield rows ``start:ends[0]``, ``ends[0]:ends[1]``, …, and the frames before each, uint8 ``[3, 84, 84]``.

        ``start`` is where the last call ended.
        """
        if self._buffer.position != start:
            raise ValueError(f"rows are read up to {self._buffer.position}, not to {start}")
        if self._lead_in is None:
            self._lead_in = self._buffer.frames(capacity(self._buffer) - LEAD_IN, capacity(self._buffer))
        for end in ends:
            rows = self._buffer.read_to(end)
            yield self._lead_in, rows
            self._lead_in = np.concatenate([self._lead_in, rows.frames[-LEAD_IN:]])[-LEAD_IN:]


def write_original(
    writer: StoreWriter,
    buffers: Mapping[int, LogBuffer],
    indices: range,
    selection: Selection,
    num_workers: int,
    bar: ProgressBar,
) -> Counter[int]:
    """Append what the original code's create_dataset returns.

    Its episodes end at terminals, so each of them is terminated. An episode that a time limit truncated is the first
    part of the next one.

    Args:
        writer: Writer of the store.
        buffers: The buffers that are present, by index.
        indices: Indices to draw from.
        selection: Options of the draw.
        num_workers: Number of threads that read.
        bar: Progress bar in steps.

    Returns:
        Number of episodes from each buffer.

    Raises:
        InputError: If the buffers do not hold enough steps, or the original code fails on this draw.
    """
    plan = _plan_original(buffers, indices, selection)
    readers = {index: _StackedRowReader(buffer) for index, buffer in buffers.items()}
    jobs = (Job(index, partial(readers[index].read, start, ends)) for index, start, ends in plan.visits)
    episode_buffers = [index for index, _, ends in plan.visits for _ in ends]
    counts: Counter[int] = Counter()
    episode_ends: list[int] = []
    with closing(run_in_order(jobs, num_workers)) as episodes:
        for index, (lead_in, rows) in zip(episode_buffers, episodes, strict=True):
            steps = slice(writer.steps, writer.steps + len(rows))
            writer.append(
                rows.frames,
                rows.actions,
                rows.rewards,
                terminated=True,
                lead_in=lead_in,
                timesteps=plan.timesteps[steps],
                returns_to_go=plan.returns_to_go[steps],
                ram=rows.ram,
            )
            counts[index] += 1
            episode_ends.append(writer.steps)
            bar.update(len(rows))
    if not np.array_equal(plan.done_idxs, episode_ends):
        writer.source = dataclasses.replace(writer.source, original_done_idxs=tuple(plan.done_idxs.tolist()))
    return counts
