"""Stop a training run cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM has ended a training run, after a complete update and with a checkpoint.

    Attributes:
        signum: Number of the signal, such as ``signal.SIGTERM``.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class Interruption:
    """A context manager that defers Ctrl-C and SIGTERM, so that no update is interrupted half-way.

    The first signal only sets ``signum``, which the training loop reads after each update. A second signal raises
    KeyboardInterrupt at once, unless it follows within a second: ``torchrun`` forwards to its processes a Ctrl-C that
    the terminal has already sent them.

    Attributes:
        signum: Number of the signal that has arrived; 0 before one does.
    """

    def __enter__(self) -> Interruption:
        self.signum, self._arrival = 0, 0.0
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to the main thread only
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._handlers[signum] = signal.signal(signum, self._handle)
        return self

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and time.monotonic() - self._arrival > 1:
            raise KeyboardInterrupt
        self.signum, self._arrival = signum, time.monotonic()

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        if self.signum and error_type is None:  # the signal came after the last update and must still stop the command
            raise TrainingStopped("training has just ended; its last checkpoint can be evaluated", self.signum)
