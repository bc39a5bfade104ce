"""Batches of contexts, for the Decision Transformer and behavior cloning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.batches.loader import BatchLoader, to_tensor
from replay_data import TrajectoryStore, context_bounds
from replay_data.observation import FRAMES, ObservationSpec


@dataclass(frozen=True)
class ContextBatch:
    """B contexts of K steps. Contexts shorter than K are left-aligned and padded on the right.

    Attributes:
        states: uint8 ``[B, K, 4, 84, 84]``, oldest frame first; a view in which neighboring steps share frames. Vectors
            are uint8 ``[B, K, D]``.
        actions: int64 ``[B, K]``.
        returns_to_go: float32 ``[B, K]``.
        timesteps: int64 ``[B, K]``.
        attention_mask: bool ``[B, K]``, false on padding, whose content has no meaning.
    """

    states: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    attention_mask: Tensor


class ContextLoader(BatchLoader[ContextBatch]):
    """Gathers batches of contexts from a store.

    `replay_data.context_bounds` defines the context of a window that crosses the end of its episode.

    Args:
        store: Data.
        context_length: K.
        device: Device of the batches.
        observation: What states consist of.
        resident: As in `BatchLoader`.

    Attributes:
        context_length: K.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        context_length: int,
        device: torch.device,
        observation: ObservationSpec = FRAMES,
        resident: bool | None = None,
    ):
        starts, lengths = context_bounds(np.arange(len(store)), store.episode_ends, context_length)
        super().__init__(store, starts, lengths, context_length, device, observation, resident)
        self.context_length = context_length
        self._start, self._length = to_tensor(starts, device), to_tensor(lengths, device)
        self._actions = to_tensor(store.actions, device)
        self._returns_to_go = to_tensor(store.returns_to_go, device)
        self._timesteps = to_tensor(store.timesteps, device)

    def num_steps(self, steps: npt.ArrayLike) -> int:
        """Return the number of steps, without padding, in the contexts that start at the dataset's steps ``[B]``."""
        return int(self._lengths[np.asarray(steps)].sum())

    def _complete(self, index: Tensor, observations: Tensor) -> ContextBatch:
        length = self._length[index, None]
        offset = torch.arange(self.context_length, device=self._device)
        rows = self._start[index, None] + torch.minimum(offset, length - 1)
        return ContextBatch(
            states=self._states(observations),
            actions=self._actions[rows].long(),
            returns_to_go=self._returns_to_go[rows],
            timesteps=self._timesteps[rows].long(),
            attention_mask=offset < length,
        )
