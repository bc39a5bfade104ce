"""Stores of random data, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from replay_data.store_metadata import StoreSource
from replay_data.store_writer import StoreWriter
from replay_data.trajectory_store import TrajectoryStore

ACTION_MEANINGS = ("NOOP", "FIRE", "RIGHT", "LEFT")


def write_random_store(
    path: Path, episode_lengths: Sequence[int], *, seed: int = 0, game: str = "Breakout", largest_reward: int = 7
) -> TrajectoryStore:
    """Write a store of episodes of noise, with four actions.

    Args:
        path: directory to create.
        episode_lengths: number of steps of each episode, all of them ended by the game.
        seed: the same seed gives the same bytes.
        game: name of the game.
        largest_reward: raw rewards are integers from its negative to it, and rewards are these clipped to [-1, 1].
    """
    rng = np.random.default_rng(seed)
    with StoreWriter(
        path,
        game=game,
        action_meanings=ACTION_MEANINGS,
        reward_clipping=True,
        sticky_actions=0.25,
        source=StoreSource("random"),
    ) as writer:
        for length in episode_lengths:
            raw_rewards = rng.integers(-largest_reward, largest_reward + 1, size=length).astype(np.float32)
            frames = rng.integers(0, 256, size=(length, 84, 84), dtype=np.uint8)
            actions = rng.integers(0, len(ACTION_MEANINGS), size=length)
            writer.append(frames, actions, raw_rewards.clip(-1, 1), raw_rewards, terminated=True)
    return TrajectoryStore.open(path)
