"""Files and directories that are there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay_data.errors import InputError, ReplayFormatError


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``path`` that gets its name when the block ends well, and is removed otherwise.

    Raises:
        InputError: if ``path`` came into being meanwhile.
        OSError: if something cannot be written; it names ``path``.
    """
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had the same number
            partial.mkdir()
            yield partial
            for file in partial.iterdir():
                _sync(file)
            _sync(partial)
            if path.exists():
                raise InputError(f"{path} exists already; another process made it meanwhile")
            partial.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_files(directory: Path) -> Iterator[Path]:
    """Yield a hidden directory in ``directory`` whose files move there when the block ends well, and are removed else.

    Raises:
        OSError: if something cannot be written; it names ``directory``.
    """
    with naming(directory):
        directory.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory))
        try:
            yield partial
            files = sorted(partial.iterdir())
            for file in files:
                _sync(file)
            for file in files:
                file.rename(directory / file.name)
            _sync(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, or replace it.

    Raises:
        OSError: if it cannot be written; what was there before is then there still.
    """
    with replaced_whole(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """Yield the hidden path of a file that takes the place of ``path`` when the block ends well.

    Raises:
        OSError: if something cannot be written; it names ``path``, and what was there before is there still.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with naming(path):
        try:
            yield partial
            _sync(partial)
            partial.replace(path)
            _sync(path.parent)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError carry the name that a person gave, instead of a temporary one or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
