"""Exclusive locks on directories. The operating system releases them when their process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay_data.errors import InputError


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Lock a directory for the block.

    Raises:
        BlockingIOError: If another process holds the lock.
        OSError: If the directory does not exist, or its file system cannot lock directories (NFS).
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(directory: Path, doing: str) -> Iterator[None]:
    """Keep other commands out of a directory; do nothing where the file system cannot lock directories.

    Args:
        directory: Directory to lock.
        doing: Activity for the error message, such as ``"training in"``.

    Raises:
        InputError: If another command holds the lock.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_directory(directory))
        except BlockingIOError as error:
            raise InputError(
                f"another command is {doing} {directory}; wait for it or choose another directory"
            ) from error
        except OSError:  # the file system cannot lock directories
            pass
        yield
