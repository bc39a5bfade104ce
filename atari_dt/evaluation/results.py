"""The results of an evaluation."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt
import torch

from atari_dt.environment.config import EnvironmentConfig, rom_sha256
from atari_dt.evaluation.policy import Sampling
from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.statistics import ScoreSummary, summarize
from atari_dt.games.catalogue import Game, find_game
from atari_dt.model.dataset_info import DatasetInfo


@dataclass(frozen=True)
class EvaluatedEpisode:
    """What a policy did in an episode; with the emulator's seed, enough to play it again.

    Attributes:
        actions: uint8 ``[steps]``.
        returns_to_go: float32 ``[steps]``, before each action.
    """

    actions: npt.NDArray[np.uint8]
    returns_to_go: npt.NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes played under one target return.

    Attributes:
        target_return: in the dataset's reward units.
        scores: float64 ``[episodes]``, in the game's own points.
        returns: float64 ``[episodes]``, the same episodes in the dataset's reward units.
        lengths: int64 ``[episodes]``, in steps.
        emulator_seeds: int64 ``[episodes]``.
        episodes: what was done in each.
    """

    target_return: float
    scores: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    emulator_seeds: npt.NDArray[np.int64]
    episodes: tuple[EvaluatedEpisode, ...]


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


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every score of an evaluation, its statistics, what they are to be compared with, and how they came about.

    Scores are in the game's points, returns in the dataset's reward units. Standard deviations are the population's.
    """
    game, dataset = evaluation.game, evaluation.datasets[0]
    return {
        "game": game.name,
        "protocol": dataclasses.asdict(evaluation.protocol),
        "sampling": dataclasses.asdict(evaluation.sampling),
        "seed": evaluation.seed,
        "max_frames": evaluation.environment.max_frames,
        "rom_sha256": evaluation.rom_sha256,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ale_py": ale_py.__version__},
        "summary": [
            {
                "return_multiple": multiple,
                "target_return": evaluation.target_return(i),
                "score": _statistics(evaluation, summarize(evaluation.scores(i))),
                "mean_return": float(evaluation.returns(i).mean()),
                "std_return": float(evaluation.returns(i).std()),
            }
            for i, multiple in enumerate(evaluation.return_multiples)
        ],
        "random": {
            "score": _statistics(evaluation, summarize([evaluation.random.scores])),
            "scores": evaluation.random.scores.tolist(),
        },
        "datasets": [dataclasses.asdict(dataset) for dataset in evaluation.datasets],
        "paper": dataclasses.asdict(game.paper) if game.paper else None,
        "human": dict(zip(("random", "human"), game.random_and_human, strict=True)) if game.random_and_human else None,
        "runs": [
            {
                "run": str(checkpoint),
                "evaluations": [
                    {
                        "return_multiple": multiple,
                        "target_return": result.target_return if evaluation.conditioned else None,
                        "scores": result.scores.tolist(),
                        "mean_score": float(result.scores.mean()),
                        "std_score": float(result.scores.std()),
                        "returns": result.returns.tolist(),
                        "lengths": result.lengths.tolist(),
                        "emulator_seeds": result.emulator_seeds.tolist(),
                    }
                    for multiple, result in zip(evaluation.return_multiples, results, strict=True)
                ],
            }
            for checkpoint, results in zip(evaluation.checkpoints, evaluation.results, strict=True)
        ],
        "reward_units": "clipped to [-1, 1]" if dataset.reward_clipping else "points",
    }


def _statistics(evaluation: Evaluation, summary: ScoreSummary) -> dict[str, Any]:
    """A summary, in points and normalized with the paper's constants and with those of the 57 games."""
    values = {"points": dataclasses.asdict(summary)}
    for name, constants in normalization_constants(evaluation).items():
        values[name] = dataclasses.asdict(summary.normalized(*constants))
    return values


def normalization_constants(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Random and human score, in points, of the tables that know the game."""
    game, constants = evaluation.game, {}
    if game.paper is not None:
        constants["normalized_as_in_the_paper"] = game.paper.random, game.paper.gamer
    if game.random_and_human is not None:
        constants["human_normalized"] = game.random_and_human
    return constants
