"""The cores, signals and lifetime of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of the block.

    Processes started in the block receive neither signal for their whole life, except on Windows, which has no signal
    masks; their parent ends them.
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    arrived: list[int] = []
    signals = [signum for signum in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(signum) is not signal.SIG_IGN]
    has_mask = hasattr(signal, "pthread_sigmask")
    if has_mask:
        resource_tracker.ensure_running()  # the first process starts it, which would change the mask
    handlers = {signum: signal.signal(signum, lambda signum, _: arrived.append(signum)) for signum in signals}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if has_mask else None  # which new processes inherit
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def exit_with_parent(wait_for_parent: Callable[[], object]) -> None:
    """Exit this process with status 1 as soon as its parent has ended, even if the parent was killed.

    Args:
        wait_for_parent: Function that returns once the parent has ended, such as `wait_for_parent_process` or
            `wait_for_stdin_to_close`. It is called in a daemon thread.
    """

    def watch() -> None:
        wait_for_parent()
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


def wait_for_parent_process() -> None:
    """Wait, in a process started by `multiprocessing`, until the parent process has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process that multiprocessing started has such a parent"
    parent.join()


def stdin_is_pipe() -> bool:
    """Return whether standard input is a pipe, as in a process started with ``stdin=subprocess.PIPE``."""
    return stat.S_ISFIFO(os.fstat(0).st_mode)


def wait_for_stdin_to_close() -> None:
    """Wait until no process holds the write end of standard input, which is a pipe."""
    while os.read(0, 1):
        pass
