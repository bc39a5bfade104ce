"""Exclusive locks on directories, held for as long as their process lives."""

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
    """Hold a directory against other processes that ask for it, as long as this one lives.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: if it is not there, or its file system cannot lock directories (NFS).
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(directory: Path, doing: str) -> Iterator[None]:
    """Keep other commands from ``doing`` the same in a directory; where directories cannot be locked, do nothing.

    Raises:
        InputError: if another command holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_directory(directory))
        except BlockingIOError as error:
            raise InputError(
                f"another command is {doing} {directory}; wait for it, or choose another directory"
            ) from error
        except OSError:  # a file system without such locks
            pass
        yield
