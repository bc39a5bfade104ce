"""Check output paths and free disk space before the work begins."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from replay_data.errors import InputError


def check_free_space(path: Path, size: float) -> None:
    """Check that the disk of a new file or directory has room for it.

    The disk may still fill up during the work, which raises an OSError.

    Args:
        path: Path of the new file or directory.
        size: Its size in bytes.

    Raises:
        InputError: If the disk has less free space.
    """
    directory = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(directory).free
    if size > free:
        unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
        raise InputError(
            f"{path} needs {size / unit:.1f} {name}, but the disk has {free / unit:.1f} {name} free; free some space, "
            "choose fewer steps or write to another disk"
        )


def check_new_directory(path: Path) -> None:
    """Check that a directory can be created at ``path``.

    Raises:
        InputError: If ``path`` exists, or the closest existing parent is not writable.
    """
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; choose another directory or delete it first")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    _check_writable(parent / path.name, path)


def check_writable(path: Path) -> None:
    """Check that a file can be written at ``path``.

    Raises:
        InputError: If ``path`` is a directory, or its parent is missing or not writable.
    """
    _check_writable(path, path)


def _check_writable(path: Path, name_in_error: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{name_in_error} cannot be written; choose a path in a directory that is writable") from error
