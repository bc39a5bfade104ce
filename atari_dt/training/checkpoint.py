"""Checkpoints from which a run resumes as if it had never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atari_dt.config import ARITHMETIC_SETTINGS, TrainingConfig
from atari_dt.model.loading import LOADING_ERRORS, load_torch_file
from atari_dt.model.pretrained import PretrainedModel, checkpoint_updates, find_checkpoints
from atari_dt.model.weights import load_optimizer
from atari_dt.training.learner import Learner
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import read_count
from replay_data.storage.atomic import atomic_directory

_STATE_FILE = "training_state.pt"

_MAX_GENERATOR_BYTES = 64 << 20  # those of 10,000 processes


@dataclass(frozen=True)
class GeneratorState:
    """The states of one process's random generators.

    Attributes:
        cpu: State of PyTorch's CPU generator.
        cuda: State of the GPU's generator; None for a process on a CPU.
    """

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def current(cls, device: torch.device) -> GeneratorState:
        """Return the generator states of this process; ``device`` is the device it trains on."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Set the generators of this process to this state."""
        torch.set_rng_state(self.cpu)
        if device.type == "cuda" and self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, as `read_checkpoint` returns it.

    Attributes:
        path: Directory of the checkpoint.
        update: Number of updates made, which is also the position in the order of batches.
        tokens: Number of tokens trained on, which is also the position in the learning-rate schedule.
        weights: State dict of the model.
        optimizer: State dict of the optimizer.
        objective: What `Objective.carried_state` returned; empty for most methods and in checkpoints of early versions.
        generators: States of the random generators, one per process, in the order of ranks.
    """

    path: Path
    update: int
    tokens: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    objective: Mapping[str, Any]
    generators: list[GeneratorState]

    def restore(self, learner: Learner, seed: int, rank: int) -> None:
        """Load the checkpoint into a learner, and restore the random generators of this process.

        A generator that the checkpoint does not hold is seeded anew: that of a process that the run did not have
        before, or of a GPU if the run was on a CPU.

        Args:
            learner: Learner of the run.
            seed: Seed of the run.
            rank: Rank of this process.

        Raises:
            InputError: If the checkpoint does not fit the learner.
        """
        # The update is part of the seed, so that no masks of dropout repeat if a run changes its processes twice.
        torch.manual_seed(int(np.random.SeedSequence([seed, rank, self.update]).generate_state(1)[0]))
        try:
            learner.model.load_state_dict(self.weights)
            load_optimizer(learner.optimizer, self.optimizer)
            if not learner.optimizer.state:
                raise ValueError("it holds no state of the optimizer")
            learner.objective.restore(self.objective)
            if rank < len(self.generators):
                self.generators[rank].restore(next(learner.model.parameters()).device)
        except LOADING_ERRORS as error:
            raise _damage_error(self.path, error) from error


def save_checkpoint(
    directory: Path,
    config: TrainingConfig,
    learner: Learner,
    generators: list[GeneratorState],
    update: int,
    tokens: int,
) -> None:
    """Write ``checkpoints/update-…`` atomically, and remove all but the last ``config.keep_checkpoints`` checkpoints.

    A checkpoint that an interruption wrote is removed by the next one, so that a run keeps the same checkpoints no
    matter how often it was interrupted.

    A checkpoint holds the model (see `PretrainedModel.save_pretrained`) and, in ``training_state.pt``, the other
    fields of `Checkpoint`.

    Args:
        directory: Directory of the run.
        config: Config of the training.
        learner: Learner of the run.
        generators: States of the random generators, one per process, in the order of ranks.
        update: Number of updates made.
        tokens: Number of tokens trained on.

    Raises:
        OSError: If a file cannot be written; earlier checkpoints are then still there.
    """
    state = {
        "update": update,
        "tokens": tokens,
        "optimizer": learner.optimizer.state_dict(),
        "objective": dict(learner.objective.carried_state()),
        "generators": [vars(generator) for generator in generators],
    }
    with atomic_directory(directory / "checkpoints" / f"update-{update:08d}") as path:
        learner.model.write_files(path)
        torch.save(state, path / _STATE_FILE)
    kept = find_planned_checkpoints(directory, config)[-config.keep_checkpoints :]
    for old in find_checkpoints(directory):
        if old not in kept:
            hidden = old.with_name(f".{old.name}.removed")
            old.rename(hidden)  # atomic, so that a checkpoint is never found half removed
            shutil.rmtree(hidden)


def find_planned_checkpoints(directory: Path, config: TrainingConfig) -> list[Path]:
    """Return the last checkpoint of a run, and the earlier ones that no interruption wrote, oldest first.

    Args:
        directory: Directory of the run.
        config: Config of the training.
    """
    checkpoints = find_checkpoints(directory)
    planned = [path for path in checkpoints[:-1] if (checkpoint_updates(path) or 0) % config.checkpoint_every == 0]
    return [*planned, *checkpoints[-1:]]


def read_checkpoint(path: Path, model: PretrainedModel) -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote, and check that the run of ``model`` saved it.

    Raises:
        InputError: If the checkpoint is damaged, or belongs to another run.
    """
    try:
        saved = type(model).from_pretrained(path)
        state = _read_state(path / _STATE_FILE, sum(tensor.nbytes for tensor in saved.state_dict().values()))
        if _experiment(saved) != _experiment(model):
            raise ValueError("it belongs to another run")
        update = read_count(state, "update")
        if path.name != f"update-{update:08d}":
            raise ValueError(f"it was saved at update {update}")
        return Checkpoint(
            path=path,
            update=update,
            tokens=read_count(state, "tokens"),
            weights=saved.state_dict(),
            optimizer=state["optimizer"],
            objective=state.get("objective", {}),
            generators=[GeneratorState(generator["cpu"], generator["cuda"]) for generator in state["generators"]],
        )
    except LOADING_ERRORS as error:
        raise _damage_error(path, error) from error


def _read_state(path: Path, model_bytes: int) -> Any:
    """Read ``training_state.pt``.

    Args:
        path: The file.
        model_bytes: Size of the model's weights. AdamW's state is twice as large, and a target network as large.

    Raises:
        InputError, OSError, ValueError: If it cannot be read.
    """
    try:
        return load_torch_file(path, 4 * model_bytes + _MAX_GENERATOR_BYTES)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _experiment(model: PretrainedModel) -> tuple[object, ...]:
    """Return the settings and the data of a model's run."""
    training = dict(vars(model.training_config)) if model.training_config else {}
    for name in ARITHMETIC_SETTINGS:
        training.pop(name, None)
    return model.config, model.dataset, training


def _damage_error(path: Path, error: Exception) -> InputError:
    """Return the error to raise where a checkpoint cannot be read."""
    return InputError(
        f"the checkpoint {path} is damaged ({summarize_error(error)}); delete it to resume from the one before it"
    )
