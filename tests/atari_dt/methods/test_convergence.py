"""Each value-based method finds the best Q of a small game from logged transitions, in a store of real frames."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch

from atari_dt.batches.transitions import TransitionBatch, TransitionLoader, drop_truncated_ends
from atari_dt.method_config import CQLConfig, QRDQNConfig, REMConfig
from tests.atari_dt.methods.tabular import (
    FloatArray,
    Transition,
    iterate_values,
    make_learner,
    solve_quantiles,
    write_log,
)
from tests.atari_dt.q_networks import ADAM

DISCOUNT, N = 0.8, 7


class Log(NamedTuple):
    """The log of a uniform-random policy, as the loader reads it and as it was written."""

    batch: TransitionBatch
    transitions: list[Transition]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    store, transitions = write_log(tmp_path_factory.mktemp("tabular") / "store", 250)
    assert store.terminated is not None
    assert 5 <= (~store.terminated).sum() < store.num_episodes - 5
    steps = drop_truncated_ends(np.arange(len(store)), store)
    return Log(TransitionLoader(store, torch.device("cpu")).batch(steps), transitions)


def learn(log: Log, config: QRDQNConfig | REMConfig, num_updates: int = 300) -> FloatArray:
    """Return the estimates of a table after updates on the whole log, with a learning rate that falls."""
    learner, _, table, _ = make_learner(config, training=dataclasses.replace(ADAM, adam_eps=1e-8))
    for update in range(num_updates):
        learner.update(log.batch, update, 0.1 * (1 - update / num_updates))
    return table.detach().double().numpy()


def test_qrdqn_and_cql_with_an_alpha_of_0_find_the_best_q(log: Log) -> None:
    qrdqn = learn(log, QRDQNConfig(num_quantiles=N, discount=DISCOUNT, target_update_every=5))
    torch.manual_seed(0)
    assert np.array_equal(
        learn(log, CQLConfig(num_quantiles=N, alpha=0.0, discount=DISCOUNT, target_update_every=5)), qrdqn
    )
    np.testing.assert_allclose(qrdqn, solve_quantiles(log.transitions, N, DISCOUNT, alpha=0.0), atol=2e-3)
    np.testing.assert_allclose(qrdqn.mean(-1), iterate_values(DISCOUNT), atol=0.02)


def test_rem_finds_the_best_q_with_every_head(log: Log) -> None:
    heads = learn(log, REMConfig(num_q_heads=3, discount=DISCOUNT, target_update_every=5))
    best = iterate_values(DISCOUNT)
    np.testing.assert_allclose(heads.mean(-1), best, atol=0.02)
    np.testing.assert_allclose(heads, np.broadcast_to(best[..., None], heads.shape), atol=0.05)


def test_cql_finds_its_fixed_point(log: Log) -> None:
    cql = learn(log, CQLConfig(num_quantiles=N, alpha=0.2, discount=DISCOUNT, target_update_every=5))
    expected = solve_quantiles(log.transitions, N, DISCOUNT, alpha=0.2)
    np.testing.assert_allclose(cql, expected, atol=2e-3)
    assert np.abs(cql.mean(-1) - iterate_values(DISCOUNT)).max() > 0.1
