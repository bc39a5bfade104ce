"""Comparison of methods over games: probability of improvement and performance profile.

Both statistics and their stratified bootstrap are those of Agarwal et al. 2021 (arXiv:2108.13264, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice"). A run counts with one number, its mean score. Scores are grouped by
game, ``[games][runs]``. Games may differ in their number of runs; each game counts the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from atari_dt.evaluation.statistics import CONFIDENCE, RESAMPLES

Floats = npt.NDArray[np.float64]

RunScores = Sequence[Floats]

PROFILE_RESAMPLES = 2_000
"""Number of bootstrap resamples of a performance profile, as in rliable."""


def probability_of_improvement(x: RunScores, y: RunScores) -> float:
    """Return the probability that a run of X scores higher than a run of Y, averaged over the games.

    In each game, this is the fraction of the pairs of runs in which X scores higher; ties count half. It is the
    Mann-Whitney U statistic divided by the number of pairs.

    Args:
        x: Scores of X, ``[games][runs]``.
        y: Scores of Y in the same games, ``[games][runs]``.
    """
    return float(np.mean([_half_wins(*game).mean() / 2 for game in zip(x, y, strict=True)]))


def improvement_interval(
    x: RunScores, y: RunScores, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the probability of improvement.

    The runs of each method are resampled with replacement within each game.

    Args:
        x: Scores of X, ``[games][runs]``.
        y: Scores of Y in the same games, ``[games][runs]``.
        confidence: Confidence level of the interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        ``(low, high)``. Where every run of one method scores higher than every run of the other, both are the same.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for x_scores, y_scores in zip(x, y, strict=True):
        x_counts, y_counts = (_resample(len(scores), resamples, rng) for scores in (x_scores, y_scores))
        half_wins = ((x_counts @ _half_wins(x_scores, y_scores)) * y_counts).sum(axis=1)
        total += half_wins / (2 * len(x_scores) * len(y_scores))
    low, high = np.quantile(total / len(x), _tails(confidence))
    return float(low), float(high)


def performance_profile(scores: RunScores, thresholds: Floats) -> Floats:
    """Return the fraction of the runs that score above each threshold, averaged over the games.

    Args:
        scores: Scores, normalized so that those of different games are comparable, ``[games][runs]``.
        thresholds: Thresholds τ, ``[T]``.

    Returns:
        Fractions, float64 ``[T]``.
    """
    return np.mean([above.mean(axis=0) for above in _runs_above(scores, thresholds)], axis=0)


def profile_band(
    scores: RunScores,
    thresholds: Floats,
    confidence: float = CONFIDENCE,
    resamples: int = PROFILE_RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Compute the percentile bootstrap interval of the performance profile at each threshold.

    The runs are resampled with replacement within each game.

    Args:
        scores: Scores, normalized so that those of different games are comparable, ``[games][runs]``.
        thresholds: Thresholds τ, ``[T]``.
        confidence: Confidence level of each interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Lower and upper ends of the intervals, float64 ``[T]`` each.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((resamples, len(thresholds)))
    for above in _runs_above(scores, thresholds):
        total += _resample(len(above), resamples, rng) @ above / len(above)
    low, high = np.quantile(total / len(scores), _tails(confidence), axis=0)
    return low, high


def _half_wins(x: Floats, y: Floats) -> Floats:
    """Return 2 for each pair of runs in which X scores higher, 1 for a tie and 0 otherwise, ``[runs of X, of Y]``."""
    return np.sign(x[:, None] - y) + 1


def _runs_above(scores: RunScores, thresholds: Floats) -> Iterator[Floats]:
    """Yield 1 for each run of a game that scores above a threshold and 0 otherwise, ``[runs, T]``, for each game."""
    for of_game in scores:
        yield (of_game[:, None] > thresholds).astype(np.float64)


def _resample(num_runs: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how often each run is drawn in each resample, ``[resamples, num_runs]``."""
    return rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=resamples)


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
