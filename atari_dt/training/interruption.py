"""Stop a training run cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training run, after the update under way and with a checkpoint.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Interruption:
    """While it is open, the first Ctrl-C or SIGTERM is only noted, so that no update is cut in half.

    A second one interrupts at once, unless it follows within a second: torchrun passes on to its processes what the
    terminal has told them already.
    """

    def __enter__(self) -> Interruption:
        self.number, self._since = 0, 0.0
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt
        self.number, self._since = number, time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.number and kind is None:  # it came after the last update, and is not to be lost
            raise TrainingStopped("the training has just ended, and its last checkpoint can be evaluated", self.number)
