"""Exclusive locks on directories. The operating system releases them when their process ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from replay_data.errors import InputError


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Lock a directory for the block.

    Where the system can lock only files (Windows, NFS), this locks a hidden file beside the directory. The file of a
    killed process stays behind, but its lock does not.

    Raises:
        BlockingIOError: If another process holds the lock.
        OSError: If the directory does not exist, or its file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            locked = lock_descriptor(descriptor, blocking=False)
        except OSError:
            if not directory.is_dir():
                raise
            locked = stack.enter_context(_lock_file(directory))
        if not locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(directory))
        yield


@contextmanager
def _lock_file(directory: Path) -> Iterator[bool]:
    """Lock the file that stands for a directory; yield whether it could be locked."""
    directory = directory.resolve()
    path = directory.with_name(f".{directory.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    in_use = False
    try:
        # The process that held the lock before may have removed the file since it was opened.
        in_use = not lock_descriptor(descriptor, blocking=False) or not _is_open_as(path, descriptor)
        yield not in_use
    finally:
        removed = in_use or _remove(path)  # while it is locked, so that no other process has locked it
        os.close(descriptor)
        if not removed:  # Windows cannot remove an open file
            _remove(path)


def _is_open_as(path: Path, descriptor: int) -> bool:
    """Return whether a path still names the file of a descriptor."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> bool:
    """Try to remove a file; return whether that succeeded."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


@contextmanager
def exclusive_lock(directory: Path, doing: str) -> Iterator[None]:
    """Keep other commands out of a directory; do nothing where the file system has no locks.

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
        except OSError:  # the file system has no locks
            pass
        yield
