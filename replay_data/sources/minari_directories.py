"""Find a game's dataset among those that Minari keeps, one directory each: ``atari/breakout/expert-v0/data``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from replay_data.errors import ReplayFormatError
from replay_data.sources.directories import refuse_other_formats

METADATA_FILE = "metadata.json"

DATA_FILE = "main_data.hdf5"

_MAX_DEPTH = 6  # of a dataset below Minari's root; public ones have 3

_MAX_DIRECTORIES = 10_000

_MAX_LISTED = 8


def find_data_directory(path: Path, game: str) -> Path:
    """Return the directory that holds the files of a dataset, ``metadata.json`` and ``main_data.hdf5``.

    Args:
        path: The dataset's directory, or one above it, such as Minari's root ``~/.minari/datasets``. There, the game's
            dataset is the one that has the game in its name, as ``atari/mspacman/expert-v0`` has MsPacman.
        game: Name of the game, such as ``"MsPacman"``.

    Raises:
        ReplayFormatError: If there is no such dataset, or more than one; the message says what is there.
    """
    download = f"minari download atari/{simplify_name(game)}/expert-v0 puts one into ~/.minari/datasets"
    if not path.is_dir():
        what = f"{path} is a file, not" if path.exists() else f"{path} is not"
        raise ReplayFormatError(
            f"{what} a directory of Minari datasets; {download}, or into the directory that MINARI_DATASETS_PATH names"
        )
    if (data := _data_directory(path)) is not None:
        return data
    names = sorted(directory.relative_to(path).as_posix() for directory in _find_datasets(path))
    matching = [name for name in names if simplify_name(game) in map(simplify_name, (path.name, *name.split("/")))]
    if len(matching) == 1:
        return path / matching[0] / "data"
    if matching:
        listed = _list([f"{path / name}" for name in matching])
        raise ReplayFormatError(f"{path} holds several datasets of {game}; set `path` to one of them: {listed}")
    if not names:
        refuse_other_formats(path, "minari")
        raise ReplayFormatError(f"{path} holds no Minari dataset; {download}")
    raise ReplayFormatError(
        f"{path} holds no dataset with {game} in its name but {_list(names)}; set `path` to the dataset's own directory"
    )


def simplify_name(name: str) -> str:
    """Return the letters and digits of a name in lower case: ``mspacman`` for MsPacman and ms_pacman."""
    return "".join(character for character in name.lower() if character.isalnum())


def _data_directory(directory: Path) -> Path | None:
    """Return the directory of the files if ``directory`` is a dataset, or is that directory itself."""
    for data in (directory / "data", directory):
        # A trajectory store has a metadata.json too.
        if (data / DATA_FILE).exists() or (data.name == "data" and (data / METADATA_FILE).exists()):
            return data
    return None


def _find_datasets(path: Path) -> Iterator[Path]:
    """Yield the datasets below a directory, but do not search for ever."""
    directories, visited = [(path, 0)], 0
    while directories and visited < _MAX_DIRECTORIES:
        directory, depth = directories.pop()
        visited += 1
        try:
            children = [child for child in directory.iterdir() if child.is_dir() and child.name[0] != "."]
        except OSError:  # not readable
            continue
        for child in children:
            if (child / "data").is_dir():
                yield child
            elif depth < _MAX_DEPTH:
                directories.append((child, depth + 1))


def _list(names: list[str]) -> str:
    return ", ".join(names[:_MAX_LISTED]) + (" …" if len(names) > _MAX_LISTED else "")
