"""Stream one gzipped ``.npy`` file of a Dopamine log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import CHUNK_ROWS, ELEMENTS, PADDING, element_path
from replay_data.storage.gzip_streams import open_gzip, translate_gzip_errors

# Rows of actions, rewards or terminals read at once. Reading in chunks keeps a damaged header, which may promise more
# rows than the file has, from allocating memory for them.
COLUMN_CHUNK_ROWS = 1 << 20


class ArrayStream:
    """A forward reader of one element of a buffer; decompresses only the rows that are read.

    Args:
        directory: The ``replay_logs`` directory.
        element: One of `ELEMENTS`.
        index: Index of the buffer.

    Attributes:
        path: The file.
        rows: R, number of rows in the file.
        position: Number of rows read so far.

    Raises:
        ReplayFormatError: If the header is not that of this element.
    """

    def __init__(self, directory: Path, element: str, index: int):
        self.path = element_path(directory, element, index)
        dtype, self._row_shape = ELEMENTS[element]
        self._dtype = np.dtype(dtype)
        self.rows = self.position = 0
        self._file = open_gzip(self.path)
        try:
            self.rows = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> int:
        """Read the header and return the number of rows."""
        with translate_gzip_errors(self._damaged):
            shape, dtype = _read_header(self._file)
        if dtype != self._dtype or shape[1:] != self._row_shape or not shape:
            expected = ", ".join(["R", *map(str, self._row_shape)])
            raise ReplayFormatError(
                f"{self.path} holds {dtype} {list(shape)}, but this file of a replay log is {self._dtype} [{expected}]"
            )
        if shape[0] < PADDING + 2:
            raise ReplayFormatError(f"{self.path} has {shape[0]} rows; a buffer has at least {PADDING + 2}")
        return int(shape[0])

    def __enter__(self) -> ArrayStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, count: int) -> npt.NDArray[Any]:
        """Return the next ``count`` rows."""
        if self.position + count > self.rows:
            raise ReplayFormatError(f"{self.path} ends at row {self.rows}; row {self.position + count - 1} is missing")
        rows = np.empty((count, *self._row_shape), dtype=self._dtype)
        buffer = rows.reshape(-1).view(np.uint8)
        filled = 0
        with translate_gzip_errors(self._damaged):
            while filled < len(buffer):
                num_bytes = self._file.readinto(buffer[filled:])
                if not num_bytes:
                    raise EOFError
                filled += num_bytes
        self.position += count
        return rows

    def skip(self, count: int) -> None:
        """Read past ``count`` rows."""
        while count:
            step = min(count, CHUNK_ROWS)
            self.read(step)
            count -= step

    def finish(self) -> None:
        """Read to the end of the file, where gzip compares its checksum."""
        self.skip(self.rows - self.position)
        with translate_gzip_errors(self._damaged):
            if self._file.read(1):
                raise ValueError(f"bytes follow its {self.rows} rows")

    def _damaged(self, reason: str) -> ReplayFormatError:
        return ReplayFormatError(f"{self.path} is damaged at row {self.position} or after ({reason}); copy it again")


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
        shape, dtype = _read_header(file)
        if shape != () or dtype.kind not in "iu":
            raise ValueError(f"it holds {dtype} {list(shape)}, not one count")
        content = file.read()
        count = int(np.frombuffer(content, dtype)[0]) if len(content) == dtype.itemsize else -1
        if count < 0:
            raise ValueError("it holds no count")
    return count


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype in the header of a ``.npy`` file.

    Raises:
        ValueError, EOFError: If the file does not begin with a header of ``.npy`` version 1.0.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is not of .npy version 1.0")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (OSError, EOFError):
        raise
    except Exception as error:  # the header is a Python literal, and its parser can raise nearly anything
        raise ValueError(f"it has no valid .npy header: {error}") from error
    if fortran_order:
        raise ValueError("it is in Fortran order")
    return shape, dtype
