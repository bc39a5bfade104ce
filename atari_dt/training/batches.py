"""Contexts, gathered on the device from single frames."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replay_data import TrajectoryStore, context_bounds
from replay_data.contexts import IntArray
from replay_data.episode import LEAD_IN, STACK


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


class ContextSampler:
    """Which windows an update trains on: each window once an epoch, in random order.

    An epoch's last batch may be smaller. The order depends on the seed alone, and any place in it can be asked for.

    Args:
        steps: int64 ``[M]``, the dataset's steps that stand for the windows.
        batch_size: windows in a batch.
        seed: of the order.
    """

    def __init__(self, steps: IntArray, batch_size: int, seed: int):
        self._steps, self._batch_size, self._seed = steps, batch_size, seed
        self._epoch = -1
        self.updates_per_epoch = -(-len(steps) // batch_size)

    def batch(self, update: int) -> IntArray:
        """The steps ``[B]`` of an update, counted from 0."""
        epoch, place = divmod(update, self.updates_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._steps)
        return self._permutation[place * self._batch_size : (place + 1) * self._batch_size]


class ContextLoader:
    """Gathers contexts of a store.

    Frames lie in the GPU's memory where they fit, 7 KB a step; else they stay memory-mapped, and are gathered by a
    thread while the batch before is trained on. Either way a context costs K + 3 frames of reading: stacks are a view
    of them, and are scaled inside the encoder.

    Args:
        store: the data.
        context_length: K.
        device: where the batches are made.
        resident: whether the frames lie in the device's memory; by default, if they fill at most 60% of what is free.
    """

    def __init__(self, store: TrajectoryStore, context_length: int, device: torch.device, resident: bool | None = None):
        self.context_length = context_length
        self._device = device
        starts, self._lengths = context_bounds(np.arange(len(store)), store.episode_ends, context_length)
        if resident is None:
            resident = device.type == "cpu" or store.frames.nbytes <= 0.6 * torch.cuda.mem_get_info(device)[0]
        self._resident = resident
        home = device if resident else torch.device("cpu")
        self._frames = _tensor(store.frames, home)
        self._first_frame = _tensor(store.frame_index[starts] - LEAD_IN, home)
        self._num_frames = _tensor(self._lengths + LEAD_IN, home)
        self._start, self._length = _tensor(starts, device), _tensor(self._lengths, device)
        self._actions = _tensor(store.actions, device)
        self._returns_to_go = _tensor(store.returns_to_go, device)
        self._timesteps = _tensor(store.timesteps, device)

    def num_steps(self, steps: npt.ArrayLike) -> int:
        """Steps, padding aside, in the contexts that the dataset's steps ``[B]`` stand for."""
        return int(self._lengths[np.asarray(steps)].sum())

    def batch(self, steps: npt.ArrayLike) -> ContextBatch:
        """Gather the contexts that the dataset's steps ``[B]`` stand for (see `replay_data.context_bounds`).

        Raises:
            IndexError: if a step lies outside the dataset.
        """
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size and not 0 <= steps.min() <= steps.max() < len(self._lengths):
            raise IndexError(f"steps must lie in [0, {len(self._lengths)}), got {steps.min()} to {steps.max()}")
        index = torch.from_numpy(steps)
        return self._complete(index, self._gather_frames(index))

    def batches(self, steps: Iterable[IntArray]) -> Iterator[ContextBatch]:
        """Gather one batch after another, ahead of time where frames come from the host's memory."""
        if self._resident:
            yield from map(self.batch, steps)
            return
        waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(1) as thread:
            for index in map(torch.from_numpy, steps):
                waiting.append((index, thread.submit(self._gather_frames, index)))
                if len(waiting) > 2:
                    index, frames = waiting.popleft()
                    yield self._complete(index, frames.result())
            for index, frames in waiting:
                yield self._complete(index, frames.result())

    def _gather_frames(self, index: Tensor) -> Tensor:
        """The frames of contexts, uint8 ``[B, K + 3, 84, 84]``, where the frames are."""
        index = index.to(self._frames.device, non_blocking=True)
        # Padding repeats the context's last frame, so that nothing outside the episode is read.
        offset = torch.arange(self.context_length + LEAD_IN, device=index.device)
        rows = self._first_frame[index, None] + torch.minimum(offset, self._num_frames[index, None] - 1)
        if self._resident:
            return self._frames[rows]
        pinned = torch.empty((*rows.shape, 84, 84), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        torch.index_select(self._frames, 0, rows.flatten(), out=pinned.flatten(0, 1))
        return pinned

    def _complete(self, index: Tensor, frames: Tensor) -> ContextBatch:
        index, frames = (tensor.to(self._device, non_blocking=True) for tensor in (index, frames))
        length = self._length[index, None]
        offset = torch.arange(self.context_length, device=self._device)
        rows = self._start[index, None] + torch.minimum(offset, length - 1)
        return ContextBatch(
            states=frames.unfold(1, STACK, 1).permute(0, 1, 4, 2, 3),
            actions=self._actions[rows].long(),
            returns_to_go=self._returns_to_go[rows],
            timesteps=self._timesteps[rows].long(),
            attention_mask=offset < length,
        )


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    with warnings.catch_warnings():  # PyTorch warns that the memory map is read-only; it is only read
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
