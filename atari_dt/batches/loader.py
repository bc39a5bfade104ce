"""What all loaders of batches do: gather runs of successive observations from a store, on the device that trains."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from replay_data import TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.episode import FRAME_SHAPE, LEAD_IN
from replay_data.observation import FRAMES, ObservationSpec

Batch = TypeVar("Batch")


class BatchLoader(ABC, Generic[Batch]):
    """Gathers batches from a store. An entry of a batch is a window of successive steps of an episode.

    The observations stay in the device's memory if they fit; frames take 7 KB per step, RAM 128 bytes. Otherwise they
    stay memory-mapped, and a thread gathers the next batches while the device trains. In both cases, a window of W
    steps reads only W + 3 frames: its states are a view of them, and the network scales them.

    Args:
        store: Data.
        starts: First step of the window that each step of the dataset starts, int64 ``[N]``.
        lengths: Number of steps of these windows, int64 ``[N]``, at most ``max_length``.
        max_length: Number of steps of a window in a batch; shorter windows repeat their last observation.
        device: Device of the batches.
        observation: What states consist of.
        resident: Whether to keep the observations of the episodes on the device. By default true on a CPU and for
            vectors, and on a GPU if the frames fill at most 60% of its free memory.

    Raises:
        InputError: If the states consist of RAM, and the store has none.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        starts: IntArray,
        lengths: IntArray,
        max_length: int,
        device: torch.device,
        observation: ObservationSpec = FRAMES,
        resident: bool | None = None,
    ):
        self._device, self._lengths, self._max_length, self._stack = device, lengths, max_length, observation.stack
        if resident is None:
            num_bytes = _num_episode_frames(store) * math.prod(FRAME_SHAPE)
            on_device = device.type == "cpu" or observation.is_vector
            resident = on_device or num_bytes <= 0.6 * torch.cuda.mem_get_info(device)[0]
        self._resident = resident
        row_device = device if resident else torch.device("cpu")
        if observation.is_vector:
            self._rows, index = to_tensor(observation.select(store.require_ram()), row_device), np.arange(len(store))
        elif row_device.type == "cpu":
            self._rows, index = to_tensor(store.frames, row_device), store.frame_index
        else:
            self._rows, index = copy_episode_frames(store, row_device)
        lead_in = observation.stack - 1
        self._first_row = to_tensor(index[starts] - lead_in, row_device)
        self._num_rows = to_tensor(lengths + lead_in, row_device)

    @abstractmethod
    def num_steps(self, steps: npt.ArrayLike) -> int:
        """Return the number of actions, without padding, in the windows that start at the dataset's steps ``[B]``."""

    def batch(self, steps: npt.ArrayLike) -> Batch:
        """Gather the windows that start at the dataset's steps ``[B]``.

        Raises:
            IndexError: If a step is outside the dataset.
        """
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size and not 0 <= steps.min() <= steps.max() < len(self._lengths):
            raise IndexError(f"steps must lie in [0, {len(self._lengths)}), got {steps.min()} to {steps.max()}")
        index = torch.from_numpy(steps)
        return self._load(index, self._gather(index))

    def batches(self, steps: Iterable[IntArray]) -> Iterator[Batch]:
        """Gather one batch per array of steps; two batches ahead unless the observations are resident."""
        if self._resident:
            yield from map(self.batch, steps)
            return
        pending: deque[tuple[Tensor, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(1) as thread:
            for index in map(torch.from_numpy, steps):
                pending.append((index, thread.submit(self._gather, index)))
                if len(pending) > 2:
                    index, observations = pending.popleft()
                    yield self._load(index, observations.result())
            for index, observations in pending:
                yield self._load(index, observations.result())

    def _gather(self, index: Tensor) -> Tensor:
        """Return the observations of windows, uint8 ``[B, W + stack - 1, ...]``, on the device that holds the rows."""
        index = index.to(self._rows.device, non_blocking=True)
        # Padding repeats the last observation of the window, so that none of another episode is read.
        offset = torch.arange(self._max_length + self._stack - 1, device=index.device)
        rows = self._first_row[index, None] + torch.minimum(offset, self._num_rows[index, None] - 1)
        if self._resident:
            return self._rows[rows]
        shape = *rows.shape, *self._rows.shape[1:]
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        torch.index_select(self._rows, 0, rows.flatten(), out=pinned.flatten(0, 1))
        return pinned

    def _states(self, observations: Tensor) -> Tensor:
        """Return the states of windows, ``[B, W, *state_shape]``, as a view of their observations."""
        if self._stack == 1:
            return observations
        return observations.unfold(1, self._stack, 1).movedim(-1, 2)

    def _load(self, index: Tensor, observations: Tensor) -> Batch:
        """Return the batch of windows whose observations are gathered."""
        return self._complete(*(tensor.to(self._device, non_blocking=True) for tensor in (index, observations)))

    @abstractmethod
    def _complete(self, index: Tensor, observations: Tensor) -> Batch:
        """Return the batch of windows ``[B]`` with observations ``[B, W + stack - 1, ...]``, both on the device."""


def copy_episode_frames(store: TrajectoryStore, device: torch.device) -> tuple[Tensor, IntArray]:
    """Copy the frames of a store's episodes to a device.

    A store that was selected from another one may hold the frames of all episodes of that store; they stay on the disk.

    Returns:
        The frames, uint8 ``[F, 84, 84]``, and the row of them that holds each step's newest frame, int64 ``[N]``.
    """
    if len(store.frames) <= _num_episode_frames(store):
        return to_tensor(store.frames, device), store.frame_index
    frames = torch.empty((_num_episode_frames(store), *FRAME_SHAPE), dtype=torch.uint8, device=device)
    frame_index = np.empty_like(store.frame_index)
    row = 0
    for start, end in zip(store.episode_starts.tolist(), store.episode_ends.tolist(), strict=True):
        first, last = int(store.frame_index[start]) - LEAD_IN, int(store.frame_index[end - 1])
        episode_frames = to_tensor(store.frames[first : last + 1], device)
        frames[row : row + len(episode_frames)] = episode_frames
        frame_index[start:end] = np.arange(row + LEAD_IN, row + len(episode_frames))
        row += len(episode_frames)
    return frames, frame_index


def _num_episode_frames(store: TrajectoryStore) -> int:
    """Return the number of frames of a store's episodes, with their lead-in frames."""
    return len(store) + LEAD_IN * store.num_episodes


def to_tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device; on the CPU the tensor shares the array's memory."""
    with warnings.catch_warnings():  # PyTorch warns that the memory map is read-only; nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
