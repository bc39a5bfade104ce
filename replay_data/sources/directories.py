"""Find the directory of a recorded run."""

from __future__ import annotations

from pathlib import Path

from replay_data.errors import ReplayFormatError


def find_directory(path: Path, *names: str) -> Path:
    """Return the directory ``path/names[0]/names[1]/…``.

    Raises:
        ReplayFormatError: If a directory is missing; the message says what is there instead.
    """
    for name in ("", *names):
        parent, path = path, path / name
        if path.is_dir():
            continue
        if not name:
            what = f"{path} is a file, not a directory" if path.exists() else f"no directory {path}"
            raise ReplayFormatError(f"{what}; give the directory that holds the games")
        if path.exists():
            raise ReplayFormatError(f"{path} is a file, not a directory")
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
