"""Build a trajectory store from a source and a selection."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from replay_data.episode import FRAME_SHAPE, EpisodeSource, Shard
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.selection.episodes import (
    OPTIONS,
    Bar,
    Selection,
    TaggedEpisode,
    first_episodes,
    format_ranges,
    rank_episodes,
    tag_episodes,
)
from replay_data.selection.paper_draw import draw_visits, too_few_steps, write_original
from replay_data.sources.dopamine_reader import LogBuffer
from replay_data.storage.paths import check_free_space
from replay_data.storage.processes import available_cores
from replay_data.storage.workers import Job, run_in_order
from replay_data.store_metadata import StoreSource
from replay_data.store_writer import StoreWriter
from replay_data.trajectory_store import TrajectoryStore

STICKY_ACTIONS = 0.25  # of the DQN-replay experience (Agarwal et al. 2020), which both sources hold

_MOST_WORKERS = 8  # threads unless more are asked for; each holds a few episodes


def build_store(
    out: Path,
    source: EpisodeSource,
    selection: Selection,
    *,
    game: str,
    action_meanings: Sequence[str],
    about: StoreSource,
    num_workers: int | None = None,
    verify: bool = False,
    show_progress: bool = True,
) -> TrajectoryStore:
    """Write the selected episodes of a recorded run to a store.

    Args:
        out: directory of the store, to be created.
        source: the run.
        selection: which episodes.
        game: name of the game, such as ``"Breakout"``.
        action_meanings: name of each action.
        about: what else the store's metadata should say of its source.
        num_workers: threads that read, each a file; by default one per core, at most 8. The store is the same for
            any number.
        verify: read every file that was used to its end, so that all checksums are compared. Otherwise those of the
            frames are not, where a selection needs only the first rows of long files (``source.verified``).
        show_progress: whether to show a progress bar.

    Returns:
        The store. Its metadata says how many episodes came from each part (``source.episodes_per_part``), and whether
        checksums vouch for all of them (``source.verified``).

    Raises:
        ReplayFormatError: if the recorded data is damaged.
        InputError: if ``out`` exists, or the run does not hold what is selected.
    """
    num_workers = min(available_cores(), _MOST_WORKERS) if num_workers is None else num_workers
    if num_workers < 1:
        raise InputError(f"--num-workers is {num_workers}; it must be at least 1")
    num_buffers = min(selection.num_buffers or source.num_shards, source.num_shards)
    numbers = range(source.num_shards - num_buffers, source.num_shards)
    parts = {number: source.shards[number] for number in sorted(source.shards) if number in numbers}
    if not parts:
        raise InputError(
            f"the run has only {format_ranges(source.shards)}, but the last {num_buffers} of {source.num_shards} are "
            f"{format_ranges(numbers)}; raise --num-buffers"
        )
    recording = source.recording
    writer = StoreWriter(
        out,
        game=game,
        action_meanings=action_meanings,
        reward_clipping=True,
        sticky_actions=STICKY_ACTIONS if recording is None else recording.sticky_actions,
        source=dataclasses.replace(about, recording=recording, selection=selection.described()),
    )
    steps = selection.num_steps if "num_steps" in OPTIONS[selection.method] else None
    check_free_space(out, (steps or 0) * FRAME_SHAPE[0] * FRAME_SHAPE[1])
    buffers = {number: part for number, part in parts.items() if isinstance(part, LogBuffer)}
    if selection.method == "original" and len(buffers) < len(parts):
        raise InputError("the original selection counts rows of a replay log; take --selection corrected for shards")
    bar = ProgressBar(total=steps, unit="step", unit_scale=True, desc="reading", disable=not show_progress)
    try:
        with writer, bar:
            if selection.method == "original":
                counts = write_original(writer, buffers, numbers, selection, num_workers, bar)
            else:
                jobs = _jobs(parts, numbers, selection, num_workers, bar)
                counts = _write_episodes(writer, jobs, selection, num_workers, bar, recorded_here=recording is not None)
            # What is read whole costs nothing more to check.
            everything = verify or selection.method in ("top", "all")
            with ThreadPoolExecutor(num_workers) as pool:
                checked = list(pool.map(lambda number: parts[number].check(everything), counts))
            writer.source = dataclasses.replace(
                writer.source,
                verified=all(checked),
                episodes_per_shard={number: counts[number] for number in sorted(counts)},
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    finally:
        for part in parts.values():
            part.close()
    return TrajectoryStore.open(out)


def _jobs(
    parts: Mapping[int, Shard], numbers: range, selection: Selection, num_workers: int, bar: Bar
) -> Iterator[Job[TaggedEpisode]]:
    """What reads the selected episodes, in their order; endless for a draw, which the caller ends."""
    if selection.method == "corrected":
        yield from draw_visits(parts, numbers, selection)
        return
    chosen: Mapping[int, Collection[int]] | None = None
    if selection.method == "top":
        chosen = rank_episodes(parts, selection, num_workers, bar)
    for number, part in parts.items():
        if selection.method == "even":
            episodes = partial(first_episodes, number, part, math.ceil(selection.num_steps / len(parts)))
        else:
            episodes = partial(part.episodes, chosen and chosen[number])
        if chosen is None or chosen[number]:
            yield Job(number, partial(tag_episodes, number, episodes))


def _write_episodes(
    writer: StoreWriter,
    jobs: Iterator[Job[TaggedEpisode]],
    selection: Selection,
    num_workers: int,
    bar: Bar,
    recorded_here: bool,
) -> Counter[int]:
    """Append the episodes; return how many came from each part."""
    counts: Counter[int] = Counter()
    raw_rewards_differ = False
    draw = selection.method == "corrected"
    with closing(run_in_order(jobs, num_workers)) as found:
        for number, episode in found:
            if episode is None:
                if draw and writer.steps >= selection.num_steps:
                    break
                continue
            writer.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                episode.raw_rewards,
                terminated=episode.terminated,
            )
            raw_rewards_differ |= episode.raw_rewards is not None and not np.array_equal(
                episode.raw_rewards, episode.rewards
            )
            counts[number] += 1
            bar.update(len(episode))
    if draw and writer.steps < selection.num_steps:
        raise too_few_steps(writer.steps, selection)
    if not raw_rewards_differ and not recorded_here:  # then they are clipped ones too, as in the public shards
        writer.discard_raw_rewards()
    return counts
