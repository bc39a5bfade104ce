"""Files and directories that are there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay_data.errors import InputError


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a hidden directory beside ``path`` that gets its name when the block ends well, and is removed otherwise.

    Raises:
        InputError: if ``path`` came into being meanwhile.
        OSError: if something cannot be written; it names ``path``.
    """
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
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
    except OSError as error:
        raise _named(error, path) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, or replace it.

    Raises:
        OSError: if it cannot be written; what was there before is then there still.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named(error: OSError, path: Path) -> OSError:
    """The same error with the name that a person gave, instead of a temporary one or none."""
    return error if error.errno is None else OSError(error.errno, error.strerror, str(path))
