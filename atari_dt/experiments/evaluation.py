"""One evaluation: trained models of one or more seeds, played under the same conditions beside a random player."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.devices import enough_memory, find_device, keep_freed_memory
from atari_dt.environment import EnvironmentConfig, Rom, rom_sha256
from atari_dt.evaluation import (
    EvaluationProtocol,
    EvaluationResult,
    Sampling,
    dataset_of,
    evaluate,
    evaluate_random,
    target_returns,
)
from atari_dt.games import Game, find_game
from atari_dt.model import DatasetInfo, DecisionTransformer, latest_checkpoint
from replay_data import InputError, TrajectoryStore

DEFAULT_MULTIPLES = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation found, and how.

    Attributes:
        checkpoints: of each seed, the directory that was played.
        datasets: of each seed, what it was trained on; all of one game.
        conditioned: whether the models have target returns.
        return_multiples: of each target return, the multiple of the largest return that it is; None where it was given
            by number, or there is none.
        results: ``[seeds][targets]``.
        random: a player to whom all actions are equal.
        protocol: how the game was played and the model conditioned.
        sampling: how actions were chosen.
        seed: of the emulator, the no-ops and the action sampling.
        environment: how the game was played, as ALE is told.
    """

    checkpoints: tuple[Path, ...]
    datasets: tuple[DatasetInfo, ...]
    conditioned: bool
    return_multiples: tuple[float | None, ...]
    results: tuple[tuple[EvaluationResult, ...], ...]
    random: EvaluationResult
    protocol: EvaluationProtocol
    sampling: Sampling
    seed: int
    environment: EnvironmentConfig

    @property
    def game(self) -> Game:
        """What was played."""
        return find_game(self.datasets[0].game)

    @property
    def rom_sha256(self) -> str:
        """Hexadecimal digest of the ROM that was played."""
        return rom_sha256(self.game, self.environment)

    def scores(self, target: int) -> list[npt.NDArray[np.float64]]:
        """Scores ``[seeds][episodes]`` under a target return."""
        return [results[target].scores for results in self.results]

    def returns(self, target: int) -> npt.NDArray[np.float64]:
        """Returns of all episodes of all seeds under a target return, ``[seeds * episodes]``."""
        return np.concatenate([results[target].returns for results in self.results])

    def target_return(self, target: int) -> float | None:
        """The target return; the mean over the seeds, whose datasets can have different largest returns."""
        if not self.conditioned:
            return None
        return float(np.mean([results[target].target_return for results in self.results]))

    def label(self, target: int) -> str:
        """A short name of a target return: ``1x``, ``target-90`` or ``cloning``."""
        if not self.conditioned:
            return "cloning"
        multiple = self.return_multiples[target]
        return f"target-{self.results[0][target].target_return:g}" if multiple is None else f"{multiple:g}x"


def evaluate_runs(
    run_directories: Sequence[Path],
    *,
    return_multiples: Sequence[float] | None = None,
    targets: Sequence[float] | None = None,
    store: TrajectoryStore | None = None,
    episodes: int = 16,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    protocol: EvaluationProtocol | None = None,
    sampling: Sampling | None = None,
    rom: Path | None = None,
    device: str = "auto",
    show_progress: bool = True,
) -> Evaluation:
    """Let trained models and a random player play under the same conditions.

    Args:
        run_directories: what scripts/train.py wrote, or checkpoints of it: one for each training seed.
        return_multiples: of the dataset's largest return; by default `DEFAULT_MULTIPLES`, if no targets are given.
        targets: target returns by number, beside the multiples.
        store: take the largest return from this store instead of the one that a model was trained on.
        episodes: of each model under each target return.
        num_envs: games played at once.
        max_steps: after which an episode is cut off.
        seed: of the emulator, the no-ops and the action sampling.
        protocol: by default as the data was made.
        sampling: by default from the softmax of the logits.
        rom: a ROM file to be played instead of the one that comes with ALE.
        device: where the models run.
        show_progress: progress bars on standard error.

    Raises:
        InputError: if a run, ROM or device is not there, a number is out of range, runs do not belong together, or
            a model cannot be played under these conditions.
    """
    where = find_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    protocol, sampling = protocol or EvaluationProtocol(), sampling or Sampling()
    if not run_directories:
        raise InputError("no run was given; give what scripts/train.py wrote")
    checkpoints = [latest_checkpoint(directory) for directory in run_directories]
    models = [DecisionTransformer.from_pretrained(path).to(where) for path in checkpoints]
    datasets = [dataset_of(model) for model in models]
    kinds = {
        (dataset.game, dataset.sticky_actions, dataset.reward_clipping, model.config.conditioning)
        for dataset, model in zip(datasets, models, strict=True)
    }
    if len(kinds) > 1:
        raise InputError(
            "these runs differ in their game, sticky actions, reward clipping or conditioning; "
            "runs that are evaluated together differ only in their seed"
        )
    protocol = protocol.resolved(datasets[0])
    conditioned = models[0].config.conditioning == "return"
    if not conditioned:
        if return_multiples or targets or store:
            raise InputError("behaviour cloning has no target return; leave return multiples, targets and data out")
        multiples: tuple[float | None, ...] = (None,)
        targets_of = [[0.0] for _ in models]
    else:
        if return_multiples is None:
            return_multiples = () if targets else DEFAULT_MULTIPLES
        if store and not return_multiples:
            raise InputError(
                "the largest return of the data means nothing to target returns given by number; leave it out"
            )
        multiples = (*return_multiples, *(None for _ in targets or ()))
        targets_of = [
            [*(target_returns(dataset, return_multiples, store) if return_multiples else ()), *(targets or ())]
            for dataset in datasets
        ]
    played_rom = None if rom is None else Rom(rom, find_game(datasets[0].game))
    conditions: dict[str, Any] = {
        "episodes": episodes,
        "num_envs": num_envs,
        "max_steps": max_steps,
        "seed": seed,
        "protocol": protocol,
        "rom": played_rom,
    }
    with enough_memory(where, "--num-envs"):
        results = [
            evaluate(model, its_targets, sampling=sampling, show_progress=show_progress, **conditions)
            for model, its_targets in zip(models, targets_of, strict=True)
        ]
    random = evaluate_random(datasets[0], show_progress=False, **conditions)
    return Evaluation(
        checkpoints=tuple(checkpoints),
        datasets=tuple(datasets),
        conditioned=conditioned,
        return_multiples=multiples,
        results=tuple(map(tuple, results)),
        random=random,
        protocol=protocol,
        sampling=sampling,
        seed=seed,
        environment=protocol.environment(datasets[0], max_steps, played_rom),
    )
