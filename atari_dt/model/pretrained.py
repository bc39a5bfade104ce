"""Checkpoints: a directory of ``config.json`` and ``model.safetensors``, there whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from atari_dt.config import ModelConfig
from atari_dt.model.decision_transformer import DatasetInfo, DecisionTransformer
from replay_data import InputError

FORMAT_VERSION = 1


def save_model(model: DecisionTransformer, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint directory.

    It is written under a temporary name and renamed, so a crash or a full disk leaves no half checkpoint.

    Args:
        model: what to write.
        path: a directory that does not exist yet.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path)
    config = {
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(model.config),
        "num_actions": model.num_actions,
        "max_timestep": model.max_timestep,
        "dataset": dataclasses.asdict(model.dataset) if model.dataset else None,
    }
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        (partial / "config.json").write_text(json.dumps(config, indent=2))
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        (partial / "model.safetensors").write_bytes(save(weights))
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        partial.rename(path)
    except OSError as error:  # a full disk does not say where
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_model(path: str | os.PathLike[str]) -> DecisionTransformer:
    """Read a checkpoint directory; the model is on the CPU and in evaluation mode.

    Raises:
        InputError: if there is no checkpoint, it is of another format version, or its files do not fit each other.
    """
    path = Path(path)
    if not (path / "config.json").is_file() or not (path / "model.safetensors").is_file():
        raise InputError(f"{path} is not a checkpoint (it needs config.json and model.safetensors)")
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
        if (version := config["format_version"]) != FORMAT_VERSION:
            raise InputError(
                f"{path} has checkpoint format {version}, this version of the code reads "
                f"{FORMAT_VERSION}; train again or use the code that made it"
            )
        model = DecisionTransformer(ModelConfig(**config["model"]), config["num_actions"], config["max_timestep"])
        if config["dataset"] is not None:
            config["dataset"]["action_meanings"] = tuple(config["dataset"]["action_meanings"])
            model.dataset = DatasetInfo(**config["dataset"])
        model.load_state_dict(load_file(path / "model.safetensors"))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the checkpoint {path} is damaged or not of this project ({reason})") from error
    return model.eval()


def latest_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Find the checkpoint to use: ``path`` itself, or the newest one of the run in ``path``.

    Raises:
        InputError: if there is none.
    """
    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    checkpoints = sorted((path / "checkpoints").glob("update-*"))
    if not checkpoints:
        raise InputError(f"no run with a checkpoint at {path}; make one with scripts/train.py")
    return checkpoints[-1]
