"""Batches of contexts, gathered on the device from single frames."""

from __future__ import annotations

import math
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
from replay_data.episode import FRAME_SHAPE, LEAD_IN, STACK


@dataclass(frozen=True)
class ContextBatch:
    """B contexts of K steps. Contexts shorter than K are left-aligned and padded on the right.

    Attributes:
        states: uint8 ``[B, K, 4, 84, 84]``, oldest frame first; a view in which neighboring steps share frames.
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


class ContextSampler:
    """Samples the windows of each update: every window once per epoch, in random order.

    The last batch of an epoch may be smaller. The order is a function of the seed, so that a resumed run can continue
    at any update.

    Args:
        steps: int64 ``[M]``, the dataset's steps at which the windows start.
        batch_size: Number of windows per batch.
        seed: Seed of the order.

    Attributes:
        updates_per_epoch: Number of batches per epoch.
    """

    def __init__(self, steps: IntArray, batch_size: int, seed: int):
        self._steps, self._batch_size, self._seed = steps, batch_size, seed
        self._epoch = -1
        self.updates_per_epoch = -(-len(steps) // batch_size)

    def batch(self, update: int) -> IntArray:
        """Return the steps, int64 ``[B]``, at which the windows of an update start; the first update is 0."""
        epoch, index = divmod(update, self.updates_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._steps)
        return self._permutation[index * self._batch_size : (index + 1) * self._batch_size]


class ContextLoader:
    """Gathers batches of contexts from a store.

    The frames stay in the device's memory if they fit, at 7 KB per step. Otherwise they stay memory-mapped, and a
    thread gathers the next batches while the device trains. In both cases, a context reads only K + 3 frames: its
    states are a view of them, and the state encoder scales them.

    Args:
        store: Data.
        context_length: K.
        device: Device of the batches.
        resident: Whether to keep the frames of the episodes on the device. By default true on a CPU, and on a GPU if
            they fill at most 60% of its free memory.

    Attributes:
        context_length: K.
    """

    def __init__(self, store: TrajectoryStore, context_length: int, device: torch.device, resident: bool | None = None):
        self.context_length = context_length
        self._device = device
        starts, self._lengths = context_bounds(np.arange(len(store)), store.episode_ends, context_length)
        if resident is None:
            num_bytes = _num_episode_frames(store) * math.prod(FRAME_SHAPE)
            resident = device.type == "cpu" or num_bytes <= 0.6 * torch.cuda.mem_get_info(device)[0]
        self._resident = resident
        frame_device = device if resident else torch.device("cpu")
        if frame_device.type == "cpu":
            self._frames, frame_index = _to_tensor(store.frames, frame_device), store.frame_index
        else:
            self._frames, frame_index = copy_episode_frames(store, frame_device)
        self._first_frame = _to_tensor(frame_index[starts] - LEAD_IN, frame_device)
        self._num_frames = _to_tensor(self._lengths + LEAD_IN, frame_device)
        self._start, self._length = _to_tensor(starts, device), _to_tensor(self._lengths, device)
        self._actions = _to_tensor(store.actions, device)
        self._returns_to_go = _to_tensor(store.returns_to_go, device)
        self._timesteps = _to_tensor(store.timesteps, device)

    def num_steps(self, steps: npt.ArrayLike) -> int:
        """Return the number of steps, without padding, in the contexts that start at the dataset's steps ``[B]``."""
        return int(self._lengths[np.asarray(steps)].sum())

    def batch(self, steps: npt.ArrayLike) -> ContextBatch:
        """Gather the contexts of the windows that start at the dataset's steps ``[B]``.

        `replay_data.context_bounds` defines the context of a window that crosses the end of its episode.

        Raises:
            IndexError: If a step is outside the dataset.
        """
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size and not 0 <= steps.min() <= steps.max() < len(self._lengths):
            raise IndexError(f"steps must lie in [0, {len(self._lengths)}), got {steps.min()} to {steps.max()}")
        index = torch.from_numpy(steps)
        return self._complete(index, self._gather_frames(index))

    def batches(self, steps: Iterable[IntArray]) -> Iterator[ContextBatch]:
        """Gather one batch per array of steps; two batches ahead unless the frames are resident."""
        if self._resident:
            yield from map(self.batch, steps)
            return
        pending: deque[tuple[Tensor, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(1) as thread:
            for index in map(torch.from_numpy, steps):
                pending.append((index, thread.submit(self._gather_frames, index)))
                if len(pending) > 2:
                    index, frames = pending.popleft()
                    yield self._complete(index, frames.result())
            for index, frames in pending:
                yield self._complete(index, frames.result())

    def _gather_frames(self, index: Tensor) -> Tensor:
        """Return the frames of contexts, uint8 ``[B, K + 3, 84, 84]``, on the device that holds the store's frames."""
        index = index.to(self._frames.device, non_blocking=True)
        # Padding repeats the last frame of the context, so that no frame of another episode is read.
        offset = torch.arange(self.context_length + LEAD_IN, device=index.device)
        rows = self._first_frame[index, None] + torch.minimum(offset, self._num_frames[index, None] - 1)
        if self._resident:
            return self._frames[rows]
        pinned = torch.empty((*rows.shape, 84, 84), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        torch.index_select(self._frames, 0, rows.flatten(), out=pinned.flatten(0, 1))
        return pinned

    def _complete(self, index: Tensor, frames: Tensor) -> ContextBatch:
        """Return the batch of contexts whose frames are gathered."""
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


def copy_episode_frames(store: TrajectoryStore, device: torch.device) -> tuple[Tensor, IntArray]:
    """Copy the frames of a store's episodes to a device.

    A store that was selected from another one may hold the frames of all episodes of that store; they stay on the disk.

    Returns:
        The frames, uint8 ``[F, 84, 84]``, and the row of them that holds each step's newest frame, int64 ``[N]``.
    """
    if len(store.frames) <= _num_episode_frames(store):
        return _to_tensor(store.frames, device), store.frame_index
    frames = torch.empty((_num_episode_frames(store), *FRAME_SHAPE), dtype=torch.uint8, device=device)
    frame_index = np.empty_like(store.frame_index)
    row = 0
    for start, end in zip(store.episode_starts.tolist(), store.episode_ends.tolist(), strict=True):
        first, last = int(store.frame_index[start]) - LEAD_IN, int(store.frame_index[end - 1])
        episode_frames = _to_tensor(store.frames[first : last + 1], device)
        frames[row : row + len(episode_frames)] = episode_frames
        frame_index[start:end] = np.arange(row + LEAD_IN, row + len(episode_frames))
        row += len(episode_frames)
    return frames, frame_index


def _num_episode_frames(store: TrajectoryStore) -> int:
    """Return the number of frames of a store's episodes, with their lead-in frames."""
    return len(store) + LEAD_IN * store.num_episodes


def _to_tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device; on the CPU the tensor shares the array's memory."""
    with warnings.catch_warnings():  # PyTorch warns that the memory map is read-only; nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
