"""What the scores of some episodes say: location, spread and how sure one can be of it.

The statistics are those that Agarwal et al. 2021 recommend (arXiv:2108.13264, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice"); scores are grouped by training seed, ``[seeds][episodes]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = Sequence[npt.NDArray[np.float64]]

CONFIDENCE = 0.95

RESAMPLES = 10_000


@dataclass(frozen=True)
class ScoreSummary:
    """Statistics of the episodes of one or more training seeds.

    Attributes:
        seeds, episodes: how many; episodes are those of all seeds together.
        mean, std: over all episodes; the standard deviation is the population's.
        median: of all episodes.
        interquartile_mean: mean of the middle half of all episodes.
        interval: 95% interval of the interquartile mean; None if a seed has fewer than two episodes.
        std_of_seeds: standard deviation of the seeds' means, which is what the paper prints behind its ±; None for a
            single seed.
    """

    seeds: int
    episodes: int
    mean: float
    std: float
    median: float
    interquartile_mean: float
    interval: tuple[float, float] | None
    std_of_seeds: float | None

    def normalized(self, random: float, human: float) -> ScoreSummary:
        """The same of the `gamer_normalized` scores; each statistic follows such a line."""

        def line(value: float) -> float:
            return gamer_normalized(value, random, human)

        def scale(value: float) -> float:
            return 100 * value / abs(human - random)

        return replace(
            self,
            mean=line(self.mean),
            std=scale(self.std),
            median=line(self.median),
            interquartile_mean=line(self.interquartile_mean),
            interval=None if self.interval is None else (line(self.interval[0]), line(self.interval[1])),
            std_of_seeds=None if self.std_of_seeds is None else scale(self.std_of_seeds),
        )


def gamer_normalized(score: float, random: float, human: float) -> float:
    """Return a score in percent of the way from a random player to a human one (Mnih et al. 2015)."""
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
    """Mean without the lowest and the highest quarter of the values, each rounded down to whole values."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def bootstrap_interval(
    scores: Scores, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the interquartile mean, stratified by seed.

    Episodes are drawn anew, with replacement, within each training seed, as in Agarwal et al. 2021 within each task. It
    says how far other episodes of these models could take the figure, not other trainings: for that, look at the
    standard deviation of the seeds' means.

    Args:
        scores: ``[seeds][episodes]``.
        confidence: that the interval has.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        ``(low, high)``, or None if a seed has fewer than two episodes.
    """
    if min(map(len, scores)) < 2:
        return None

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
