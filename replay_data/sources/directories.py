"""Find the directory of a recorded run, and recognize what a directory holds where it is another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from replay_data.errors import ReplayFormatError

_DIGITS = "[0-9]*"

_LAYOUTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("dopamine", "a Dopamine log", ("*", _DIGITS, "replay_logs")),
    ("dopamine", "a Dopamine log", ("*", _DIGITS, _DIGITS, "observation.gz")),  # d4rl-atari's
    ("rl_unplugged", "shards of RL Unplugged", ("*", "run_[0-9]*-*-of-*")),
    ("jat", "files of the JAT dataset", ("atari-*", "*.parquet")),
    *(("minari", "a Minari dataset", (*["*"] * depth, "data", "main_data.hdf5")) for depth in range(4)),
)
"""Source format, what a user calls it, and the path of a file or directory of it below `path`, as patterns."""

_MAX_ENTRIES = 10_000  # to look at below a directory


@dataclass(frozen=True)
class Recognized:
    """Recorded data that a directory holds.

    Attributes:
        source: Source format, such as ``"dopamine"``.
        name: What a user calls it, such as ``"a Dopamine log"``.
        path: Directory from which the format's reader finds the data.
    """

    source: str
    name: str
    path: Path


def recognize(path: Path) -> list[Recognized]:
    """Return the recorded data in or around a directory, one entry per source format.

    Args:
        path: The directory. It may be one that a reader expects, which holds the games, or lie below such a directory.
    """
    found: dict[str, Recognized] = {}
    for source, name, pattern in _LAYOUTS:
        for depth, top in enumerate((path, *path.parents)[: 1 if source == "minari" else len(pattern) + 1]):
            parts = path.parts[len(path.parts) - depth :]
            below = all(map(fnmatchcase, parts, pattern)) and _exists(path, pattern[depth:], iter(range(_MAX_ENTRIES)))
            if below and source not in found:
                found[source] = Recognized(source, name, top)
    return list(found.values())


def is_store(path: Path) -> bool:
    """Return whether a directory looks like a trajectory store."""
    return (path / "metadata.json").is_file() and (path / "frames.npy").is_file()


def refuse_other_formats(path: Path, source: str) -> None:
    """Do nothing unless a directory holds recorded data of other formats only, or is a store.

    Args:
        path: The directory.
        source: Source format that the user asked for.

    Raises:
        ReplayFormatError: If it does; the message says how to read the data.
    """
    if is_store(path):
        raise ReplayFormatError(f"{path} is a trajectory store; set `source` to store")
    found = recognize(path)
    if found and source not in [each.source for each in found]:
        other = found[0]
        move = "" if other.path == path else f" and `path` to {other.path}"
        raise ReplayFormatError(f"{path} holds {other.name}; set `source` to {other.source}{move}")


def find_directory(path: Path, *names: str, source: str) -> Path:
    """Return the directory ``path/names[0]/names[1]/…``.

    Args:
        path: Directory that the user named.
        names: Names of the directories below it.
        source: Source format that is read.

    Raises:
        ReplayFormatError: If a directory is missing; the message says what is there instead.
    """
    root = path
    for name in ("", *names):
        parent, path = path, path / name
        if path.is_dir():
            continue
        if not name:
            what = f"{path} is a file, not a directory" if path.exists() else f"no directory {path}"
            raise ReplayFormatError(f"{what}; give the directory that holds the games")
        if path.exists():
            raise ReplayFormatError(f"{path} is a file, not a directory")
        refuse_other_formats(root, source)
        if (above := next((folder for folder in parent.parents if (folder / name).is_dir()), None)) is not None:
            raise ReplayFormatError(f"no {name} in {parent}; set `path` to {above}, which holds it")
        entries = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
        other_case = [entry for entry in entries if entry.lower() == name.lower()]
        if other_case:
            hint = f"rename {other_case[0]} to {name}"
        elif entries:
            hint = f"it holds {', '.join(entries[:8])}{' …' if len(entries) > 8 else ''}"
        else:
            hint = "it is empty"
        raise ReplayFormatError(f"no {name} in {parent}; {hint}")
    return path


def _exists(directory: Path, pattern: tuple[str, ...], budget: Iterator[int]) -> bool:
    """Return whether a path below a directory fits a pattern, as far as the budget of entries to look at shows."""
    if not pattern:
        return directory.exists()
    name, rest = pattern[0], pattern[1:]
    if not set(name) & set("*["):
        return _exists(directory / name, rest, budget)
    try:
        with os.scandir(directory) as entries:
            return any(
                fnmatchcase(entry.name, name) and not entry.name.startswith(".") and _exists(Path(entry), rest, budget)
                for entry, _ in zip(entries, budget, strict=False)
            )
    except OSError:  # it is no directory, or not readable
        return False
