"""Contexts, gathered on the device from single frames."""

from __future__ import annotations

import json
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


class ContextOrder:
    """Endless batches of window starts: every step of the dataset once an epoch, in random order.

    An epoch's last batch may be smaller. The order depends on the seed alone.

    Args:
        num_steps: of the dataset.
        batch_size: window starts in a batch.
        seed: of the order.
    """

    def __init__(self, num_steps: int, batch_size: int, seed: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self._rng = np.random.default_rng(seed)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_state = self._rng.bit_generator.state  # which the epoch's order can be drawn from again
        self._permutation = self._rng.permutation(self._num_steps)
        self._position = 0

    def next(self) -> npt.NDArray[np.int64]:
        """The next batch, int64 ``[B]``."""
        if self._position >= self._num_steps:
            self._begin_epoch()
        batch = self._permutation[self._position : self._position + self._batch_size]
        self._position += len(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the order."""
        return {"generator": json.dumps(self._epoch_state), "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place that `state_dict` told."""
        self._rng.bit_generator.state = json.loads(state["generator"])
        self._begin_epoch()
        self._position = int(state["position"])


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
