"""Paired differences against all resamples of few episodes, and against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from atari_dt.evaluation.paired_differences import paired_difference
from atari_dt.evaluation.statistics import bootstrap_interval


def trimmed_mean(values: list[float]) -> float:
    """Return the mean of the middle half, one value at a time."""
    dropped = len(values) // 4
    kept = sorted(values)[dropped : len(values) - dropped]
    return sum(kept) / len(kept)


def test_interval_is_that_of_all_resamples_within_each_seed() -> None:
    """Two seeds of 3 and 2 episodes have 27 · 4 resamples, each as likely as the others."""
    scores, reference = [[1.0, 30.0, 12.0], [7.0, 50.0]], [[4.0, 9.0, 11.0], [0.0, 20.0]]
    differences = []
    for first in itertools.product(range(3), repeat=3):
        for second in itertools.product(range(2), repeat=2):
            rows = [(0, i) for i in first] + [(1, i) for i in second]
            drawn = ([group[seed][episode] for seed, episode in rows] for group in (scores, reference))
            differences.append(trimmed_mean(next(drawn)) - trimmed_mean(next(drawn)))
    result = paired_difference([np.array(each) for each in scores], [np.array(each) for each in reference])
    assert result.value == pytest.approx(trimmed_mean([1, 30, 12, 7, 50]) - trimmed_mean([4, 9, 11, 0, 20]))
    assert result.interval is not None
    # The exact quantiles lie on steps of the distribution, so the sampled ones are near those of 2 to 3%.
    for bound, percentages in zip(result.interval, ((2, 3), (97, 98)), strict=True):
        low, high = np.percentile(differences, percentages)
        assert low - 1e-9 <= bound <= high + 1e-9


def test_what_both_groups_have_in_common_cancels() -> None:
    """A constant difference is certain, however much the scores vary from episode to episode."""
    rng = np.random.default_rng(0)
    reference = [rng.normal(50, 20, size=16), rng.normal(80, 20, size=24)]
    result = paired_difference([each + 3 for each in reference], reference)
    assert result.value == pytest.approx(3)
    assert result.interval == pytest.approx((3, 3))
    unpaired = bootstrap_interval(reference)
    assert unpaired is not None
    assert unpaired[1] - unpaired[0] > 5


def test_an_interval_needs_two_episodes_of_each_seed() -> None:
    one, two = np.array([5.0]), np.array([1.0, 2.0])
    result = paired_difference([one, two], [one - 1, two])
    assert result.interval is None
    with pytest.raises(ValueError, match="the same numbers"):
        paired_difference([one, two], [two, one])
