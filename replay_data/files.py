"""Files and directories that are there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay_data.errors import InputError, ReplayFormatError


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``path`` that gets its name when the block ends well, and is removed otherwise.

    What killed processes left of the same output is removed first.

    Raises:
        InputError: if ``path`` came into being meanwhile.
        OSError: if something cannot be written; it names ``path``.
    """
    prefix = f".{path.name}.partial-"
    with naming(path, path.parent / prefix), contextlib.ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(prefix)}*"):
            with contextlib.suppress(OSError), locked(left):  # held by its process as long as that lives
                shutil.rmtree(left)
        partial = path.parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # a file system without locks; there nobody removes it either
            stack.enter_context(locked(partial))
        yield partial
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if os.path.lexists(path):
            raise InputError(f"{path} exists already; another process made it meanwhile")
        partial.rename(path)
        sync(path.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
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
def held(directory: Path, doing: str) -> Iterator[None]:
    """Keep other commands from ``doing`` the same in a directory; where directories cannot be locked, do nothing.

    Raises:
        InputError: if another command holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory))
        except BlockingIOError as error:
            raise InputError(
                f"another command is {doing} {directory}; wait for it, or choose another directory"
            ) from error
        except OSError:  # a file system without such locks
            pass
        yield


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, or replace it.

    Raises:
        OSError: if it cannot be written; what was there before is then there still.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with naming(path, partial):
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def find_directory(path: Path, *names: str) -> Path:
    """Return ``path/names[0]/names[1]/…``.

    Raises:
        ReplayFormatError: if one is not there; the message says what is.
    """
    for name in ("", *names):
        parent, path = path, path / name
        if path.is_dir():
            continue
        if not name:
            raise ReplayFormatError(f"no directory {path}; give the one that holds the games")
        if path.exists():
            raise ReplayFormatError(f"{path} is a file, not a directory")
        if (above := next((folder for folder in parent.parents if (folder / name).is_dir()), None)) is not None:
            raise ReplayFormatError(f"no {name} in {parent}; give --path {above}, which holds it")
        entries = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
        other_case = [entry for entry in entries if entry.lower() == name.lower()]
        if other_case:
            hint = f"rename {other_case[0]} to {name}"
        else:
            hint = f"it holds {', '.join(entries[:8])}{' …' if len(entries) > 8 else ''}" if entries else "it is empty"
        raise ReplayFormatError(f"no {name} in {parent}; {hint}")
    return path


def check_free_space(path: Path, size: float) -> None:
    """Raise InputError if the disk that ``path`` is to be made on cannot hold ``size`` bytes.

    Better now than after an hour's work; what fills up meanwhile is still an OSError.
    """
    directory = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(directory).free
    if size > free:
        raise InputError(
            f"{path} needs {size / 1e9:.1f} GB, but the disk has {free / 1e9:.1f} GB free; free some space, ask for "
            "fewer steps or write to another disk"
        )


def sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path, hidden: Path) -> Iterator[None]:
    """Let an OSError that has no name, or one in ``hidden``, carry the ``path`` that a person gave."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or hidden).startswith(str(hidden)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
