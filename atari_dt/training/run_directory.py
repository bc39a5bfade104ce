"""The directory of a training run: create it, lock it, and find the checkpoint to resume from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atari_dt.config import describe_differences
from atari_dt.training.training_run import FILE_NAME, TrainingRun, read_training_run
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock


def find_checkpoint(directory: Path, run: TrainingRun, resume: bool) -> Path | None:
    """Return the checkpoint that a run resumes from, or None if it starts from the beginning.

    Args:
        directory: Directory of the run.
        run: Run that is about to start.
        resume: Whether the directory may exist already.

    Raises:
        InputError: If the directory exists and ``resume`` is false, it is not the directory of a training run, or its
            run has other settings or other data.
    """
    if not os.path.lexists(directory):
        return None
    if not resume:
        raise InputError(
            f"{directory} exists already; choose another directory, delete it, or continue it with `resume`"
        )
    if directory.is_dir() and all(path.name.startswith(f".{FILE_NAME}.partial-") for path in directory.iterdir()):
        return None  # the run was killed before it wrote its first file
    differences = describe_differences(read_training_run(directory).settings(), run.settings())
    if differences:
        raise InputError(f"{directory} has other settings: {differences}; resume it with the settings it started with")
    checkpoints = sorted((directory / "checkpoints").glob("update-*"))
    return checkpoints[-1] if checkpoints else None


@contextmanager
def run_directory(directory: Path, run: TrainingRun) -> Iterator[None]:
    """Create the directory of a run and lock it; remove it again if the run fails before its first checkpoint.

    Files that the run did not write stay, and so does the directory if it has any.

    Raises:
        InputError: If another command trains in the directory.
        OSError: If a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory, "training in"):
        for path in (directory / "checkpoints").glob(".update-*"):  # remains of a killed command
            shutil.rmtree(path)
        try:
            atomic_write(directory / FILE_NAME, json.dumps(run.to_json(), indent=2) + "\n")
            yield
        except BaseException:
            if not any(directory.glob("checkpoints/update-*")):
                for name in ("checkpoints", "tensorboard"):
                    shutil.rmtree(directory / name, ignore_errors=True)
                for name in (FILE_NAME, "metrics.jsonl"):
                    (directory / name).unlink(missing_ok=True)
                with suppress(OSError):  # it holds files of others
                    directory.rmdir()
            raise
