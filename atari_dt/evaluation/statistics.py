"""Statistics of episode scores: location, spread and confidence intervals.

The interquartile mean and its stratified bootstrap interval are those that Agarwal et al. 2021 recommend
(arXiv:2108.13264, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"). Scores are grouped by
training seed, ``[seeds][episodes]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.json_fields import read_dataclass, read_object

Scores = Sequence[npt.NDArray[np.float64]]

CONFIDENCE = 0.95

RESAMPLES = 10_000


@dataclass(frozen=True)
class ScoreSummary:
    """Statistics of the episodes of one or more training seeds.

    Attributes:
        seeds: Number of training seeds.
        episodes: Number of episodes of all seeds together.
        mean: Mean over all episodes.
        std: Population standard deviation over all episodes.
        median: Median of all episodes.
        interquartile_mean: Mean of the middle half of all episodes.
        interval: 95% confidence interval of the interquartile mean; None if a seed has fewer than two episodes.
        std_of_seeds: Standard deviation of the seeds' means, the number behind ± in the paper; None for a single seed.
    """

    seeds: int
    episodes: int
    mean: float
    std: float
    median: float
    interquartile_mean: float
    interval: tuple[float, float] | None
    std_of_seeds: float | None

    @classmethod
    def from_json(cls, content: Any) -> ScoreSummary:
        """Read a JSON object with these fields; other keys are ignored.

        Raises:
            ValueError, KeyError, TypeError: If the content is anything else.
        """
        return read_dataclass({each.name: read_object(content)[each.name] for each in fields(cls)}, cls)

    def normalized(self, random: float, human: float) -> ScoreSummary:
        """Return the summary of the `normalize_score` scores.

        Normalization is an affine map, so every statistic can be mapped directly.
        """

        def normalize(value: float) -> float:
            return normalize_score(value, random, human)

        def rescale(spread: float) -> float:
            return 100 * spread / abs(human - random)

        return replace(
            self,
            mean=normalize(self.mean),
            std=rescale(self.std),
            median=normalize(self.median),
            interquartile_mean=normalize(self.interquartile_mean),
            interval=None if self.interval is None else (normalize(self.interval[0]), normalize(self.interval[1])),
            std_of_seeds=None if self.std_of_seeds is None else rescale(self.std_of_seeds),
        )


def normalize_score(score: float, random: float, human: float) -> float:
    """Return a score in percent of the way from the random policy's score to the human score (Mnih et al. 2015)."""
    return 100 * (score - random) / (human - random)


def summarize(scores: Scores) -> ScoreSummary:
    """Compute the statistics of scores ``[seeds][episodes]``."""
    pooled = np.concatenate(scores)
    means = [values.mean() for values in scores]
    return ScoreSummary(
        seeds=len(scores),
        episodes=len(pooled),
        mean=float(pooled.mean()),
        std=float(pooled.std()),
        median=float(np.median(pooled)),
        interquartile_mean=float(interquartile_mean(pooled)),
        interval=bootstrap_interval(scores),
        std_of_seeds=float(np.std(means)) if len(means) > 1 else None,
    )


def interquartile_mean(scores: npt.NDArray[np.float64], axis: int = -1) -> Any:
    """Return the mean without the lowest and the highest quarter of the values; the number dropped is rounded down."""
    from scipy import stats  # takes half a second, and most modules that import this one compute nothing

    return stats.trim_mean(scores, 0.25, axis=axis)


def bootstrap_interval(
    scores: Scores, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """Compute the percentile bootstrap interval of the interquartile mean, stratified by seed.

    Episodes are resampled with replacement within each training seed, as Agarwal et al. 2021 resample within each task.
    The interval covers the variation between episodes of these models, not between training runs; the standard
    deviation of the seeds' means measures the latter.

    Args:
        scores: Scores ``[seeds][episodes]``.
        confidence: Confidence level of the interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        ``(low, high)``, or None if a seed has fewer than two episodes.
    """
    if min(map(len, scores)) < 2:
        return None
    from scipy import stats

    def statistic(*strata: npt.NDArray[np.float64], axis: int) -> Any:
        return interquartile_mean(np.concatenate(strata, axis=axis), axis=axis)

    interval = stats.bootstrap(
        tuple(scores),
        statistic,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
