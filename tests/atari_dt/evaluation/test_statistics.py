"""Statistics against closed forms and against a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.evaluation.statistics import bootstrap_interval, interquartile_mean, summarize

FINITE = st.floats(-1e4, 1e4)


def by_hand(scores: list[float]) -> float:
    """Drop a quarter of the values, rounded down, at either end."""
    cut = len(scores) // 4
    kept = sorted(scores)[cut : len(scores) - cut]
    return sum(kept) / len(kept)


@given(st.lists(FINITE, min_size=1, max_size=40))
def test_the_interquartile_mean_is_that_of_the_middle_half(scores: list[float]) -> None:
    assert interquartile_mean(np.array(scores)) == pytest.approx(by_hand(scores), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(FINITE, min_size=2, max_size=9), min_size=1, max_size=3), st.floats(0.1, 50), FINITE)
def test_a_summary_of_normalized_scores_is_the_normalized_summary(
    scores: list[list[float]], spread: float, random: float
) -> None:
    strata = [np.array(values) for values in scores]
    one = summarize(strata).normalized(random, random + spread)
    other = summarize([100 * (values - random) / spread for values in strata])
    for name in ("mean", "std", "median", "interquartile_mean", "interval"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6, abs=1e-2), name
    assert (one.std_of_seeds is None) == (other.std_of_seeds is None) == (len(scores) == 1)
    if one.std_of_seeds is not None:
        assert one.std_of_seeds == pytest.approx(other.std_of_seeds, rel=1e-6, abs=1e-2)


def test_a_summary_has_the_plain_statistics() -> None:
    summary = summarize([np.array([1.0, 2.0]), np.array([3.0, 10.0])])
    assert (summary.seeds, summary.episodes, summary.mean, summary.median) == (2, 4, 4.0, 2.5)
    assert summary.std == pytest.approx(((9 + 4 + 1 + 36) / 4) ** 0.5)
    assert summary.interquartile_mean == 2.5
    assert summary.std_of_seeds == pytest.approx(2.5)  # of 1.5 and 6.5
    alone = summarize([np.array([7.0])])
    assert alone.interval is None
    assert alone.std_of_seeds is None


def test_the_interval_is_stratified() -> None:
    """Two seeds that score 0 and 10 without fail: no episodes of these seeds could give another mean."""
    assert bootstrap_interval([np.zeros(8), np.full(8, 10.0)]) == (5.0, 5.0)
    low, high = bootstrap_interval([np.array([0.0] * 8 + [10.0] * 8)]) or (0, 0)
    assert low < 2
    assert high > 8


def test_the_interval_of_four_episodes_in_closed_form() -> None:
    """Of 0, 0, 0, 1 drawn four times, at least three ones (the only way to 1) come with probability 13/256."""
    assert bootstrap_interval([np.array([0.0, 0.0, 0.0, 1.0])], confidence=0.95) == (0.0, 1.0)
    assert bootstrap_interval([np.array([0.0, 0.0, 0.0, 1.0])], confidence=0.88) == (0.0, 0.5)


def test_the_interval_agrees_with_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(1)
    strata = [rng.gamma(2, 10, size) for size in (10, 16, 7)]
    values = []
    for _ in range(20_000):
        drawn = [float(value) for stratum in strata for value in rng.choice(stratum, len(stratum))]
        values.append(by_hand(drawn))
    expected = np.percentile(values, [2.5, 97.5])
    spread = float(np.std(values))
    assert bootstrap_interval(strata) == pytest.approx(expected, abs=0.1 * spread)
