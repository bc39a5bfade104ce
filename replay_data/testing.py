"""Trajectory stores of random data, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from replay_data.episode import FRAME_SHAPE
from replay_data.observation import RAM_SIZE
from replay_data.store_metadata import StoreSource
from replay_data.store_writer import StoreWriter
from replay_data.trajectory_store import TrajectoryStore

ACTION_MEANINGS = ("NOOP", "FIRE", "RIGHT", "LEFT")


def write_random_store(
    path: Path,
    episode_lengths: Sequence[int],
    *,
    seed: int = 0,
    game: str = "Breakout",
    largest_reward: int = 7,
    repeat_frames: bool = False,
    ram: bool = False,
) -> TrajectoryStore:
    """Write a store of random episodes that terminate, with four actions.

    Args:
        path: Directory to create.
        episode_lengths: Number of steps of each episode.
        seed: Seed of the data; the same seed gives the same bytes.
        game: Name of the game.
        largest_reward: Largest raw reward. Raw rewards are random integers from ``-largest_reward`` to
            ``largest_reward``; rewards are clipped to [-1, 1].
        repeat_frames: Whether all episodes begin with the same random frames, which is much faster.
        ram: Whether the store has RAM, of random bytes; byte 0 is always 7.
    """
    largest_length = max(episode_lengths)
    rng = np.random.default_rng(seed)
    ram_rng = np.random.default_rng(seed)  # of its own, so that the other arrays are the same with and without RAM
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
            if not repeat_frames or not writer.episodes:
                num_frames = largest_length if repeat_frames else length
                frames = rng.integers(0, 256, size=(num_frames, *FRAME_SHAPE), dtype=np.uint8)
            actions = rng.integers(0, len(ACTION_MEANINGS), size=length)
            memory = ram_rng.integers(0, 256, size=(length, RAM_SIZE), dtype=np.uint8)
            memory[:, 0] = 7
            writer.append(
                frames[:length],
                actions,
                raw_rewards.clip(-1, 1),
                raw_rewards,
                terminated=True,
                ram=memory if ram else None,
            )
    return TrajectoryStore.open(path)
