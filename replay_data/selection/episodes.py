"""Select episodes of each shard by themselves: the methods even, top and all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import TypeAlias

from replay_data.episode import Episode, Shard
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.selection.methods import Selection
from replay_data.storage.workers import Job, run_in_order

TaggedEpisode: TypeAlias = tuple[int, Episode | None]
"""The index of a shard and one of its episodes; None after the last episode of a job."""


def tag_episodes(index: int, episodes: Callable[[], Iterator[Episode]]) -> Iterator[TaggedEpisode]:
    """Yield the episodes of a job on shard ``index``, tagged, and None at the end."""
    for episode in episodes():
        yield index, episode
    yield index, None


def selection_jobs(
    shards: Mapping[int, Shard], selection: Selection, num_workers: int, bar: ProgressBar
) -> Iterator[Job[TaggedEpisode]]:
    """Yield one job per shard that reads its selected episodes, by the methods even, top and all."""
    chosen: Mapping[int, Collection[int]] | None = None
    if selection.method == "top":
        chosen = _rank_episodes(shards, selection.top_episode_percent, num_workers, bar)
    for index, shard in shards.items():
        if selection.method == "even":
            episodes = partial(_first_episodes, index, shard, math.ceil(selection.num_steps / len(shards)))
        else:
            episodes = partial(shard.episodes, chosen and chosen[index])
        if chosen is None or chosen[index]:
            yield Job(index, partial(tag_episodes, index, episodes))


def _first_episodes(index: int, shard: Shard, num_steps: int) -> Iterator[Episode]:
    """Yield the first episodes of a shard until they have ``num_steps`` steps."""
    steps = 0
    for episode in shard.episodes():
        yield episode
        steps += len(episode)
        if steps >= num_steps:
            return
    raise InputError(
        f"buffer or shard {index} of the run holds {steps:,} steps of whole episodes, less than its share of "
        f"{num_steps:,}; lower `num_steps`, or take all episodes with `selection` all"
    )


def _rank_episodes(
    shards: Mapping[int, Shard], percent: float, num_workers: int, bar: ProgressBar
) -> dict[int, set[int]]:
    """Return, for each shard, the indices of its episodes among the best ``percent`` percent by return."""

    def ranks(index: int) -> Iterator[tuple[float, int, int]]:
        for episode_index, value in enumerate(shards[index].returns()):
            yield -value, index, episode_index
        shards[index].check(everything=True)

    ranked = []
    with closing(run_in_order([Job(index, partial(ranks, index)) for index in shards], num_workers)) as results:
        for rank in results:
            ranked.append(rank)
            bar.set_description(f"ranking {len(ranked)} episodes")
    bar.set_description("reading")
    ranked.sort()
    best = ranked[: math.ceil(len(ranked) * percent / 100)]
    return {index: {episode for _, shard_index, episode in best if shard_index == index} for index in shards}
