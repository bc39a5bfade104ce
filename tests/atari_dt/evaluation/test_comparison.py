"""Comparison of methods against counted pairs, enumerated resamples and closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb

import numpy as np
import numpy.typing as npt
import pytest

from atari_dt.evaluation.comparison import (
    improvement_interval,
    performance_profile,
    probability_of_improvement,
    profile_band,
)


def arrays(games: Sequence[Sequence[float]]) -> list[npt.NDArray[np.float64]]:
    return [np.array(runs, dtype=np.float64) for runs in games]


def count_wins(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> float:
    """Return the probability of improvement by counting pairs of runs."""
    games = []
    for x_runs, y_runs in zip(x, y, strict=True):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x_runs for b in y_runs]
        games.append(sum(wins) / len(wins))
    return sum(games) / len(games)


def test_improvement_counts_pairs_and_games_alike() -> None:
    """Scores from 0 to 6 have many ties."""
    rng = np.random.default_rng(1)
    for num_games in (1, 2, 3) * 10:
        x, y = ([rng.integers(0, 7, rng.integers(1, 6)).tolist() for _ in range(num_games)] for _ in range(2))
        probability = probability_of_improvement(arrays(x), arrays(y))
        assert probability == pytest.approx(count_wins(x, y))
        assert probability_of_improvement(arrays(y), arrays(x)) == pytest.approx(1 - probability)


def enumerate_resamples(games: Sequence[Sequence[float]]) -> list[list[tuple[float, ...]]]:
    """Return all resamples of runs within games, which are equally likely."""
    draws = [list(product(runs, repeat=len(runs))) for runs in games]
    return [list(each) for each in product(*draws)]


def test_improvement_interval_is_that_of_all_resamples() -> None:
    """Two games of two runs have 16 * 16 resamples."""
    x, y = [[1.0, 4.0], [2.0, 2.0]], [[3.0, 0.0], [2.0, 5.0]]
    values = [count_wins(a, b) for a in enumerate_resamples(x) for b in enumerate_resamples(y)]
    assert len(values) == 256
    for confidence in (0.95, 0.5):
        expected = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        assert improvement_interval(arrays(x), arrays(y), confidence) == pytest.approx(expected)


def test_runs_are_resampled_within_their_game() -> None:
    """Methods that draw in one game and differ without exception in the other are 3/4 apart in every resample."""
    x, y = arrays([[5.0, 5.0, 5.0], [1.0, 2.0]]), arrays([[5.0, 5.0], [0.0, 0.0, 0.0]])
    assert probability_of_improvement(x, y) == 0.75
    assert improvement_interval(x, y) == (0.75, 0.75)
    assert improvement_interval(y, x) == (0.25, 0.25)


def test_profile_is_the_mean_of_the_games_fractions() -> None:
    scores = arrays([[0.0, 10.0, 20.0], [10.0, 50.0]])
    thresholds = np.array([-1.0, 0.0, 9.9, 10.0, 20.0, 50.0])
    expected = [1, (2 / 3 + 1) / 2, (2 / 3 + 1) / 2, (1 / 3 + 1 / 2) / 2, 1 / 4, 0]
    assert performance_profile(scores, thresholds) == pytest.approx(expected)


def test_profile_band_is_that_of_all_resamples() -> None:
    """A game of three runs and one of two have 27 * 4 resamples."""
    games, thresholds = [[0.0, 10.0, 20.0], [10.0, 50.0]], np.array([-1.0, 5.0, 15.0, 30.0, 60.0])
    profiles = [
        [np.mean([np.mean(np.array(runs) > threshold) for runs in resample]) for threshold in thresholds]
        for resample in enumerate_resamples(games)
    ]
    assert len(profiles) == 108
    expected = np.quantile(profiles, [0.1, 0.9], axis=0)
    low, high = profile_band(arrays(games), thresholds, confidence=0.8)
    assert low == pytest.approx(expected[0])
    assert high == pytest.approx(expected[1])
    assert (low[0], high[0], low[-1], high[-1]) == (1, 1, 0, 0)


def test_profile_of_one_game_is_binomial() -> None:
    """The number of resampled runs above a threshold that 12 of 20 runs exceed is binomial."""
    below, lowest, highest = 0.0, 20, 20
    for count in range(21):
        if below < 0.025:
            lowest = count
        if below < 0.975:
            highest = count
        below += comb(20, count) * 0.6**count * 0.4 ** (20 - count)
    low, high = profile_band([np.arange(20.0)], np.array([7.5]))
    assert (low[0], high[0]) == (lowest / 20, highest / 20)
