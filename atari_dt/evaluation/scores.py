"""The content of ``scores.json``: `EvaluationScores`, format version 2.

``scripts/evaluate.py`` writes the file, ``scripts/push_to_hub.py`` reads it. Version 1 had no ``format_version`` and
British spelling in some keys; it is still read.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt
import torch

from atari_dt.evaluation.policy import Sampling
from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.results import Evaluation, EvaluationResult, normalization_ranges
from atari_dt.evaluation.statistics import ScoreSummary, summarize
from atari_dt.games.catalogue import Game
from atari_dt.games.published_scores import PaperScores
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.reported_evaluation import ReportedEvaluation
from replay_data.errors import InputError, summarize_error
from replay_data.json_fields import parse_json, read_format_version

FORMAT_VERSION = 2


@dataclass(frozen=True)
class ScoreStatistics:
    """Statistics of some scores, in points and normalized.

    Attributes:
        points: Statistics in the game's points.
        normalized_as_in_the_paper: Statistics in percent of the way from random to gamer, with the constants of Chen et
            al. 2021; None for a game that is not in the paper.
        human_normalized: Statistics in percent of the way from random to human, with the constants of 57 games; None
            for a game outside that table.
    """

    points: ScoreSummary
    normalized_as_in_the_paper: ScoreSummary | None = None
    human_normalized: ScoreSummary | None = None

    @classmethod
    def from_scores(cls, game: Game, scores: list[npt.NDArray[np.float64]]) -> ScoreStatistics:
        """Compute the statistics of scores ``[seeds][episodes]`` of a game."""
        points = summarize(scores)
        return cls(points, **{name: points.normalized(*ends) for name, ends in normalization_ranges(game).items()})

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads; normalizations that are None are left out."""
        return {name: dataclasses.asdict(summary) for name, summary in vars(self).items() if summary is not None}

    @classmethod
    def from_json(cls, content: Any) -> ScoreStatistics:
        """Read what `to_json` returned."""
        return cls(**{name: ScoreSummary.from_json(summary) for name, summary in content.items()})


@dataclass(frozen=True)
class TargetSummary:
    """Statistics of the episodes of all seeds under one target return.

    Attributes:
        return_multiple: Multiple of the dataset's largest return; None for a target return given as a number, and for
            behavior cloning.
        target_return: Mean target return over the seeds, in the dataset's reward units; None for behavior cloning.
        score: Statistics of the scores.
        mean_return: Mean return, in the dataset's reward units.
        std_return: Population standard deviation of the returns.
    """

    return_multiple: float | None
    target_return: float | None
    score: ScoreStatistics
    mean_return: float
    std_return: float

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**vars(self), "score": self.score.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> TargetSummary:
        """Read what `to_json` returned."""
        return cls(
            return_multiple=_optional_float(content["return_multiple"]),
            target_return=_optional_float(content["target_return"]),
            score=ScoreStatistics.from_json(content["score"]),
            mean_return=float(content["mean_return"]),
            std_return=float(content["std_return"]),
        )


@dataclass(frozen=True)
class RandomScores:
    """Scores of the uniform-random policy under the same protocol.

    Attributes:
        score: Statistics of the scores.
        scores: ``[episodes]``, in the game's points.
    """

    score: ScoreStatistics
    scores: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"score": self.score.to_json(), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, content: Any) -> RandomScores:
        """Read what `to_json` returned."""
        return cls(ScoreStatistics.from_json(content["score"]), tuple(map(float, content["scores"])))


@dataclass(frozen=True)
class TargetScores:
    """Episodes of one run under one target return.

    Attributes:
        return_multiple: Multiple of the dataset's largest return; None as in `TargetSummary`.
        target_return: Target return, in the dataset's reward units; None for behavior cloning.
        scores: ``[episodes]``, in the game's points.
        mean_score: Mean of the scores.
        std_score: Population standard deviation of the scores.
        returns: ``[episodes]``, in the dataset's reward units.
        lengths: ``[episodes]``, in steps.
        emulator_seeds: ``[episodes]``, seeds that play the episodes again.
    """

    return_multiple: float | None
    target_return: float | None
    scores: tuple[float, ...]
    mean_score: float
    std_score: float
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    emulator_seeds: tuple[int, ...]

    @classmethod
    def from_result(cls, return_multiple: float | None, conditioned: bool, result: EvaluationResult) -> TargetScores:
        """Summarize a result; ``conditioned`` is False for behavior cloning, which has no target return."""
        return cls(
            return_multiple=return_multiple,
            target_return=result.target_return if conditioned else None,
            scores=tuple(result.scores.tolist()),
            mean_score=float(result.scores.mean()),
            std_score=float(result.scores.std()),
            returns=tuple(result.returns.tolist()),
            lengths=tuple(result.lengths.tolist()),
            emulator_seeds=tuple(result.emulator_seeds.tolist()),
        )

    def reported(self) -> ReportedEvaluation:
        """Return what a model card reports of these episodes."""
        return ReportedEvaluation(
            self.return_multiple, self.target_return, self.scores, self.mean_score, self.std_score
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Any) -> TargetScores:
        """Read what `to_json` returned."""
        return cls(
            return_multiple=_optional_float(content["return_multiple"]),
            target_return=_optional_float(content["target_return"]),
            scores=tuple(map(float, content["scores"])),
            mean_score=float(content["mean_score"]),
            std_score=float(content["std_score"]),
            returns=tuple(map(float, content["returns"])),
            lengths=tuple(map(int, content["lengths"])),
            emulator_seeds=tuple(map(int, content["emulator_seeds"])),
        )


@dataclass(frozen=True)
class RunScores:
    """Episodes of one run.

    Attributes:
        run: Path of the checkpoint that was evaluated.
        evaluations: Its episodes under each target return.
    """

    run: str
    evaluations: tuple[TargetScores, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"run": self.run, "evaluations": [evaluation.to_json() for evaluation in self.evaluations]}

    @classmethod
    def from_json(cls, content: Any) -> RunScores:
        """Read what `to_json` returned."""
        return cls(str(content["run"]), tuple(map(TargetScores.from_json, content["evaluations"])))


@dataclass(frozen=True)
class EvaluationScores:
    """Scores of an evaluation, their statistics, published scores to compare them with, and the settings.

    Scores are in the game's points, returns in the dataset's reward units.

    Attributes:
        game: Name of the game.
        protocol: Protocol of the evaluation.
        sampling: How actions were sampled.
        seed: Seed of the emulator, the no-ops and the action sampling.
        max_frames: Number of emulator frames after which an episode was truncated.
        rom_sha256: Hexadecimal digest of the ROM.
        versions: Versions of Python, PyTorch and ALE.
        summary: Statistics over all runs, for each target return.
        random: Scores of the uniform-random policy.
        datasets: Training data of each run.
        paper: Scores in Chen et al. 2021; None for a game that is not in the paper.
        human: Scores of a random policy and of a human, in points; None for a game outside the table of 57 games.
        runs: Episodes of each run.
        reward_units: Unit of the returns, ``"clipped to [-1, 1]"`` or ``"points"``.
    """

    game: str
    protocol: EvaluationProtocol
    sampling: Sampling
    seed: int
    max_frames: int
    rom_sha256: str
    versions: Mapping[str, str]
    summary: tuple[TargetSummary, ...]
    random: RandomScores
    datasets: tuple[DatasetInfo, ...]
    paper: PaperScores | None
    human: tuple[float, float] | None
    runs: tuple[RunScores, ...]
    reward_units: str

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> EvaluationScores:
        """Compute the statistics of an evaluation and note the versions of the software."""
        game, multiples = evaluation.game, evaluation.return_multiples
        return cls(
            game=game.name,
            protocol=evaluation.protocol,
            sampling=evaluation.sampling,
            seed=evaluation.seed,
            max_frames=evaluation.environment.max_frames,
            rom_sha256=evaluation.rom_sha256,
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "ale_py": ale_py.__version__,
            },
            summary=tuple(
                TargetSummary(
                    multiple,
                    evaluation.target_return(i),
                    ScoreStatistics.from_scores(game, evaluation.scores(i)),
                    mean_return=float(evaluation.returns(i).mean()),
                    std_return=float(evaluation.returns(i).std()),
                )
                for i, multiple in enumerate(multiples)
            ),
            random=RandomScores(
                ScoreStatistics.from_scores(game, [evaluation.random.scores]), tuple(evaluation.random.scores.tolist())
            ),
            datasets=evaluation.datasets,
            paper=game.paper,
            human=game.random_and_human,
            runs=tuple(
                RunScores(
                    str(checkpoint),
                    tuple(
                        TargetScores.from_result(multiple, evaluation.conditioned, result)
                        for multiple, result in zip(multiples, results, strict=True)
                    ),
                )
                for checkpoint, results in zip(evaluation.checkpoints, evaluation.results, strict=True)
            ),
            reward_units="clipped to [-1, 1]" if evaluation.datasets[0].reward_clipping else "points",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``scores.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "game": self.game,
            "protocol": dataclasses.asdict(self.protocol),
            "sampling": dataclasses.asdict(self.sampling),
            "seed": self.seed,
            "max_frames": self.max_frames,
            "rom_sha256": self.rom_sha256,
            "versions": dict(self.versions),
            "summary": [target.to_json() for target in self.summary],
            "random": self.random.to_json(),
            "datasets": [dataset.to_json() for dataset in self.datasets],
            "paper": self.paper and dataclasses.asdict(self.paper),
            "human": self.human and dict(zip(("random", "human"), self.human, strict=True)),
            "runs": [run.to_json() for run in self.runs],
            "reward_units": self.reward_units,
        }

    @classmethod
    def from_json(cls, content: Any) -> EvaluationScores:
        """Read the content of ``scores.json``, of format version 1 or 2; keys it does not know are ignored.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: If the content is malformed.
        """
        if read_format_version(content, FORMAT_VERSION) == 1:
            content = _rename_keys(content, _KEYS_OF_VERSION_1)
        human = content["human"]
        return cls(
            game=str(content["game"]),
            protocol=EvaluationProtocol(**content["protocol"]),
            sampling=Sampling(**content["sampling"]),
            seed=int(content["seed"]),
            max_frames=int(content["max_frames"]),
            rom_sha256=str(content["rom_sha256"]),
            versions={str(package): str(version) for package, version in content["versions"].items()},
            summary=tuple(map(TargetSummary.from_json, content["summary"])),
            random=RandomScores.from_json(content["random"]),
            datasets=tuple(map(DatasetInfo.from_json, content["datasets"])),
            paper=None if content["paper"] is None else _read_paper(content["paper"]),
            human=None if human is None else (float(human["random"]), float(human["human"])),
            runs=tuple(map(RunScores.from_json, content["runs"])),
            reward_units=str(content["reward_units"]),
        )


def read_scores(path: Path) -> EvaluationScores:
    """Read a ``scores.json``.

    Raises:
        InputError: If the file cannot be read or is malformed.
    """
    try:
        return EvaluationScores.from_json(parse_json(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        reason = f"{type(error).__name__}: {summarize_error(error)}"
        raise InputError(f"{path} holds no scores ({reason}); write it with scripts/evaluate.py and `out`") from error


_KEYS_OF_VERSION_1 = {
    "normalised": "normalized",
    "normalised_as_in_the_paper": "normalized_as_in_the_paper",
    "human_normalised": "human_normalized",
    "behaviour_cloning": "behavior_cloning",
}


def _rename_keys(content: Any, names: Mapping[str, str]) -> Any:
    """Return the content with the keys of all its objects renamed."""
    if isinstance(content, dict):
        return {names.get(key, key): _rename_keys(value, names) for key, value in content.items()}
    return [_rename_keys(value, names) for value in content] if isinstance(content, list) else content


def _read_paper(content: Any) -> PaperScores:
    """Return the scores with the tuples that JSON turned into lists."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    values["normalized"] = {str(method): (mean, std) for method, (mean, std) in content["normalized"].items()}
    return PaperScores(**values)


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)
