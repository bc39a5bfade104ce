"""Contexts, gathered on the device from single frames."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replay_data import TrajectoryStore, context_bounds
from replay_data.trajectory_store import LEAD_IN, STACK


@dataclass(frozen=True)
class ContextBatch:
    """B contexts of K steps; those of short episodes are left-aligned and padded on the right.

    Attributes:
        states: uint8 ``[B, K, 4, 84, 84]``, oldest frame first; a view in which steps share their frames.
        actions: int64 ``[B, K]``.
        returns_to_go: float32 ``[B, K]``.
        timesteps: int64 ``[B, K]``.
        attention_mask: bool ``[B, K]``, false on padding (whose contents mean nothing).
    """

    states: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    attention_mask: Tensor


class ContextLoader:
    """Gathers contexts of a store.

    On a GPU the whole dataset lies in its memory, 7 KB a step; on a CPU frames stay memory-mapped. Either way a
    context costs K + 3 frames of reading: stacks are a view of them, and are scaled inside the encoder.

    Args:
        store: the data.
        context_length: K.
        device: where the batches are made.
    """

    def __init__(self, store: TrajectoryStore, context_length: int, device: torch.device):
        self.context_length = context_length
        self._device = device
        self._episode_ends = np.asarray(store.episode_ends)
        self._frames = self._tensor(store.frames)
        self._frame_index = self._tensor(store.frame_index)
        self._actions = self._tensor(store.actions)
        self._returns_to_go = self._tensor(store.returns_to_go)
        self._timesteps = self._tensor(store.timesteps)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        with warnings.catch_warnings():  # PyTorch warns that the memory map is read-only; it is only read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array).to(self._device)

    def batch(self, steps: npt.ArrayLike) -> ContextBatch:
        """Gather the contexts that the dataset's steps ``[B]`` stand for (see `replay_data.context_bounds`)."""
        starts, lengths = context_bounds(steps, self._episode_ends, self.context_length)
        start = torch.from_numpy(starts).to(self._device, non_blocking=True)
        length = torch.from_numpy(lengths).to(self._device, non_blocking=True)
        first_frame = self._frame_index[start] - LEAD_IN
        # Padding repeats the context's last step, so that nothing outside the episode is read.
        offset = torch.arange(self.context_length + LEAD_IN, device=self._device)
        frames = self._frames[first_frame[:, None] + torch.minimum(offset, length[:, None] + LEAD_IN - 1)]
        offset = offset[: self.context_length]
        rows = start[:, None] + torch.minimum(offset, length[:, None] - 1)
        return ContextBatch(
            states=frames.unfold(1, STACK, 1).permute(0, 1, 4, 2, 3),
            actions=self._actions[rows].long(),
            returns_to_go=self._returns_to_go[rows],
            timesteps=self._timesteps[rows].long(),
            attention_mask=offset < length[:, None],
        )
