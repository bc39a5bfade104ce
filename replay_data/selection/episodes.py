"""Select episodes of each shard by themselves: the methods even, top, return_range and all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

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
    """Yield one job per shard that reads its selected episodes, by the methods even, top, return_range and all."""
    chosen: Mapping[int, Collection[int]] | None = None
    if selection.method in ("top", "return_range"):
        chosen = _choose_of_shards(shards, selection, num_workers, bar)
    for index, shard in shards.items():
        if selection.method == "even":
            episodes = partial(_first_episodes, index, shard, selection.num_steps, len(shards))
        else:
            episodes = partial(shard.episodes, chosen and chosen[index])
        if chosen is None or chosen[index]:
            yield Job(index, partial(tag_episodes, index, episodes))


def _first_episodes(index: int, shard: Shard, num_steps: int, num_shards: int) -> Iterator[Episode]:
    """Yield the first episodes of a shard until they have its share of ``num_steps`` steps."""
    share = math.ceil(num_steps / num_shards)
    steps = 0
    for episode in shard.episodes():
        yield episode
        steps += len(episode)
        if steps >= share:
            return
    # Other shards may hold even fewer steps. Only reading all of them would tell.
    lower = f"lower `num_steps` to at most {steps * num_shards:,}, or " if steps else ""
    raise InputError(
        f"buffer or shard {index} of the run holds {steps:,} steps of whole episodes, less than its share of "
        f"{share:,}; {lower}take all episodes with `selection` all"
    )


def _choose_of_shards(
    shards: Mapping[int, Shard], selection: Selection, num_workers: int, bar: ProgressBar
) -> dict[int, set[int]]:
    """Return, for each shard, the indices of its episodes that the method top or return_range selects."""

    def returns(index: int) -> Iterator[tuple[int, int, float]]:
        for episode, value in enumerate(shards[index].returns()):
            yield index, episode, value
        shards[index].check(everything=True)

    places: list[tuple[int, int]] = []
    values: list[float] = []
    with closing(run_in_order([Job(index, partial(returns, index)) for index in shards], num_workers)) as results:
        for index, episode, value in results:
            places.append((index, episode))
            values.append(value)
            bar.set_description(f"ranking {len(values)} episodes")
    bar.set_description("reading")
    chosen: dict[int, set[int]] = {index: set() for index in shards}
    for position in np.flatnonzero(choose_by_return(np.array(values), selection)).tolist():
        index, episode = places[position]
        chosen[index].add(episode)
    return chosen


def choose_by_return(returns: npt.NDArray[np.float64], selection: Selection) -> npt.NDArray[np.bool_]:
    """Choose the episodes that the method top or return_range selects.

    Args:
        returns: float64 ``[E]``, return of each episode, in the order of play.
        selection: Method and options.

    Returns:
        bool ``[E]``, true for the selected episodes.

    Raises:
        InputError: If no return is in the range.
    """
    if selection.method == "top":
        chosen = np.zeros(len(returns), dtype=np.bool_)
        num_chosen = math.ceil(len(returns) * selection.top_episode_percent / 100)
        chosen[np.argsort(-returns, kind="stable")[:num_chosen]] = True
        return chosen
    low = -math.inf if selection.min_return is None else selection.min_return
    high = math.inf if selection.max_return is None else selection.max_return
    chosen = (low <= returns) & (returns <= high)
    if len(returns) and not chosen.any():
        limits = f"from {low:g} to {high:g}"
        if low == -math.inf or high == math.inf:
            limits = f"of at least {low:g}" if high == math.inf else f"of at most {high:g}"
        raise InputError(
            f"no episode has a return {limits}; the returns of the {len(returns):,} episodes run from "
            f"{returns.min():g} to {returns.max():g}; change `min_return` or `max_return`"
        )
    return chosen
