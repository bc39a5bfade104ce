"""Statistics of the scores of an evaluation, as ``scores.json`` has them (`atari_dt.evaluation.scores`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.evaluation.results import Evaluation, normalization_ranges
from atari_dt.evaluation.statistics import ScoreSummary, summarize
from atari_dt.games.catalogue import Game
from replay_data.json_fields import omit_none, read_field, read_list, read_object, read_optional_field


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
        return cls(**{name: ScoreSummary.from_json(summary) for name, summary in read_object(content).items()})


@dataclass(frozen=True)
class TargetSummary:
    """Statistics of the episodes of all seeds under one target return.

    Attributes:
        return_multiple: Multiple of the dataset's largest return; None for a target return given another way, and for
            models without target returns.
        target_return: Mean target return over the seeds, in the dataset's reward units; None for models without target
            returns.
        score: Statistics of the scores.
        mean_return: Mean return, in the dataset's reward units.
        std_return: Population standard deviation of the returns.
        return_percentile: Percentile of the dataset's episode returns; None for a target return given another way, for
            models without target returns, and in older files.
    """

    return_multiple: float | None
    target_return: float | None
    score: ScoreStatistics
    mean_return: float
    std_return: float
    return_percentile: int | None = None

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, target_index: int) -> TargetSummary:
        """Compute the statistics of an evaluation under one of its target returns."""
        returns = evaluation.returns(target_index)
        return cls(
            return_multiple=evaluation.return_multiples[target_index],
            target_return=evaluation.target_return(target_index),
            score=ScoreStatistics.from_scores(evaluation.game, evaluation.scores(target_index)),
            mean_return=float(returns.mean()),
            std_return=float(returns.std()),
            return_percentile=evaluation.return_percentiles[target_index],
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**omit_none(vars(self), "return_percentile"), "score": self.score.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> TargetSummary:
        """Read what `to_json` returned."""
        return cls(
            return_multiple=read_optional_field(content, "return_multiple", float),
            target_return=read_optional_field(content, "target_return", float),
            score=ScoreStatistics.from_json(content["score"]),
            mean_return=read_field(content, "mean_return", float),
            std_return=read_field(content, "std_return", float),
            return_percentile=read_optional_field(content, "return_percentile", int),
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
        return cls(ScoreStatistics.from_json(content["score"]), read_list(content, "scores", float))
