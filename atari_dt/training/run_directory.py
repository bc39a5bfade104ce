"""The directory of a training run: create it, lock it, and find the checkpoint to resume from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from atari_dt.config import describe_differences
from atari_dt.model.pretrained import find_checkpoints
from atari_dt.training.training_run import FILE_NAME, TrainingRun, read_training_run
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock


@dataclass(frozen=True)
class SavedRun:
    """The run in a directory that is about to be resumed.

    Attributes:
        run: Content of its ``config.json``.
        checkpoint: Directory of its last checkpoint; None if it was killed before the first.
    """

    run: TrainingRun
    checkpoint: Path | None


def find_saved_run(directory: Path, resume: bool) -> SavedRun | None:
    """Return the run in a directory, or None if there is none.

    Args:
        directory: Directory of the run that is about to start.
        resume: Whether the directory may exist already.

    Raises:
        InputError: If the directory exists and ``resume`` is false, or it is not the directory of a training run.
    """
    if not os.path.lexists(directory):
        return None
    if not resume:
        raise InputError(
            f"{directory} exists already; choose another directory, delete it, or continue it with `resume`"
        )
    if directory.is_dir() and all(path.name.startswith(f".{FILE_NAME}.partial-") for path in directory.iterdir()):
        return None  # the run was killed before it wrote its first file
    return SavedRun(read_training_run(directory), find_checkpoint(directory))


def find_checkpoint(directory: Path) -> Path | None:
    """Return the last checkpoint of a run, or None if there is none."""
    return max(find_checkpoints(directory), default=None)


def check_same_experiment(directory: Path, saved: TrainingRun, run: TrainingRun) -> None:
    """Check that a run continues the experiment of a saved one.

    Raises:
        InputError: If the runs have other settings, another method or other data.
    """
    if saved.data_digest != run.data_digest:
        raise InputError(
            f"{directory} was trained on other data: its store, then at {saved.data}, had the digest "
            f"{saved.data_digest}, but {run.data} has {run.data_digest}; resume it with the store it started with, or "
            "start a new run"
        )
    if saved.model.method != run.model.method:  # the other settings of two methods have little in common
        raise InputError(
            f"{directory} was trained with `method` {saved.model.method}, not {run.model.method}; resume it with "
            f"{saved.model.method}, or start a new run"
        )
    if differences := describe_differences(saved.settings(), run.settings()):
        raise InputError(f"{directory} has other settings: {differences}; resume it with the settings it started with")


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
            if not any(directory.glob("checkpoints/update-*")):  # nor copies that someone made of them
                for name in ("checkpoints", "tensorboard"):
                    shutil.rmtree(directory / name, ignore_errors=True)
                for name in ("metrics.jsonl", FILE_NAME):  # without the latter, it is not a run that can be resumed
                    (directory / name).unlink(missing_ok=True)
                with suppress(OSError):  # it holds files of others
                    directory.rmdir()
            raise
