"""Training in several processes, on one machine or many: who takes part, and what all must agree on."""

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

from atari_dt.command_line import OfOneProcess
from replay_data import InputError
from replay_data.contexts import IntArray

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together; alone, all its methods return what they are given.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local_rank: of this process among those on the same machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def shard(self, steps: IntArray) -> IntArray:
        """Return this process's part of an update's contexts ``[B]``; one of them where there are fewer than processes.

        A process without a part does as the others do, and its ``share`` is 0.
        """
        return steps[self.rank :: self.size] if self.rank < len(steps) else steps[:1]

    def weight(self, steps: IntArray, num_steps: Callable[[IntArray], int]) -> float:
        """Return the fraction of all steps of an update, as ``num_steps`` counts them, that is in this part."""
        if self.size == 1:
            return 1.0
        return num_steps(steps[self.rank :: self.size]) / num_steps(steps)

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of all processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors; ``tensor`` itself becomes it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, value: T) -> list[T]:
        """Return all processes' values, by rank."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, compute: Callable[[], T]) -> T:
        """Call a function in process 0; return its result, or raise its InputError, in all of them."""
        if self.size == 1:
            return compute()
        outcome: list[Any] = [None]
        if self.rank == 0:
            try:
                outcome = [compute()]
            except InputError as error:
                outcome = [error]
        dist.broadcast_object_list(outcome)
        if isinstance(outcome[0], InputError):
            raise shared(outcome[0])
        return outcome[0]


def shared(error: InputError) -> InputError:
    """Mark an error that all processes raise, so that one of them says it."""
    error.shared = True  # type: ignore[attr-defined]
    return error


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` started, if it did.

    An InputError of this process alone leaves with its number.

    Raises:
        InputError: if they do not find each other, or one of them has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ProcessGroup()
        return
    cuda = torch.cuda.is_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        ended_well = False
        try:
            yield ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
            ended_well = True
        finally:
            gc.collect()  # what still holds the group must be gone before its threads are
            if ended_well or not cuda:  # NCCL may wait for a process that has ended
                dist.destroy_process_group()
    except InputError as error:
        if hasattr(error, "shared"):
            raise
        raise OfOneProcess(f"process {os.environ.get('RANK')}: {error}") from error
    except (RuntimeError, ValueError) as error:
        if not isinstance(error, dist.DistError) and not any(name in str(error) for name in ("gloo", "rendezvous")):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(  # all that are left raise it
            "the processes of this run have lost each other, because one of them has ended (see its own message) or "
            f"the network does not let them talk; train again with --resume ({reason})"
        ) from error
