"""Handle Ctrl-C and SIGTERM in a command, from its first line to its last.

This module imports nothing that takes time, so that a command can call `exit_on_interrupt` before its other imports.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130
"""Exit status of an interrupted command."""


def exit_on_interrupt(module_name: str) -> None:
    """Make Ctrl-C and SIGTERM end this process at once, with one sentence and without cleaning up.

    This suits a command that has written nothing yet. `atari_dt.command_line.run` changes it for the work itself.

    Args:
        module_name: The ``__name__`` of the caller. Nothing happens unless it is ``"__main__"``: worker processes
            import the file of their command under another name, and keep the handlers that they inherited.
    """
    if module_name == "__main__":
        _handle_with(_exit)


@contextmanager
def raise_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt in the block, so that files are finished or removed."""
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        _handle_with(_raise)
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as for a background command of a shell
            signal.signal(signum, handler)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _exit(signum: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one sentence per machine under torchrun
        sys.stderr.write("error: interrupted\n")
        sys.stderr.flush()
    os._exit(STATUS)
