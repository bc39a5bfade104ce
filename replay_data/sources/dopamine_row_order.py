"""Rows of a circular buffer in the order they were added, wherever its file keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.sources.dopamine_rows import RowReader, Rows


@dataclass(frozen=True)
class RowRange:
    """Rows ``start`` to ``stop - 1`` of a circular buffer, numbered in the order they were added.

    A buffer of R slots keeps row g in slot ``g % R`` until row g + R overwrites it.

    Attributes:
        start: Number of the first row.
        stop: Number after the last row, at most ``start + num_slots``; not above ``start`` if there are no rows.
        num_slots: R.
    """

    start: int
    stop: int
    num_slots: int

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first slot and the exclusive end of each run of slots that holds the rows, in the order of the rows."""
        first = self.start % self.num_slots
        end = first + len(self)
        spans = [(first, min(end, self.num_slots)), (0, end - self.num_slots)]
        return [(low, high) for low, high in spans if low < high]

    def of(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the values of the rows, in their order, from one value per slot."""
        return np.concatenate([column[:0], *(column[low:high] for low, high in self.spans)])


class OrderedRowReader:
    """A forward reader of a range of rows of one buffer file, in the order they were added.

    A range that wraps around the last slot takes two passes over the file.

    Args:
        open_file: Function that opens the file at slot 0.
        rows: The rows to read.

    Attributes:
        position: Number of rows read so far.
    """

    def __init__(self, open_file: Callable[[], RowReader], rows: RowRange):
        self.position = 0
        self._open_file, self._spans = open_file, rows.spans
        self._reader = open_file()
        self._finished = False  # whether a pass has read the file to its end

    def __enter__(self) -> OrderedRowReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def chunks(self, stop: int) -> Iterator[Rows]:
        """Yield the rows from `position` to position ``stop``, at most 1024 at a time."""
        while self.position < stop:
            low, high = self._spans[0]
            if self._reader.position == high:
                del self._spans[0]
                self.finish()
                self._reader.close()
                self._reader = self._open_file()
                continue
            if self._reader.position < low:
                self._reader.skip(low - self._reader.position)
            rows = next(self._reader.chunks(min(high, self._reader.position + stop - self.position)))
            self.position += len(rows)
            yield rows

    def finish(self, frames: bool = True) -> None:
        """Read the file to its end, where gzip compares its checksums, unless an earlier pass has done so.

        Args:
            frames: Whether to read the frames too, which takes longest.
        """
        if not self._finished:
            self._reader.finish(frames)
            self._finished = frames
