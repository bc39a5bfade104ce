"""Batches of trajectories with rewards and values, for the Trajectory Transformer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.batches.loader import BatchLoader, to_tensor
from replay_data import TrajectoryStore, context_bounds
from replay_data.contexts import FloatArray, IntArray
from replay_data.observation import ObservationSpec


@dataclass(frozen=True)
class TrajectoryBatch:
    """B trajectories of L steps. Those shorter than L are left-aligned and padded on the right.

    Attributes:
        states: uint8 ``[B, L, V]``.
        actions: int64 ``[B, L]``.
        rewards: In the units of the dataset, float32 ``[B, L]``.
        values: Discounted sum of the rewards after each step, float32 ``[B, L]``; see `discounted_values`.
        mask: bool ``[B, L]``, false on padding, whose content has no meaning.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    values: Tensor
    mask: Tensor


class TrajectoryLoader(BatchLoader[TrajectoryBatch]):
    """Gathers batches of trajectories from a store.

    `replay_data.context_bounds` defines the steps of a window that crosses the end of its episode.

    Args:
        store: Data.
        sequence_length: L.
        discount: Discount factor of the values.
        device: Device of the batches.
        observation: What states consist of, a vector.

    Raises:
        InputError: If the store has no RAM.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        sequence_length: int,
        discount: float,
        device: torch.device,
        observation: ObservationSpec,
    ):
        starts, lengths = context_bounds(np.arange(len(store)), store.episode_ends, sequence_length)
        super().__init__(store, starts, lengths, sequence_length, device, observation)
        self._start, self._length = to_tensor(starts, device), to_tensor(lengths, device)
        self._actions = to_tensor(store.actions, device)
        self._rewards = to_tensor(store.rewards, device)
        self._values = to_tensor(discounted_values(store.rewards, store.episode_ends, discount), device)

    def num_steps(self, steps: npt.ArrayLike) -> int:
        """Return the number of steps, without padding, in the windows that start at the dataset's steps ``[B]``."""
        return int(self._lengths[np.asarray(steps)].sum())

    def _complete(self, index: Tensor, observations: Tensor) -> TrajectoryBatch:
        length = self._length[index, None]
        offset = torch.arange(self._max_length, device=self._device)
        rows = self._start[index, None] + torch.minimum(offset, length - 1)
        return TrajectoryBatch(
            states=observations,
            actions=self._actions[rows].long(),
            rewards=self._rewards[rows],
            values=self._values[rows],
            mask=offset < length,
        )


def discounted_values(rewards: FloatArray, episode_ends: IntArray, discount: float) -> FloatArray:
    """Return the value of each step: the discounted sum of the rewards that follow it in its episode.

    As in the authors' code, the reward of the step itself is not part of it, and the first reward after it has weight
    1: the return from a step on is its reward plus ``discount`` times its value. Nothing follows the last step of an
    episode, also where a time limit truncated it.

    Args:
        rewards: float32 ``[N]``.
        episode_ends: int64 ``[E]``, exclusive end of each episode, ascending.
        discount: Discount factor.

    Returns:
        float32 ``[N]``.
    """
    values = np.zeros(len(rewards), dtype=np.float32)
    start = 0
    for end in episode_ends.tolist():
        value = 0.0
        for step in range(end - 1, start, -1):
            value = float(rewards[step]) + discount * value
            values[step - 1] = value
        start = end
    return values
