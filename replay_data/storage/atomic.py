"""Write files and directories atomically: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay_data.errors import InputError
from replay_data.storage.locks import lock_directory

_ON_WINDOWS = os.name == "nt"


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Create a directory that appears under its name only when it is complete.

    The block writes to a hidden directory beside ``path``. It is renamed to ``path`` when the block succeeds, and
    removed when the block raises. Hidden directories that killed processes left of the same output are removed first.

    Yields:
        The hidden directory.

    Raises:
        InputError: If another process has created ``path`` in the meantime.
        OSError: If a file cannot be written; the error names ``path``.
    """
    prefix = f".{path.name}.partial-"
    with name_file_in_errors(path, path.parent / prefix), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
            with contextlib.suppress(OSError), lock_directory(leftover):  # fails while its process lives
                shutil.rmtree(leftover)
        partial = path.parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system without locks, where no process removes it either
            stack.enter_context(lock_directory(partial))
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if os.path.lexists(path):
            raise InputError(f"{path} exists already; another process created it in the meantime")
        partial.rename(path)
        sync(path.parent)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write or replace a file, so that it always has either its old or its new content.

    Raises:
        OSError: If the file cannot be written; it then keeps its old content.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with name_file_in_errors(path, partial):
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or directory to disk (fsync). Windows flushes only files, and only if they are open for writing."""
    if _ON_WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if _ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def name_file_in_errors(path: Path, hidden: Path) -> Iterator[None]:
    """Make an OSError without a file name, or about a file in ``hidden``, name the ``path`` that the user knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or hidden).startswith(str(hidden)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
