"""An update as a CUDA graph: a GPU runs all of its kernels without waiting for Python to launch them one by one.

The updates of a Decision Transformer are so short on a GPU that launching their hundreds of kernels takes several times
as long as running them (docs/benchmarks.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP_UPDATES = 3
"""Updates before the capture, in which PyTorch compiles the network and libraries allocate what they keep. PyTorch's
notes on CUDA graphs ask for a few."""


class GraphedUpdate:
    """Makes updates: the first ones kernel by kernel, and all later ones by replaying one that was captured.

    Every replay draws new numbers from PyTorch's generator of the GPU, so that no dropout mask repeats.

    Args:
        make_update: Function that makes an update with a batch and returns its metrics. It must not read a tensor's
            value, and it must read the batch, the weights and everything else from the same memory in each update.
        optimizer: Optimizer that ``make_update`` steps, with ``capturable`` set.
        device: GPU of all tensors.
    """

    def __init__(self, make_update: Callable[[Any], Tensor], optimizer: torch.optim.Optimizer, device: torch.device):
        self._make_update, self._optimizer = make_update, optimizer
        self._learning_rate = torch.zeros((), device=device)
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()
        self._num_warm_ups = 0
        self._batch: Any = None
        self._metrics: Tensor | None = None

    def __call__(self, batch: Any) -> Tensor:
        """Make an update at the learning rate of the optimizer.

        Args:
            batch: Batch, a dataclass of tensors with the shapes and strides of the first one.

        Returns:
            What ``make_update`` returned, in memory of its own.
        """
        if self._batch is None:
            self._batch = like_batch(batch)
        copy_batch(batch, self._batch)
        if self._num_warm_ups < WARM_UP_UPDATES:
            self._num_warm_ups += 1
            return self._warm_up()
        if self._metrics is None:
            self._metrics = self._capture()
        self._learning_rate.fill_(self._optimizer.param_groups[0]["lr"])
        self._graph.replay()
        return self._metrics.clone()

    def _warm_up(self) -> Tensor:
        """Make an update on the stream of the capture, as PyTorch's notes on CUDA graphs ask for."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            metrics = self._make_update(self._batch)
        current.wait_stream(self._stream)
        return metrics

    def _capture(self) -> Tensor:
        """Capture an update, without making it, and return the memory of its metrics."""
        rates = [group["lr"] for group in self._optimizer.param_groups]
        try:
            for group in self._optimizer.param_groups:
                group["lr"] = self._learning_rate
            # Thread-local, since the thread that gathers batches may pin memory meanwhile.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                return self._make_update(self._batch)
        finally:
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


def like_batch(batch: Any) -> Any:
    """Return a batch of uninitialized tensors with the shapes and strides of another one, a dataclass of tensors.

    Elements that share memory, as those of successive states do, share it in the result too; two tensors never do.
    """
    tensors = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return type(batch)(
        **{
            name: torch.empty(_extent(tensor), dtype=tensor.dtype, device=tensor.device).as_strided(
                tensor.size(), tensor.stride()
            )
            for name, tensor in tensors.items()
        }
    )


def copy_batch(source: Any, target: Any) -> None:
    """Copy the content of a batch into one that `like_batch` returned; memory that elements share is copied once."""
    for field in dataclasses.fields(source):
        tensors = getattr(target, field.name), getattr(source, field.name)
        memory, content = (tensor.as_strided((_extent(tensor),), (1,)) for tensor in tensors)
        memory.copy_(content)


def _extent(tensor: Tensor) -> int:
    """Return the number of elements from the first to the last one of a tensor in memory."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
