"""Import h5py when it is needed, and write HDF5 files such that a full disk raises an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from replay_data.errors import InputError, summarize_error


def import_h5py() -> Any:
    """Return the module h5py.

    Raises:
        InputError: If it is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"Minari datasets need h5py, which cannot be imported ({summarize_error(error)}); with Python 3.11 or "
            'newer, install it with pip install "minari[hdf5]"'
        ) from error
    return h5py


@contextmanager
def create_hdf5(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Create an HDF5 file; call this in a thread other than the main one.

    The HDF5 library crashes if it cannot write what it holds in memory. So a failed write is reported to the caller
    instead, and the library goes on as if it had succeeded. In the main thread, Ctrl-C could fail a write too.

    Yields:
        ``(file, check)``: the open `h5py.File`, and a function to call from time to time, which raises the OSError of a
        failed write.

    Raises:
        OSError: If a write failed.
    """
    with path.open("w+b", buffering=0) as raw:
        sink = _Sink(raw)
        with import_h5py().File(sink, "w") as file:
            yield file, sink.check
        sink.check()


class _Sink:
    """A file that remembers its first error, and drops what is written after it."""

    def __init__(self, raw: FileIO):
        self._raw = raw
        self._error: OSError | None = None
        self.seek, self.tell, self.flush = raw.seek, raw.tell, raw.flush
        self.read, self.readinto = raw.read, raw.readinto

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        size = rest.nbytes
        try:
            while rest and self._error is None:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int) -> int:
        try:
            if self._error is None:
                self._raw.truncate(size)
        except OSError as error:
            self._error = error
        return size
