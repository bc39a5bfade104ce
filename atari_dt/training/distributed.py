"""Several processes that train one model together, on one machine or on many."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from atari_dt.command_line import RankError
from atari_dt.interrupts import EndedByTorchrun, interruption
from replay_data import InputError
from replay_data.contexts import IntArray

T = TypeVar("T")

PEER_TIMEOUT = timedelta(minutes=5)
"""Time for which a process waits for the others before it takes one of them for lost."""


class SharedError(InputError):
    """An InputError that every process of a group raises, so that one of them can print it for all.

    Its opposite is `RankError`, an error of one process.
    """


class ProcessLostError(RankError):
    """Another process of the group has ended, or does not answer."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, seen from one of them. The default is a group of one process.

    All processes must call the same collective methods (``all_...`` and ``broadcast_object``) in the same order.
    In a group of one they do not communicate.

    Attributes:
        rank: Index of this process in the group.
        size: Number of processes in the group.
        local_rank: Index of this process among those of the group on the same machine.
        control: PyTorch's group for the collective methods; None in a group of one.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    control: dist.ProcessGroup | None = None

    def shard(self, steps: IntArray) -> IntArray:
        """Return this process's share of the windows ``[B]`` of an update.

        If the update has fewer windows than the group has processes, the processes that are left over get its first
        window. They take part in every computation, and `weight` gives them a weight of 0.
        """
        return steps[self.rank :: self.size] if self.rank < len(steps) else steps[:1]

    def weight(self, steps: IntArray, count_steps: Callable[[IntArray], int]) -> float:
        """Return the weight of this process's shard in the loss of an update: its fraction of the update's steps.

        Args:
            steps: int64 ``[B]``, windows of the update.
            count_steps: Function that returns the number of steps in windows, `BatchLoader.num_steps`.
        """
        if self.size == 1:
            return 1.0
        return count_steps(steps[self.rank :: self.size]) / count_steps(steps)

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum of a value over the processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return int(tensor)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.control)
        return tensor

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control)
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
        dist.broadcast_object_list(outcome, group=self.control)
        if isinstance(outcome[0], SharedError):
            raise outcome[0]
        return outcome[0]


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Join the group of processes that ``torchrun`` started; without ``torchrun``, yield a group of one.

    Raises:
        RankError: If the block raises an InputError that is not a SharedError; the message names the process.
        ProcessLostError: If another process has ended, or has not answered for ``PEER_TIMEOUT``. From then on this
            process ignores SIGTERM: ``torchrun`` sends it to the processes that are left.
        EndedByTorchrun: On SIGTERM, unless the block handles it.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ProcessGroup()
        return
    handler = _handle_sigterm(_terminate)
    try:
        _connect()
        succeeded = False
        try:
            yield ProcessGroup(
                rank=dist.get_rank(),
                size=dist.get_world_size(),
                local_rank=int(os.environ.get("LOCAL_RANK", 0)),
                control=dist.new_group(backend="gloo", timeout=PEER_TIMEOUT),
            )
            succeeded = True
        finally:
            gc.collect()  # objects that refer to the group must be freed before its threads end
            if succeeded or not torch.cuda.is_available():  # after a failure NCCL may wait for a process that has ended
                dist.destroy_process_group()
    except SharedError:
        raise
    except InputError as error:
        raise RankError(f"process {os.environ.get('RANK')}: {error}") from error
    except (RuntimeError, ValueError, EndedByTorchrun) as error:
        if (cause := _find_network_error(error)) is None:
            raise
        handler = signal.SIG_IGN
        if "timed out" in str(cause).lower():
            happened = f"has not answered for {PEER_TIMEOUT.total_seconds() / 60:g} minutes"
        else:
            happened = "has ended or cannot be reached"
        raise ProcessLostError(f"process {os.environ.get('RANK')}: another process of this run {happened}") from error
    finally:
        _handle_sigterm(handler)


def _connect() -> None:
    """Connect to the other processes.

    Raises:
        InputError: If the processes cannot connect.
        EndedByTorchrun: On SIGTERM.
    """
    cuda = torch.cuda.is_available()
    errors: list[Exception] = []

    def connect() -> None:
        try:
            # PyTorch ends a process whose GPU waits for longer than the timeout, without a message. The group of
            # `ProcessGroup.control` must notice a lost process before.
            timeout = 2 * PEER_TIMEOUT if cuda else PEER_TIMEOUT
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout)
        except (RuntimeError, ValueError) as error:
            errors.append(error)

    # In a thread, because a signal does not interrupt PyTorch while it waits for the other processes.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.1)
    if errors:
        raise InputError(
            f"the processes of this run cannot connect ({str(errors[0]).strip().partition(chr(10))[0]}); start all of "
            "them with torchrun, on machines that reach each other"
        ) from errors[0]


def _find_network_error(error: BaseException | None) -> BaseException | None:
    """Return the network error behind an error, if there is one: the error itself, or one that it followed."""
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            return error
        error = error.__context__
    return None


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise interruption(signum)


def _handle_sigterm(handler: Any) -> Any:
    """Handle SIGTERM with ``handler``, and return what handled it before; do nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        return handler
    return signal.signal(signal.SIGTERM, handler)
