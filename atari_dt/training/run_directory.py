"""The directory of a training run: its config, and the checkpoint to resume from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from atari_dt.config import ModelConfig, TrainingConfig, describe_differences
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.processes import available_cores


def find_checkpoint(out: Path, description: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to go on from; None for a run that begins.

    Raises:
        InputError: if ``out`` is there and not to be resumed, or is no run, or one of another config or other data.
    """
    if not os.path.lexists(out):
        return None
    if not resume:
        raise InputError(f"{out} exists already; choose another directory, delete it, or go on from it with --resume")
    if out.is_dir() and all(entry.name.startswith(".config.json.partial-") for entry in out.iterdir()):
        return None  # it was killed before it had written anything
    try:
        # What a run of an earlier version does not name, it did as the defaults do.
        usual = {**dataclasses.asdict(ModelConfig()), **dataclasses.asdict(TrainingConfig())}
        there = json.loads(json.dumps(usual)) | _flat(json.loads((out / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out} is no run that could be resumed (its config.json cannot be read)") from error
    now = _flat(json.loads(json.dumps(description)))
    differences = describe_differences(there, now, ignore=("data", "device", "hardware", "versions"))
    if differences:
        raise InputError(f"{out} was made with other settings: {differences}; resume it with those it was made with")
    checkpoints = sorted((out / "checkpoints").glob("update-*"))
    return checkpoints[-1] if checkpoints else None


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What a run was made with."""
    names = ("atari-dt", "torch", "numpy", "ale-py")
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}},
        "hardware": {
            "cpu": models[0] if models else platform.machine(),
            "cores": available_cores(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
    }


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """All fields of a run's description by name."""
    model, training = description.pop("model"), description.pop("training")
    return {**model, **training, **description}


@contextmanager
def run_directory(out: Path, description: dict[str, Any]) -> Iterator[None]:
    """Make and hold the directory of a run; remove it again if the run fails before its first checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out, "training in"):
        for left in (out / "checkpoints").glob(".update-*"):  # of a killed command
            shutil.rmtree(left)
        try:
            atomic_write(out / "config.json", json.dumps(description, indent=2) + "\n")
            yield
        except BaseException:
            if not any(out.glob("checkpoints/update-*")):
                for name in ("checkpoints", "tensorboard"):
                    shutil.rmtree(out / name, ignore_errors=True)
                for name in ("config.json", "metrics.jsonl"):
                    (out / name).unlink(missing_ok=True)
                with suppress(OSError):  # somebody else's files are in it
                    out.rmdir()
            raise
