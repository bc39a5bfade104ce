"""Progress bars that keep log files short."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class ProgressBar(tqdm):
    """A tqdm progress bar on standard error that prints whole lines where there is no terminal.

    On a terminal, the bar is redrawn at most twice a second. Elsewhere (a log file, a pipe), it prints a line at most
    every 10 seconds, and a final line when it closes, unless ``leave=False``. The arguments are those of ``tqdm.tqdm``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prints_lines = not sys.stderr.isatty()
        self._last_line = time.monotonic()
        kwargs.setdefault("mininterval", 0.5)
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or print a line if the last one is at least 10 seconds old."""
        if not self._prints_lines:
            return super().display(msg, pos)
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Erase the bar; printed lines stay."""
        if not self._prints_lines:
            super().clear(nolock)

    def close(self) -> None:
        """Show the final state and release the bar."""
        if not hasattr(self, "start_t"):  # set last; missing in a disabled bar and if the constructor was interrupted
            self.disable = True
        elif not self._prints_lines:
            super().close()
        elif not self.disable:
            self.disable = True
            self._decr_instances(self)  # type: ignore[attr-defined]
            if self.leave:
                self._ema_dt = lambda: None  # makes tqdm show the rate of the whole run
                self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()
