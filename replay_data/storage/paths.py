"""Check paths and free disk space before any work is done."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from replay_data.errors import InputError, ReplayFormatError


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


def check_new_directory(path: Path) -> None:
    """Raise InputError unless a directory can be made at ``path``; asked before the work is done, not after."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; choose another directory, or delete it")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    check_writable(parent / path.name, path)


def check_writable(path: Path, named: Path | None = None) -> None:
    """Raise InputError unless a file can be written at ``path``; asked before the work is done, not after."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{named or path} cannot be written; give a place in a directory that exists and is yours to write"
        ) from error
