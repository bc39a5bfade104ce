"""The paper's draw of episodes: random buffers, visited again and again."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from replay_data.episode import LEAD_IN, Shard
from replay_data.errors import InputError
from replay_data.selection.episodes import Bar, Selection, TaggedEpisode, tag_episodes
from replay_data.sources.dopamine_reader import LogBuffer
from replay_data.storage.workers import Job, run_in_order
from replay_data.store_writer import StoreWriter


def draw_visits(parts: Mapping[int, Shard], numbers: range, selection: Selection) -> Iterator[Job[TaggedEpisode]]:
    """The paper's draw of parts: a random one again and again, each time from where its last visit ended.

    As in the original code a visit passes ``trajectories_per_buffer + 1`` ends of games, and one that would reach row
    100,000 is not made; a part that is not there is drawn in vain.
    """
    random = np.random.RandomState(selection.seed)  # the generator that np.random.seed and np.random.choice use
    while not all(part.exhausted for part in parts.values()):
        number = int(random.choice(numbers, 1)[0])
        if number in parts:
            episodes = partial(parts[number].visit, selection.trajectories_per_buffer + 1)
            yield Job(number, partial(tag_episodes, number, episodes))


def too_few_steps(steps: int, selection: Selection) -> InputError:
    return InputError(
        f"visits of {selection.trajectories_per_buffer} + 1 episodes reach only {steps:,} of {selection.num_steps:,} "
        "steps in the buffers or shards that are there; ask for fewer --num-steps or --trajectories-per-buffer, or use "
        "--selection even or all"
    )


@dataclass(frozen=True)
class _OriginalPlan:
    """What the original code's create_dataset returns, frames aside; N rows.

    Attributes:
        visits: number of the buffer, first row, and exclusive end row of each of its episodes.
        returns_to_go: float32 ``[N]``.
        timesteps: int64 ``[N + 1]``.
        done_idxs: int64; the ends of episodes, and among them those that visits left behind which were given up.
    """

    visits: list[tuple[int, int, list[int]]]
    returns_to_go: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.int64]
    done_idxs: npt.NDArray[np.int64]


def _plan_original(parts: Mapping[int, LogBuffer], numbers: range, selection: Selection) -> _OriginalPlan:
    """Replay the original code's draw on the terminals and rewards alone (its create_dataset.py)."""
    random = np.random.RandomState(selection.seed)
    pointers = dict.fromkeys(parts, 0)
    exhausted: set[int] = set()
    visits: list[tuple[int, int, list[int]]] = []
    done: list[int] = []
    steps = 0
    while steps < selection.num_steps:
        if len(exhausted) == len(parts):  # the original would draw for ever
            raise too_few_steps(steps, selection)
        number = int(random.choice(numbers, 1)[0])
        if number not in parts:
            continue
        buffer, start = parts[number], pointers[number]
        ends, made = buffer.visit_ends(start, selection.trajectories_per_buffer + 1, buffer.capacity)
        done.extend((ends - start + steps).tolist())
        if not made:
            exhausted.add(number)  # the rows of this visit are dropped, but its episode ends stay in done_idxs
            continue
        visits.append((number, start, ends.tolist()))
        pointers[number] = int(ends[-1])
        steps += int(ends[-1]) - start
    if max(done) > steps:
        raise InputError(
            f"the original code ends with an IndexError on this draw (a visit that it gave up left an episode end at "
            f"{max(done):,} of {steps:,} steps); take another --seed, or --selection corrected"
        )
    columns = {number: parts[number].rewards(end) for number, end in pointers.items() if end}
    rewards = np.concatenate([columns[number][start : ends[-1]] for number, start, ends in visits])
    returns_to_go = np.zeros(steps, dtype=np.float32)
    timesteps = np.zeros(steps + 1, dtype=np.int64)
    start = 0
    for end in done:
        if start < end:
            returns_to_go[start:end] = np.cumsum(rewards[start:end][::-1], dtype=np.float64)[::-1]
        start = end
    start = 0
    for end in done:
        if start <= end:
            timesteps[start : end + 1] = np.arange(end + 1 - start)
        start = end + 1
    return _OriginalPlan(visits, returns_to_go, timesteps, np.array(done))


def write_original(
    writer: StoreWriter,
    parts: Mapping[int, LogBuffer],
    numbers: range,
    selection: Selection,
    num_workers: int,
    bar: Bar,
) -> Counter[int]:
    """Append what the original code's create_dataset returns; return how many episodes came from each buffer."""
    plan = _plan_original(parts, numbers, selection)
    counts: Counter[int] = Counter()
    jobs = (Job(number, partial(parts[number].stacked_frames, start, stops)) for number, start, stops in plan.visits)
    episodes = [number for number, _, stops in plan.visits for _ in stops]
    ends: list[int] = []
    with closing(run_in_order(jobs, num_workers)) as found:
        for number, (frames, actions, rewards) in zip(episodes, found, strict=True):
            steps = slice(writer.steps, writer.steps + len(actions))
            writer.append(
                frames[LEAD_IN:],
                actions,
                rewards,
                terminated=True,
                lead_in=frames[:LEAD_IN],
                timesteps=plan.timesteps[steps],
                returns_to_go=plan.returns_to_go[steps],
            )
            counts[number] += 1
            ends.append(writer.steps)
            bar.update(len(actions))
    if not np.array_equal(plan.done_idxs, ends):
        writer.source = dataclasses.replace(writer.source, original_done_idxs=tuple(plan.done_idxs.tolist()))
    return counts
