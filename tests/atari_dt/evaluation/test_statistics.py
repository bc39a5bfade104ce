"""Statistics against closed forms and against a plain bootstrap loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.evaluation.statistics import bootstrap_interval, interquartile_mean, summarize

FINITE = st.floats(-1e4, 1e4)


def plain_interquartile_mean(scores: list[float]) -> float:
    """Return the mean without a quarter of the values, rounded down, at either end."""
    cut = len(scores) // 4
    kept = sorted(scores)[cut : len(scores) - cut]
    return sum(kept) / len(kept)


@given(st.lists(FINITE, min_size=1, max_size=40))
def test_interquartile_mean_is_the_mean_of_the_middle_half(scores: list[float]) -> None:
    assert interquartile_mean(np.array(scores)) == pytest.approx(plain_interquartile_mean(scores), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(FINITE, min_size=2, max_size=9), min_size=1, max_size=3), st.floats(0.1, 50), FINITE)
def test_normalized_summary_is_the_summary_of_normalized_scores(
    scores: list[list[float]], spread: float, random: float
) -> None:
    strata = [np.array(values) for values in scores]
    normalized = summarize(strata).normalized(random, random + spread)
    expected = summarize([100 * (values - random) / spread for values in strata])
    for name in ("mean", "std", "median", "interquartile_mean", "interval"):
        assert getattr(normalized, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-2), name
    assert (normalized.std_of_seeds is None) == (expected.std_of_seeds is None) == (len(scores) == 1)
    if normalized.std_of_seeds is not None:
        assert normalized.std_of_seeds == pytest.approx(expected.std_of_seeds, rel=1e-6, abs=1e-2)


def test_summary_has_the_plain_statistics() -> None:
    summary = summarize([np.array([1.0, 2.0]), np.array([3.0, 10.0])])
    assert (summary.seeds, summary.episodes, summary.mean, summary.median) == (2, 4, 4.0, 2.5)
    assert summary.std == pytest.approx(((9 + 4 + 1 + 36) / 4) ** 0.5)
    assert summary.interquartile_mean == 2.5
    assert summary.std_of_seeds == pytest.approx(2.5)  # the means of the seeds are 1.5 and 6.5
    alone = summarize([np.array([7.0])])
    assert alone.interval is None
    assert alone.std_of_seeds is None


def test_interval_is_stratified_by_seed() -> None:
    """Two seeds that always score 0 and 10 have the same mean in every stratified resample."""
    assert bootstrap_interval([np.zeros(8), np.full(8, 10.0)]) == (5.0, 5.0)
    low, high = bootstrap_interval([np.array([0.0] * 8 + [10.0] * 8)]) or (0, 0)
    assert low < 2
    assert high > 8


def test_interval_of_four_episodes_has_a_closed_form() -> None:
    """Four draws from 0, 0, 0, 1 have an interquartile mean of 1 with at least three ones: probability 13/256."""
    assert bootstrap_interval([np.array([0.0, 0.0, 0.0, 1.0])], confidence=0.95) == (0.0, 1.0)
    assert bootstrap_interval([np.array([0.0, 0.0, 0.0, 1.0])], confidence=0.88) == (0.0, 0.5)


def test_interval_agrees_with_a_plain_bootstrap_loop() -> None:
    rng = np.random.default_rng(1)
    strata = [rng.gamma(2, 10, size) for size in (10, 16, 7)]
    values = []
    for _ in range(20_000):
        drawn = [float(value) for stratum in strata for value in rng.choice(stratum, len(stratum))]
        values.append(plain_interquartile_mean(drawn))
    expected = np.percentile(values, [2.5, 97.5])
    spread = float(np.std(values))
    assert bootstrap_interval(strata) == pytest.approx(expected, abs=0.1 * spread)
