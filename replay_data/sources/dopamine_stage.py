"""Publish the buffers of a Dopamine log: move complete files from a hidden directory into the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import ELEMENTS, STAGE_PREFIX, element_path
from replay_data.sources.dopamine_sidecar import sidecar_path
from replay_data.storage.atomic import name_file_in_errors, sync


def sync_buffers(stage: Path, indices: Iterable[int]) -> None:
    """Force the files of complete buffers onto the disk."""
    for file in _buffer_paths(stage, indices):
        if file.exists():
            sync(file)
    sync(stage)


def move_buffers(directory: Path, stage: Path, indices: Iterable[int]) -> None:
    """Move the files of complete buffers from ``stage`` to ``directory``; files that are gone were moved before."""
    for file in _buffer_paths(stage, indices):
        if file.exists():
            file.rename(directory / file.name)
    sync(directory)


def recover_log(directory: Path, stage: str | None, num_complete: int) -> None:
    """Restore a consistent log after its writer was killed.

    Finish the move of the complete buffers and remove what is left of the incomplete ones.

    Args:
        directory: The ``replay_logs`` directory of a log that this project records.
        stage: Name of the writer's hidden directory, which may still hold complete buffers; None if there was none.
        num_complete: Number of complete buffers.

    Raises:
        ReplayFormatError: If a complete buffer lacks a file.
    """
    with name_file_in_errors(directory, directory):
        if stage is not None and (directory / stage).is_dir():
            move_buffers(directory, directory / stage, range(num_complete))
        ram = {element_path(directory, "ram", index) for index in range(num_complete)}
        optional = set() if any(path.exists() for path in ram) else ram
        for path in _buffer_paths(directory, range(num_complete)):
            if not path.exists() and path not in optional:
                raise ReplayFormatError(f"{path} is missing; copy it back, or record the log again")
        for leftover in directory.glob(f"{STAGE_PREFIX}*"):
            shutil.rmtree(leftover)


def _buffer_paths(directory: Path, indices: Iterable[int]) -> Iterator[Path]:
    """Yield the files of buffers in the order in which they appear in the log, the frames last."""
    for index in indices:
        yield sidecar_path(directory, index)
        yield element_path(directory, "ram", index)
        for name in ("add_count", "invalid_range"):
            yield directory / f"{name}_ckpt.{index}.gz"
        for element in reversed(ELEMENTS):
            yield element_path(directory, element, index)
