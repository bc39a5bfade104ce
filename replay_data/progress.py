"""Progress bars that keep logs short."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar(tqdm):
    """A tqdm progress bar on standard error.

    On a terminal it redraws itself twice a second. Elsewhere (a log file, a pipe) it prints whole lines, at most one
    every 10 seconds, and a last one when it closes. Arguments are those of ``tqdm.tqdm``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prints_lines = not sys.stderr.isatty()
        self._last_line = time.monotonic()
        kwargs.setdefault("mininterval", 0.5)
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or print a line if the last one is old enough."""
        if not self._prints_lines:
            return super().display(msg, pos)
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()
        return True

    def close(self) -> None:
        """Print the final state and release the bar."""
        if not self._prints_lines:
            super().close()
        elif not self.disable:
            self.disable = True
            self._decr_instances(self)  # type: ignore[attr-defined]
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()
