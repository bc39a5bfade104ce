"""Handle Ctrl-C and SIGTERM in a command, from its first line to its last.

This module imports nothing that takes time, so that a command can call `exit_on_interrupt` before its other imports.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STATUS = 130
"""Exit status of an interrupted command."""

_ECHO = 1.0  # seconds within which a signal counts as a copy of the last one, such as one that a launcher forwards
_REMINDER = 0.5  # seconds between two attempts to interrupt code that has swallowed a KeyboardInterrupt

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_arrival: float | None = None  # time of the last signal in the block of `raise_on_interrupt`

_signum = 0  # number of the first signal in that block

_is_raising = False  # whether that block is being executed


class EndedByTorchrun(KeyboardInterrupt):
    """SIGTERM in a process of a distributed run.

    All processes of the run may get it, or only those that are left after one was lost.
    """

    def __init__(
        self,
        message: str = (
            "torchrun has ended this process, because torchrun itself was stopped or because another process of this "
            "run was lost"
        ),
    ):
        super().__init__(message)


def interruption(signum: int) -> KeyboardInterrupt:
    """Return the exception to raise for a signal."""
    distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return EndedByTorchrun() if distributed and signum == signal.SIGTERM else KeyboardInterrupt()


def exit_on_interrupt(module_name: str) -> None:
    """Make Ctrl-C and SIGTERM end this process at once, with one sentence and without cleaning up.

    This suits a command that has written nothing yet. `raise_on_interrupt` replaces it for the work itself.

    Args:
        module_name: The ``__name__`` of the caller. Nothing happens unless it is ``"__main__"``: worker processes
            import the file of their command under another name, and keep the handlers that they inherited.
    """
    if module_name == "__main__":
        _handle_with(_exit)
        # Python restores the system's handlers shortly before a process ends, but leaves ignored signals ignored.
        atexit.register(_handle_with, signal.SIG_IGN)


@contextmanager
def raise_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt in the block, so that files are finished or removed.

    Python ignores an exception in a destructor or a callback of the garbage collector, and some libraries catch
    everything. The importlib of Python 3.11, for example, has such a callback in every import. KeyboardInterrupt is
    therefore raised again until it leaves the block (at the latest at its end, where the system has no timers), and
    replaces any other exception that leaves the block after a signal.

    While code cleans up after KeyboardInterrupt, another signal interrupts it only if it follows after more than a
    second.

    Raises:
        KeyboardInterrupt: If a signal has arrived.
    """
    global _arrival, _is_raising
    handlers, report_ignored = {signum: signal.getsignal(signum) for signum in _SIGNALS}, sys.unraisablehook

    def report_ignored_except_interrupts(ignored: Any) -> None:
        if not (_arrival is not None and issubclass(ignored.exc_type, KeyboardInterrupt)):
            report_ignored(ignored)

    try:
        _arrival, _is_raising = None, True
        sys.unraisablehook = report_ignored_except_interrupts
        _handle_with(_raise)
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if _arrival is not None:
            raise interruption(_signum) from error
        raise
    else:
        if _arrival is not None:
            raise interruption(_signum)
    finally:
        _is_raising = False
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in handlers.items():
            if signal.getsignal(signum) is not signal.SIG_IGN:  # the block may ignore a signal until the process ends
                signal.signal(signum, handler)
        sys.unraisablehook = report_ignored


def _handle_with(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # a shell's background commands ignore Ctrl-C
            signal.signal(signum, handler)


def _exit(signum: int, frame: FrameType | None) -> None:
    if _arrival is not None and time.monotonic() - _arrival < _ECHO:  # this process is ending already
        return
    error = interruption(signum)
    if isinstance(error, EndedByTorchrun):
        os.write(2, f"error: interrupted; {error}\n".encode())
    elif os.environ.get("LOCAL_RANK", "0") == "0":  # one sentence per machine under torchrun
        os.write(2, b"error: interrupted\n")
    os._exit(STATUS)


def _raise(signum: int, frame: FrameType | None) -> None:
    global _arrival, _signum
    if not _is_raising:
        _exit(signum, frame)
        return
    previous, _arrival = _arrival, time.monotonic()
    _signum = signum if previous is None else _signum
    if previous is None and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _remind)
        signal.setitimer(signal.ITIMER_REAL, _REMINDER, _REMINDER)
    if previous is None or _arrival - previous > _ECHO or not _is_cleaning_up():
        raise interruption(_signum)


def _remind(signum: int, frame: FrameType | None) -> None:
    if _is_raising and not _is_cleaning_up():
        raise interruption(_signum)


def _is_cleaning_up() -> bool:
    """Return whether the interrupted code belongs to an ``except`` or ``finally`` that handles a KeyboardInterrupt."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
