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
import torch

from atari_dt.config import MethodName
from atari_dt.evaluation.results import Evaluation, EvaluationResult
from atari_dt.evaluation.score_statistics import RandomScores, ScoreStatistics, TargetSummary
from atari_dt.games.published_scores import PaperScores
from atari_dt.method_config import METHOD_NAMES
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import checkpoint_updates
from atari_dt.model.reported_evaluation import ReportedEvaluation
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data.errors import InputError, summarize_error
from replay_data.json_fields import (
    convert,
    omit_none,
    read_dataclass,
    read_field,
    read_format_version,
    read_list,
    read_mapping,
    read_optional_field,
)
from replay_data.recording import check_game_name
from replay_data.storage.regular_files import read_json_file

FORMAT_VERSION = 2


@dataclass(frozen=True)
class TargetScores:
    """Episodes of one run under one target return.

    Attributes:
        return_multiple: Multiple of the dataset's largest return; None as in `TargetSummary`.
        target_return: Target return, in the dataset's reward units; None as in `TargetSummary`.
        scores: ``[episodes]``, in the game's points.
        mean_score: Mean of the scores.
        std_score: Population standard deviation of the scores.
        returns: ``[episodes]``, in the dataset's reward units.
        lengths: ``[episodes]``, in steps.
        emulator_seeds: ``[episodes]``, seeds that play the episodes again.
        return_percentile: Percentile of the dataset's episode returns; None as in `TargetSummary`.
    """

    return_multiple: float | None
    target_return: float | None
    scores: tuple[float, ...]
    mean_score: float
    std_score: float
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    emulator_seeds: tuple[int, ...]
    return_percentile: int | None = None

    @classmethod
    def from_result(cls, evaluation: Evaluation, target_index: int, result: EvaluationResult) -> TargetScores:
        """Summarize the result of one of an evaluation's runs under one of its target returns."""
        return cls(
            return_multiple=evaluation.return_multiples[target_index],
            target_return=result.target_return if evaluation.conditioned else None,
            scores=tuple(result.scores.tolist()),
            mean_score=float(result.scores.mean()),
            std_score=float(result.scores.std()),
            returns=tuple(result.returns.tolist()),
            lengths=tuple(result.lengths.tolist()),
            emulator_seeds=tuple(result.emulator_seeds.tolist()),
            return_percentile=evaluation.return_percentiles[target_index],
        )

    def reported(self) -> ReportedEvaluation:
        """Return what a model card reports of these episodes."""
        return ReportedEvaluation(
            self.return_multiple,
            self.target_return,
            self.scores,
            self.mean_score,
            self.std_score,
            self.return_percentile,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        fields = omit_none(vars(self), "return_percentile")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_json(cls, content: Any) -> TargetScores:
        """Read what `to_json` returned."""
        return cls(
            return_multiple=read_optional_field(content, "return_multiple", float),
            target_return=read_optional_field(content, "target_return", float),
            scores=read_list(content, "scores", float),
            mean_score=read_field(content, "mean_score", float),
            std_score=read_field(content, "std_score", float),
            returns=read_list(content, "returns", float),
            lengths=read_list(content, "lengths", int),
            emulator_seeds=read_list(content, "emulator_seeds", int),
            return_percentile=read_optional_field(content, "return_percentile", int),
        )


@dataclass(frozen=True)
class RunScores:
    """Episodes of one run.

    Attributes:
        run: Path of the checkpoint that was evaluated.
        evaluations: Its episodes under each target return.
        updates: Number of updates made before the checkpoint; None for a checkpoint outside a run, and in older files.
    """

    run: str
    evaluations: tuple[TargetScores, ...]
    updates: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        evaluations = [evaluation.to_json() for evaluation in self.evaluations]
        return omit_none({"run": self.run, "updates": self.updates, "evaluations": evaluations}, "updates")

    @classmethod
    def from_json(cls, content: Any) -> RunScores:
        """Read what `to_json` returned."""
        return cls(
            run=read_field(content, "run", str),
            evaluations=tuple(map(TargetScores.from_json, content["evaluations"])),
            updates=read_optional_field(content, "updates", int),
        )


@dataclass(frozen=True)
class EvaluationScores:
    """Scores of an evaluation, their statistics, published scores to compare them with, and the settings.

    Scores are in the game's points, returns in the dataset's reward units.

    Attributes:
        game: Name of the game.
        method: Name of the method of the models, such as ``"cql"``. Files without it are older than the value-based
            methods; there it is ``"dt"`` if there are target returns, and else ``"bc"``.
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
        planning: How the models searched for actions; None for models that do not plan.
    """

    game: str
    method: MethodName
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
    planning: PlanningConfig | None = None

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> EvaluationScores:
        """Compute the statistics of an evaluation and note the versions of the software."""
        game = evaluation.game
        return cls(
            game=game.name,
            method=evaluation.config.method,
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
            summary=tuple(TargetSummary.from_evaluation(evaluation, i) for i in range(evaluation.num_targets)),
            random=RandomScores(
                ScoreStatistics.from_scores(game, [evaluation.random.scores]), tuple(evaluation.random.scores.tolist())
            ),
            datasets=evaluation.datasets,
            paper=game.paper,
            human=game.random_and_human,
            runs=tuple(
                RunScores(
                    str(checkpoint),
                    tuple(TargetScores.from_result(evaluation, i, result) for i, result in enumerate(results)),
                    checkpoint_updates(checkpoint),
                )
                for checkpoint, results in zip(evaluation.checkpoints, evaluation.results, strict=True)
            ),
            reward_units="clipped to [-1, 1]" if evaluation.datasets[0].reward_clipping else "points",
            planning=evaluation.planning,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``scores.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "game": self.game,
            "method": self.method,
            "protocol": dataclasses.asdict(self.protocol),
            "sampling": dataclasses.asdict(self.sampling),
            **({} if self.planning is None else {"planning": dataclasses.asdict(self.planning)}),
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
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        if read_format_version(content, FORMAT_VERSION) == 1:
            content = _rename_keys(content, _KEYS_OF_VERSION_1)
        human = content["human"]
        summary = tuple(map(TargetSummary.from_json, content["summary"]))
        return cls(
            game=check_game_name(read_field(content, "game", str)),
            method=_read_method(content, conditioned=any(target.target_return is not None for target in summary)),
            # Files without ``cache`` are older than the cache.
            protocol=read_dataclass({"cache": "off", **content["protocol"]}, EvaluationProtocol),
            sampling=read_dataclass(content["sampling"], Sampling),
            seed=read_field(content, "seed", int),
            max_frames=read_field(content, "max_frames", int),
            rom_sha256=read_field(content, "rom_sha256", str),
            versions=read_mapping(content, "versions", lambda package, version: convert(version, package, str)),
            summary=summary,
            random=RandomScores.from_json(content["random"]),
            datasets=tuple(map(DatasetInfo.from_json, content["datasets"])),
            paper=None if content["paper"] is None else read_dataclass(content["paper"], PaperScores),
            human=None if human is None else (read_field(human, "random", float), read_field(human, "human", float)),
            runs=tuple(map(RunScores.from_json, content["runs"])),
            reward_units=read_field(content, "reward_units", str),
            planning=read_dataclass(content["planning"], PlanningConfig) if "planning" in content else None,
        )


def read_scores(path: Path) -> EvaluationScores:
    """Read a ``scores.json``.

    Raises:
        InputError: If the file cannot be read or is malformed.
    """
    try:
        return EvaluationScores.from_json(read_json_file(path))
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{path} holds no scores ({summarize_error(error)}); write it with scripts/evaluate.py and `out`"
        ) from error


def _read_method(content: Any, conditioned: bool) -> MethodName:
    """Return the method of scores; ``conditioned`` tells the methods apart that existed before files named it."""
    name = read_optional_field(content, "method", str) or ("dt" if conditioned else "bc")
    for method in METHOD_NAMES:
        if method == name:
            return method
    raise ValueError(f"method is {name[:80]!r}, which is not one of {', '.join(METHOD_NAMES)}")


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
