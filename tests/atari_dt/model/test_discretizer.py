"""Tokens of numbers: round trips, intervals, and errors against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.model.discretizer import Discretizer, Values
from atari_dt.trajectory_config import Discretization


def draw_column(kind: str, size: int, seed: int) -> Values:
    """Draw bytes of few or many values, floats of very different sizes, or floats that differ in their last bits."""
    rng = np.random.default_rng(seed)
    if kind == "bytes":
        return rng.integers(0, rng.integers(1, 257), size).astype(np.uint8)
    if kind == "last bits":
        return (1 + 2.0**-23 * rng.integers(0, 40, size)).astype(np.float32)
    return (rng.choice([-1, 1], size) * 10.0 ** rng.uniform(-30, 30, size)).astype(np.float32)


COLUMNS = st.builds(
    draw_column, st.sampled_from(["bytes", "floats", "last bits"]), st.integers(1, 60), st.integers(0, 2**32)
)


def fit(method: Discretization, vocab_size: int, *columns: Values) -> Discretizer:
    discretizer = Discretizer(len(columns), vocab_size)
    discretizer.fit(columns, method)
    return discretizer


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(COLUMNS, min_size=1, max_size=3), st.integers(1, 12), st.sampled_from(["quantile", "uniform"]))
def test_tokens_stand_for_the_means_of_their_intervals(
    columns: list[Values], vocab_size: int, method: Discretization
) -> None:
    discretizer = fit(method, vocab_size, *columns)
    used = discretizer.used.sum(1)
    assert discretizer.used.tolist() == [[token < n for token in range(vocab_size)] for n in used.tolist()]
    everything = torch.arange(vocab_size)[:, None].minimum(used - 1)
    assert torch.equal(discretizer.encode(discretizer.decode(everything)), everything)
    for entry, column in enumerate(columns):
        only = slice(entry, entry + 1)
        values = column.astype(np.float32)
        tokens = discretizer.encode(torch.from_numpy(column)[:, None], only)[:, 0].numpy()
        assert set(tokens.tolist()) == set(range(int(used[entry])))  # every interval holds a value
        order = values.argsort(kind="stable")
        assert (np.diff(tokens[order]) >= 0).all()
        decoded = discretizer.decode(torch.from_numpy(tokens)[:, None], only)[:, 0].numpy()
        for token in range(int(used[entry])):
            members = values[tokens == token].astype(np.float64)
            assert decoded[tokens == token] == pytest.approx(members.mean(), rel=1e-6, abs=1e-37)
        if len(np.unique(values)) <= vocab_size:
            assert (decoded == values).all()
            assert used[entry] == len(np.unique(values))
        elif method == "quantile":
            assert used[entry] == vocab_size
        beyond = torch.tensor([[-3e38], [3e38]])
        assert discretizer.encode(beyond, only)[:, 0].tolist() == [0, int(used[entry]) - 1]


def test_intervals_of_quantiles_are_equally_frequent() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    tokens = fit("quantile", 10, values).encode(torch.from_numpy(values)[:, None])[:, 0]
    assert torch.bincount(tokens).tolist() == [100] * 10


def test_a_frequent_value_costs_one_token() -> None:
    """Quantiles of the whole data would give the 100 rare values a single token."""
    values = np.concatenate([np.zeros(9900), np.arange(1, 101)]).astype(np.float32)
    tokens = fit("quantile", 11, values).encode(torch.from_numpy(values)[:, None])[:, 0]
    assert torch.bincount(tokens).tolist() == [9900] + [10] * 10


def test_uniform_intervals_are_equally_wide_and_none_is_empty() -> None:
    values = np.array([*range(40), *range(80, 100), 100], dtype=np.uint8)
    discretizer = fit("uniform", 10, values)
    tokens = discretizer.encode(torch.from_numpy(values)[:, None])[:, 0].tolist()
    assert tokens == [value // 10 for value in range(40)] + [4] * 10 + [5] * 11
    assert discretizer.means[0, :6].tolist() == [4.5, 14.5, 24.5, 34.5, 84.5, 95]
    assert discretizer.encode(torch.tensor([[59.0], [60.0]]))[:, 0].tolist() == [3, 4]  # to the nearest value


def test_expectation_and_reconstruction_error_equal_loops() -> None:
    rng = np.random.default_rng(1)
    columns: list[Values] = [rng.normal(size=200).astype(np.float32), rng.integers(0, 256, 200).astype(np.uint8)]
    discretizer = fit("quantile", 7, *columns)
    values = torch.from_numpy(np.stack([column.astype(np.float32) for column in columns], axis=-1))
    expected = [0.0, 0.0]
    for row in values.tolist():
        for entry, value in enumerate(row):
            token = sum(value >= bound for bound in discretizer.bounds[entry].tolist())
            expected[entry] += abs(discretizer.means[entry, token].item() - value) / 200
    assert discretizer.reconstruction_error(values).tolist() == pytest.approx(expected, rel=1e-5)
    assert expected[0] < 0.2

    logits = torch.tensor([0.0, 1, 2, -torch.inf, 0, 3, -1])
    weights = np.exp(logits.numpy())
    mean = sum(weights / weights.sum() * discretizer.means[1].numpy())
    assert discretizer.expectation(logits, 1).item() == pytest.approx(mean, rel=1e-5)
