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


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``path`` that gets its name when the block ends well, and is removed otherwise.

    What killed processes left of the same output is removed first.

    Raises:
        InputError: if ``path`` came into being meanwhile.
        OSError: if something cannot be written; it names ``path``.
    """
    prefix = f".{path.name}.partial-"
    with name_file_in_errors(path, path.parent / prefix), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(prefix)}*"):
            with contextlib.suppress(OSError), lock_directory(left):  # held by its process as long as that lives
                shutil.rmtree(left)
        partial = path.parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system without locks; there nobody removes it either
            stack.enter_context(lock_directory(partial))
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if os.path.lexists(path):
            raise InputError(f"{path} exists already; another process made it meanwhile")
        partial.rename(path)
        sync(path.parent)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file, or replace it.

    Raises:
        OSError: if it cannot be written; what was there before is then there still.
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
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def name_file_in_errors(path: Path, hidden: Path) -> Iterator[None]:
    """Let an OSError that has no name, or one in ``hidden``, carry the ``path`` that a person gave."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or hidden).startswith(str(hidden)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
