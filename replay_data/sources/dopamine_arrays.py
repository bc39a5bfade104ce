"""Stream one gzipped ``.npy`` file of a Dopamine log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import CHUNK_ROWS, MAX_BUFFER_ROWS, PADDING, ROW_ELEMENTS, find_element
from replay_data.storage.gzip_streams import open_gzip, translate_gzip_errors
from replay_data.storage.npy_header import read_npy_header

# Rows of actions, rewards or terminals read at once. Reading in chunks keeps a damaged header, which may promise more
# rows than the file has, from allocating memory for them.
COLUMN_CHUNK_ROWS = 1 << 20

_CONVERTED_BYTES = 1 << 20  # of another dtype, converted at once


class ArrayStream:
    """A forward reader of one element of a buffer; decompresses only the rows that are read.

    A file may hold another boolean, integer or float dtype than Dopamine writes, in any byte order. Its values are
    converted, and a value that would change is an error.

    Args:
        directory: The directory of the log.
        element: One of `ROW_ELEMENTS`.
        index: Index of the buffer.

    Attributes:
        path: The file.
        rows: R, number of rows in the file.
        position: Number of rows read so far.

    Raises:
        ReplayFormatError: If the header is not that of this element.
    """

    def __init__(self, directory: Path, element: str, index: int):
        self.path = find_element(directory, element, index)
        dtype, self._row_shape = ROW_ELEMENTS[element]
        self._element = element
        self._advice = "copy it again" + (", or remove it and go without RAM" if element == "ram" else "")
        self._dtype = self._stored_dtype = np.dtype(dtype)
        self.rows = self.position = 0
        self._file = open_gzip(self.path)
        try:
            self.rows = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> int:
        """Read the header and return the number of rows."""
        expected = f"{self._dtype} [{', '.join(['R', *map(str, self._row_shape)])}]"
        with translate_gzip_errors(
            lambda reason: ReplayFormatError(
                f"{self.path} is damaged or has no valid header ({reason}); {self._advice}, or save its array as "
                f"{expected}"
            )
        ):
            shape, self._stored_dtype = read_npy_header(self._file)
        if not shape or shape[1:] != self._row_shape:
            raise ReplayFormatError(
                f"{self.path} holds {self._stored_dtype} {list(shape)}, but this file of a replay log is {expected}"
            )
        if not PADDING + 2 <= shape[0] <= MAX_BUFFER_ROWS:
            raise ReplayFormatError(
                f"{self.path} has {shape[0]:,} rows; a buffer has {PADDING + 2} to {MAX_BUFFER_ROWS:,}"
            )
        return shape[0]

    def __enter__(self) -> ArrayStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, count: int) -> npt.NDArray[Any]:
        """Return the next ``count`` rows."""
        self._check_end(count)
        rows = np.empty((count, *self._row_shape), dtype=self._dtype)
        if self._stored_dtype == self._dtype:
            self._fill(rows)
            self.position += count
            return rows
        pieces = np.empty((self._rows_to_convert(), *self._row_shape), dtype=self._stored_dtype)
        for start in range(0, count, len(pieces)):
            stored = pieces[: count - start]
            self._fill(stored)
            rows[start : start + len(stored)] = self._convert(stored)
            self.position += len(stored)
        return rows

    def skip(self, count: int) -> None:
        """Read past ``count`` rows, whatever they hold."""
        self._check_end(count)
        rows = np.empty((min(count, CHUNK_ROWS), *self._row_shape), dtype=self._stored_dtype)
        while count:
            skipped = rows[:count]
            self._fill(skipped)
            self.position += len(skipped)
            count -= len(skipped)

    def finish(self) -> None:
        """Read to the end of the file, where gzip compares its checksum."""
        self.skip(self.rows - self.position)
        with translate_gzip_errors(self._damaged):
            if self._file.read(1):
                raise ValueError(f"bytes follow its {self.rows} rows")

    def _check_end(self, count: int) -> None:
        if self.position + count > self.rows:
            raise ReplayFormatError(f"{self.path} ends at row {self.rows}; row {self.position + count - 1} is missing")

    def _rows_to_convert(self) -> int:
        row_bytes = self._stored_dtype.itemsize * math.prod(self._row_shape)
        return max(_CONVERTED_BYTES // row_bytes, 1)

    def _fill(self, rows: npt.NDArray[Any]) -> None:
        """Read the next bytes of the file into an array."""
        buffer = rows.reshape(-1).view(np.uint8)
        filled = 0
        with translate_gzip_errors(self._damaged):
            while filled < len(buffer):
                num_bytes = self._file.readinto(buffer[filled:])
                if not num_bytes:
                    raise EOFError
                filled += num_bytes

    def _convert(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows in the element's dtype."""
        with np.errstate(invalid="ignore", over="ignore"):  # a value that does not fit is found below
            rows = stored.astype(self._dtype)
            # The first comparison finds what wraps around (-1 as uint8), the second what is rounded before it is
            # compared (2**60 + 1 as float32).
            fits = (rows == stored) & (rows.astype(stored.dtype) == stored)
        if not fits.all():
            place = np.unravel_index(np.argmin(fits), fits.shape)
            raise ReplayFormatError(
                f"{self.path}, row {self.position + int(place[0])}: {self._element} {stored[place]} ({stored.dtype}) "
                f"is not exactly representable as {self._dtype}, the type that a replay log holds; correct the array "
                f"and save it as {self._dtype}"
            )
        return rows

    def _damaged(self, reason: str) -> ReplayFormatError:
        return ReplayFormatError(f"{self.path} is damaged at row {self.position} or after ({reason}); {self._advice}")


def read_column(directory: Path, element: str, index: int) -> npt.NDArray[Any]:
    """Return one element of all rows of a buffer and compare its checksum; not for frames, which fill the memory."""
    with ArrayStream(directory, element, index) as stream:
        chunks = [
            stream.read(min(COLUMN_CHUNK_ROWS, stream.rows - start))
            for start in range(0, stream.rows, COLUMN_CHUNK_ROWS)
        ]
        stream.finish()
    return np.concatenate(chunks)


def read_add_count(directory: Path, index: int) -> int | None:
    """Return the ``add_count`` of a buffer, or None if it has no such file."""
    path = directory / f"add_count_ckpt.{index}.gz"
    if not path.exists():
        return None

    def damaged(reason: str) -> ReplayFormatError:
        return ReplayFormatError(f"{path} is damaged ({reason}); copy it again")

    with open_gzip(path) as file, translate_gzip_errors(damaged):
        shape, dtype = read_npy_header(file)
        if shape not in ((), (1,)) or dtype.kind not in "iu":
            raise ValueError(f"it holds {dtype} {list(shape)}, not one count")
        content = file.read(dtype.itemsize)
        if len(content) < dtype.itemsize:
            raise EOFError
        if file.read(1):  # no more than this: the rest may be as large as a disk
            raise ValueError("bytes follow its count")
    count = int(np.frombuffer(content, dtype)[0])
    if count < 0:
        raise damaged(f"its count is {count}")
    return count
