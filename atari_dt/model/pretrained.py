"""Save checkpoints, load them, and share them on the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from replay_data import InputError

CHECKPOINT_FORMAT = 1

CHECKPOINT_FILES = ("config.json", "model.safetensors")


def latest_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Find the checkpoint to use: ``path`` itself, or the newest one of the run in ``path``.

    Raises:
        InputError: if there is none.
    """
    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    checkpoints = sorted(path.glob("checkpoints/update-*/model.safetensors"))
    if not checkpoints:
        raise InputError(
            f"no run with a checkpoint at {path} (there is no {path / 'checkpoints'}/update-…); "
            "give the directory that scripts/train.py made, or make one"
        )
    return checkpoints[-1].parent
