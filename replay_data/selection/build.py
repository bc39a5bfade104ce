"""Build a trajectory store from a recorded run and a selection."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np

from replay_data.episode import FRAME_SHAPE, EpisodeSource
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.selection.episodes import TaggedEpisode, selection_jobs
from replay_data.selection.methods import OPTIONS, Selection
from replay_data.selection.paper_draw import draw_visits, too_few_steps_error, write_original
from replay_data.sources.dopamine_buffer import LogBuffer
from replay_data.sources.dopamine_format import NUM_BUFFERS
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.storage.paths import check_free_space
from replay_data.storage.processes import available_cores
from replay_data.storage.workers import Job, run_in_order
from replay_data.store_metadata import StoreSource
from replay_data.store_writer import StoreWriter
from replay_data.trajectory_store import TrajectoryStore

_MAX_DEFAULT_WORKERS = 8  # threads; each holds a few episodes in memory


def build_store(
    out: Path,
    source: EpisodeSource,
    selection: Selection,
    *,
    game: str,
    action_meanings: Sequence[str],
    store_source: StoreSource,
    num_workers: int | None = None,
    verify: bool = False,
    show_progress: bool = True,
) -> TrajectoryStore:
    """Write the selected episodes of a recorded run to a store.

    Args:
        out: Directory of the store, to be created.
        source: The run.
        selection: Selection method and options.
        game: Name of the game, such as ``"Breakout"``.
        action_meanings: Name of each action index.
        store_source: Source format, run and details for the store's metadata; the rest is filled in here.
        num_workers: Number of threads that read, one file each; by default one per core, at most 8. The store is the
            same for any number.
        verify: Read all selected files to their ends, so that all checksums are compared. Otherwise the checksums of
            the frames are not compared where a selection needs only the first rows of long files.
        show_progress: Whether to show a progress bar.

    Returns:
        The store. Its metadata holds the number of episodes from each shard (``source.episodes_per_shard``), and
        whether checksums cover all of them (``source.verified``).

    Raises:
        ReplayFormatError: If the recorded data is damaged.
        InputError: If ``out`` exists, or the run does not hold what the selection needs.
    """
    num_workers = min(available_cores(), _MAX_DEFAULT_WORKERS) if num_workers is None else num_workers
    if num_workers < 1:
        raise InputError(f"`num_workers` is {num_workers}; it must be at least 1")
    indices = _select_indices(source, selection)
    shards = {index: source.shards[index] for index in sorted(source.shards) if index in indices}
    writer = StoreWriter(
        out,
        game=game,
        action_meanings=action_meanings,
        reward_clipping=True,
        sticky_actions=source.sticky_actions,
        source=dataclasses.replace(
            store_source,
            recording=source.recording,
            selection=selection.to_json(),
            details={**store_source.details, **source.details},
        ),
    )
    num_steps = selection.num_steps if "num_steps" in OPTIONS[selection.method] else None
    check_free_space(out, (num_steps or 0) * FRAME_SHAPE[0] * FRAME_SHAPE[1])
    buffers = {index: shard for index, shard in shards.items() if isinstance(shard, LogBuffer)}
    if selection.method == "original" and len(buffers) < len(shards):
        raise InputError(
            "the original selection counts rows of a Dopamine log; use `selection` corrected for other source formats"
        )
    bar = ProgressBar(total=num_steps, unit="step", unit_scale=True, desc="reading", disable=not show_progress)
    try:
        with writer, bar:
            if selection.method == "original":
                counts = write_original(writer, buffers, indices, selection, num_workers, bar)
            else:
                if selection.method == "corrected":
                    jobs = draw_visits(shards, indices, selection)
                else:
                    jobs = selection_jobs(shards, selection, num_workers, bar)
                counts = _write_episodes(writer, jobs, selection, num_workers, bar, source.has_raw_rewards)
            # These methods have read all rows, those of shards in which no episode begins too.
            reads_all = selection.method in ("top", "return_range", "all")
            with ThreadPoolExecutor(num_workers) as pool:
                used = shards if reads_all else counts
                checked = list(pool.map(lambda index: shards[index].check(verify or reads_all), used))
            writer.source = dataclasses.replace(
                writer.source,
                verified=None if None in checked else all(checked),
                episodes_per_shard={index: counts[index] for index in sorted(counts)},
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    finally:
        for shard in shards.values():
            shard.close()
    return TrajectoryStore.open(out)


def _select_indices(source: EpisodeSource, selection: Selection) -> range:
    """Return the indices of the shards to select from.

    Raises:
        InputError: If none of them is present.
    """
    num_shards = source.num_shards
    if selection.method == "original" and isinstance(source, DopamineLog):
        num_shards = NUM_BUFFERS  # the original code knows no others
    num_buffers = min(selection.num_buffers or num_shards, num_shards)
    indices = range(num_shards - num_buffers, num_shards)
    if not any(index in indices for index in source.shards):
        advice = "raise `num_buffers`" if min(source.shards) < indices.start else "use another `selection`"
        raise InputError(
            f"the run has only shards {format_ranges(source.shards)}, but its last {num_buffers} of {num_shards} are "
            f"{format_ranges(indices)}; {advice}"
        )
    return indices


def _write_episodes(
    writer: StoreWriter,
    jobs: Iterator[Job[TaggedEpisode]],
    selection: Selection,
    num_workers: int,
    bar: ProgressBar,
    has_raw_rewards: bool,
) -> Counter[int]:
    """Append the episodes that the jobs read; return the number of episodes from each shard.

    With the method corrected, each job is a buffer visit, and writing stops after the visit that reaches ``num_steps``.
    """
    counts: Counter[int] = Counter()
    num_uncertain_ends = 0
    raw_rewards_differ = False
    is_draw = selection.method == "corrected"
    with closing(run_in_order(jobs, num_workers)) as tagged_episodes:
        for index, episode in tagged_episodes:
            if episode is None:
                if is_draw and writer.steps >= selection.num_steps:
                    break
                continue
            writer.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                episode.raw_rewards,
                terminated=episode.terminated,
                ram=episode.ram,
            )
            raw_rewards_differ |= episode.raw_rewards is not None and not np.array_equal(
                episode.raw_rewards, episode.rewards
            )
            counts[index] += 1
            num_uncertain_ends += episode.num_uncertain_ends
            bar.update(len(episode))
    if is_draw and writer.steps < selection.num_steps:
        raise too_few_steps_error(writer.steps, selection)
    if not raw_rewards_differ and not has_raw_rewards:
        writer.discard_raw_rewards()  # they are clipped too, as in the public shards
    writer.source = dataclasses.replace(writer.source, num_uncertain_ends=num_uncertain_ends)
    return counts


def format_ranges(indices: Iterable[int]) -> str:
    """Return indices as text with runs shortened, such as ``0-3, 7``."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
