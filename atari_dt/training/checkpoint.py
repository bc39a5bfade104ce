"""Checkpoints that a run goes on from as if it had never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from atari_dt.model import DecisionTransformer
from atari_dt.model.original_checkpoint import LOADING_ERRORS
from atari_dt.training.batches import ContextOrder
from replay_data import InputError
from replay_data.files import whole_directory

_STATE_FILE = "training_state.pt"


def save_checkpoint(
    run: Path,
    keep: int,
    model: DecisionTransformer,
    optimizer: torch.optim.Optimizer,
    order: ContextOrder,
    update: int,
    tokens: int,
) -> None:
    """Write ``run/checkpoints/update-…`` whole, and remove all but the last ``keep`` checkpoints.

    Beside the model (see `DecisionTransformer.save_pretrained`) it holds the optimiser's state, the place in the order
    of contexts, and the states of PyTorch's generators.

    Raises:
        OSError: if it cannot be written; the checkpoints before are then still there.
    """
    device = next(model.parameters()).device
    state = {
        "update": update,
        "tokens": tokens,
        "optimizer": optimizer.state_dict(),
        "order": order.state_dict(),
        "generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    with whole_directory(run / "checkpoints" / f"update-{update:08d}") as directory:
        model.write_files(directory)
        torch.save(state, directory / _STATE_FILE)
    for old in sorted((run / "checkpoints").glob("update-*"))[:-keep]:
        hidden = old.with_name(f".{old.name}.removed")
        old.rename(hidden)  # at once, so that no half of it is ever taken for a checkpoint
        shutil.rmtree(hidden)


def load_checkpoint(
    path: Path, model: DecisionTransformer, optimizer: torch.optim.Optimizer, order: ContextOrder
) -> tuple[int, int]:
    """Restore what `save_checkpoint` kept; return the update and the tokens it was saved at.

    Raises:
        InputError: if the checkpoint is damaged or does not fit.
    """
    device = next(model.parameters()).device
    try:
        state: dict[str, Any] = torch.load(path / _STATE_FILE, map_location="cpu", weights_only=True)
        model.load_state_dict(DecisionTransformer.from_pretrained(path).state_dict())
        optimizer.load_state_dict(state["optimizer"])
        order.load_state_dict(state["order"])
        torch.set_rng_state(state["generator"])
        if device.type == "cuda" and state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"], device)
        return int(state["update"]), int(state["tokens"])
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the checkpoint {path} is damaged ({type(error).__name__}: {reason}); delete it and go on from the one "
            "before"
        ) from error
