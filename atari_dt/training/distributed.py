"""Several processes that train one model together, on one machine or on many."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from atari_dt.command_line import RankError
from replay_data import InputError
from replay_data.contexts import IntArray
from replay_data.errors import summarize_error

T = TypeVar("T")


class SharedError(InputError):
    """An InputError that every process of a group raises, so that one of them can print it for all.

    Its opposite is `RankError`, an error of one process.
    """


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, seen from one of them. The default is a group of one process.

    All processes must call the same collective methods (``all_...`` and ``broadcast_object``) in the same order.
    In a group of one they do not communicate.

    Attributes:
        rank: Index of this process in the group.
        size: Number of processes in the group.
        local_rank: Index of this process among those of the group on the same machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def shard(self, steps: IntArray) -> IntArray:
        """Return this process's share of the contexts ``[B]`` of an update.

        If the update has fewer contexts than the group has processes, the processes that are left over get its first
        context. They take part in every computation, and `weight` gives them a weight of 0.
        """
        return steps[self.rank :: self.size] if self.rank < len(steps) else steps[:1]

    def weight(self, steps: IntArray, count_steps: Callable[[IntArray], int]) -> float:
        """Return the weight of this process's shard in the loss of an update: its fraction of the update's steps.

        Args:
            steps: int64 ``[B]``, contexts of the update.
            count_steps: Function that returns the number of steps in contexts, such as `ContextLoader.num_steps`.
        """
        if self.size == 1:
            return 1.0
        return count_steps(steps[self.rank :: self.size]) / count_steps(steps)

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum of a value over the processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, compute: Callable[[], T]) -> T:
        """Call a function in process 0 and return its result in all processes.

        Raises:
            SharedError: If the function raises an InputError; in all processes. In a group of one, the InputError.
        """
        if self.size == 1:
            return compute()
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [compute()]
            except InputError as error:
                outcome = [SharedError(str(error))]
        dist.broadcast_object_list(outcome)
        if isinstance(outcome[0], SharedError):
            raise outcome[0]
        return outcome[0]


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Join the group of processes that ``torchrun`` started; without ``torchrun``, yield a group of one.

    Raises:
        RankError: If the block raises an InputError that is not a SharedError; the message names the process.
        InputError: If the processes cannot connect, or one of them has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ProcessGroup()
        return
    cuda = torch.cuda.is_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        succeeded = False
        try:
            yield ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
            succeeded = True
        finally:
            gc.collect()  # objects that refer to the group must be freed before its threads end
            if succeeded or not cuda:  # after a failure NCCL may wait for a process that has ended
                dist.destroy_process_group()
    except SharedError:
        raise
    except InputError as error:
        raise RankError(f"process {os.environ.get('RANK')}: {error}") from error
    except (RuntimeError, ValueError) as error:
        if not isinstance(error, dist.DistError) and not any(name in str(error) for name in ("gloo", "rendezvous")):
            raise
        raise InputError(  # every process that is left raises it
            "the processes of this run have lost each other, because one of them has ended (see its own message) or "
            f"the network does not connect them; train again with `resume` ({summarize_error(error)})"
        ) from error
