"""Checkpoints that a run goes on from as if it had never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.loading import LOADING_ERRORS
from replay_data import InputError
from replay_data.storage.atomic import atomic_directory

_STATE_FILE = "training_state.pt"


def generator_state(device: torch.device) -> dict[str, Any]:
    """The states of this process's random generators."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def save_checkpoint(
    run: Path,
    keep: int,
    model: DecisionTransformer,
    optimizer: torch.optim.Optimizer,
    generators: list[dict[str, Any]],
    update: int,
    tokens: int,
) -> None:
    """Write ``run/checkpoints/update-…`` whole, and remove all but the last ``keep`` checkpoints.

    Beside the model (see `DecisionTransformer.save_pretrained`) it holds the optimizer's state, the update and tokens
    it was made at (which are the place in the order of contexts and in the schedule), and the states of every process's
    generators.

    Raises:
        OSError: if it cannot be written; the checkpoints before are then still there.
    """
    state = {"update": update, "tokens": tokens, "optimizer": optimizer.state_dict(), "generators": generators}
    with atomic_directory(run / "checkpoints" / f"update-{update:08d}") as directory:
        model.write_files(directory)
        torch.save(state, directory / _STATE_FILE)
    for old in sorted((run / "checkpoints").glob("update-*"))[:-keep]:
        hidden = old.with_name(f".{old.name}.removed")
        old.rename(hidden)  # at once, so that no half of it is ever taken for a checkpoint
        shutil.rmtree(hidden)


def read_checkpoint(path: Path, model: DecisionTransformer) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; `restore` applies it.

    Raises:
        InputError: if the checkpoint is damaged, or of another run than that of ``model``.
    """
    try:
        state: dict[str, Any] = torch.load(path / _STATE_FILE, map_location="cpu", weights_only=True)
        saved = DecisionTransformer.from_pretrained(path)
        if (saved.config, saved.dataset, saved.training_config) != (
            model.config,
            model.dataset,
            model.training_config,
        ):
            raise ValueError("it is of another run")
        if path.name != f"update-{state['update']:08d}":
            raise ValueError(f"it is of update {state['update']}")
        return {**state, "model": saved.state_dict(), "path": str(path)}
    except LOADING_ERRORS as error:
        raise _damaged(str(path), error) from error


def restore(
    state: dict[str, Any], model: DecisionTransformer, optimizer: torch.optim.Optimizer, rank: int
) -> tuple[int, int]:
    """Go on from what `read_checkpoint` read; return the update and the tokens it was saved at.

    Raises:
        InputError: if it does not fit the model.
    """
    device = next(model.parameters()).device
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generators = state["generators"][rank]
        torch.set_rng_state(generators["cpu"])
        if device.type == "cuda" and generators["cuda"] is not None:
            torch.cuda.set_rng_state(generators["cuda"], device)
        return int(state["update"]), int(state["tokens"])
    except LOADING_ERRORS as error:
        raise _damaged(state["path"], error) from error


def _damaged(path: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"the checkpoint {path} is damaged ({type(error).__name__}: {reason}); delete it and go on from the one before"
    )
