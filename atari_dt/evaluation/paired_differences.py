"""Differences of scores between two ways to play the same models with the same emulator seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atari_dt.evaluation.statistics import CONFIDENCE, RESAMPLES, Scores, interquartile_mean

_BATCH = 1000  # resamples at once, to bound the memory


@dataclass(frozen=True)
class PairedDifference:
    """The difference between the interquartile means of two groups of episodes.

    Attributes:
        value: Interquartile mean of the scores minus that of the reference.
        interval: 95% confidence interval of ``value``; None if a seed has fewer than two episodes.
    """

    value: float
    interval: tuple[float, float] | None


def paired_difference(scores: Scores, reference: Scores) -> PairedDifference:
    """Compute the difference of two interquartile means with its percentile bootstrap interval, stratified by seed.

    Episode i of a training seed has the same emulator seed in both groups, so the two are resampled together. What they
    have in common cancels, and the interval is narrower than that of independent groups. As in `bootstrap_interval`, it
    covers the variation between episodes of these models, not between training runs.

    Args:
        scores: Scores ``[seeds][episodes]``.
        reference: Scores of the same models, with the same number of episodes for each.

    Raises:
        ValueError: If the two groups differ in the number of seeds or of their episodes.
    """
    counts = [len(values) for values in scores]
    if counts != [len(values) for values in reference]:
        raise ValueError("paired scores need the same numbers of seeds and episodes")

    both = [np.stack(pair) for pair in zip(scores, reference, strict=True)]  # [seeds][2, episodes]
    means = interquartile_mean(np.concatenate(both, axis=-1))
    value = float(means[0] - means[1])
    if min(counts) < 2:
        return PairedDifference(value, None)
    num_dropped = sum(counts) // 4  # at either end, as `interquartile_mean` does
    rng = np.random.default_rng(0)
    differences = []
    for start in range(0, RESAMPLES, _BATCH):
        size = min(_BATCH, RESAMPLES - start)
        drawn = [pair[:, rng.integers(pair.shape[1], size=(size, pair.shape[1]))] for pair in both]
        # NumPy sorts seven times as fast as SciPy's trimmed mean partitions.
        ranked = np.sort(np.concatenate(drawn, axis=-1), axis=-1)  # [2, size, episodes]
        means = ranked[..., num_dropped : ranked.shape[-1] - num_dropped].mean(axis=-1)
        differences.append(means[0] - means[1])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(differences), [tail, 100 - tail])
    return PairedDifference(value, (float(low), float(high)))
