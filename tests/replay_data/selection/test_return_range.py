"""Selection by return from runs in memory, compared with a list comprehension."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import InputError
from replay_data.episode import Episode
from replay_data.json_fields import Scalar
from replay_data.recording import Recording
from tests.replay_data.recordings import build, random_episode


class MemoryShard:
    """A shard of episodes in memory; a `replay_data.episode.Shard`."""

    def __init__(self, episodes: list[Episode]):
        self._episodes = episodes

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        yield from (each for index, each in enumerate(self._episodes) if chosen is None or index in chosen)

    def returns(self) -> Iterator[float]:
        yield from (sum(episode.rewards.tolist()) for episode in self._episodes)

    def check(self, everything: bool = False) -> bool:
        return True

    def close(self) -> None:
        pass


class MemoryRun:
    """A run of shards in memory, of which those with an odd index are missing; an `EpisodeSource`."""

    notes: tuple[str, ...] = ()
    recording: Recording | None = None
    sticky_actions: float | None = None
    has_raw_rewards = True
    details: Mapping[str, Scalar] = {}

    def __init__(self, shards: list[list[Episode]]):
        self.shards = {2 * index: MemoryShard(episodes) for index, episodes in enumerate(shards)}
        self.num_shards = 2 * len(shards)
        self.missing = set(range(1, self.num_shards, 2))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    low=st.none() | st.sampled_from([-2, -1, -0.5, 0, 1, 2]),
    width=st.none() | st.sampled_from([0, 0.5, 1, 3]),
    num_shards=st.integers(1, 8),
    num_workers=st.integers(1, 3),
)
def test_return_range_takes_the_episodes_in_the_range(
    sizes: list[int], seed: int, low: float | None, width: float | None, num_shards: int, num_workers: int
) -> None:
    rng = np.random.default_rng(seed)
    shards = [[random_episode(rng, int(rng.integers(1, 5))) for _ in range(size)] for size in sizes]
    high = None if width is None else (low or 0) + width
    options: dict[str, Any] = {"min_return": low, "max_return": high, "num_buffers": num_shards}
    first = max(2 * len(sizes) - num_shards, 0)
    used = [each for index, episodes in enumerate(shards) if 2 * index >= first for each in episodes]
    returns = [sum(episode.rewards.tolist()) for episode in used]
    limits = (-math.inf if low is None else low, math.inf if high is None else high)
    expected = [episode for episode, value in zip(used, returns, strict=True) if limits[0] <= value <= limits[1]]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "store"
        if expected and (low is not None or high is not None):
            store = build(out, MemoryRun(shards), "return_range", num_workers, **options)
            assert store.num_episodes == len(expected)
            for start, end, episode in zip(store.episode_starts, store.episode_ends, expected, strict=True):
                assert np.array_equal(store.frames[store.frame_index[start:end]], episode.frames)
                assert np.array_equal(store.actions[start:end], episode.actions)
                assert np.array_equal(store.rewards[start:end], episode.rewards)
            return
        if low is None and high is None:
            message = "return_range needs"
        elif 2 * len(sizes) - 2 < first:
            message = "the run has only shards"
        elif not used:
            message = "no whole episode is in the source"
        else:
            message = f"the returns of the {len(used)} episodes run from {min(returns):g} to {max(returns):g}; change"
        with pytest.raises(InputError, match=message):
            build(out, MemoryRun(shards), "return_range", num_workers, **options)
        assert os.listdir(directory) == []
