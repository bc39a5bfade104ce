"""Trajectories of a store, and the values of their steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atari_dt.batches.trajectories import TrajectoryLoader, discounted_values
from atari_dt.games.ram_variables import find_observation, ram_variables
from replay_data import InputError, TrajectoryStore
from replay_data.testing import write_random_store

OBSERVATION = find_observation("variables", ("player_x", "ball_y"), "Breakout")


def value_by_hand(store: TrajectoryStore, step: int, discount: float) -> float:
    end = min(int(end) for end in store.episode_ends if end > step)
    return sum(discount**power * float(store.rewards[later]) for power, later in enumerate(range(step + 1, end)))


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_values_are_the_discounted_rewards_after_each_step(store: TrajectoryStore, discount: float) -> None:
    values = discounted_values(store.rewards, store.episode_ends, discount)
    expected = [value_by_hand(store, step, discount) for step in range(len(store))]
    assert values.tolist() == pytest.approx(expected, abs=1e-5)
    if discount == 1:  # the return from a step on is its reward and its value
        assert store.rewards + values == pytest.approx(store.returns_to_go)


@pytest.mark.parametrize("length", [1, 5])
def test_batches_contain_the_data_of_the_store(tmp_path: Path, length: int) -> None:
    store = write_random_store(tmp_path / "store", [7, 1, 9, 3], ram=True)
    assert store.ram is not None
    steps = np.random.default_rng(0).permutation(len(store))
    loader = TrajectoryLoader(store, length, 0.5, torch.device("cpu"), OBSERVATION)
    batch = loader.batch(steps)
    addresses = [ram_variables("Breakout")[name] for name in ("player_x", "ball_y")]
    for row, step in enumerate(steps):
        episode = int(np.flatnonzero(step < store.episode_ends)[0])
        first, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
        start = max(first, min(int(step), end - length))
        window = range(start, min(start + length, end))
        assert batch.mask[row].tolist() == [k < len(window) for k in range(length)]
        for k, n in enumerate(window):
            assert batch.states[row, k].tolist() == store.ram[n, addresses].tolist()
            assert batch.actions[row, k] == store.actions[n]
            assert batch.rewards[row, k] == store.rewards[n]
            assert batch.values[row, k].item() == pytest.approx(value_by_hand(store, n, 0.5), abs=1e-5)
    assert loader.num_steps(steps) == int(batch.mask.sum())


def test_a_store_without_ram_is_refused(store: TrajectoryStore) -> None:
    with pytest.raises(InputError, match="has no RAM"):
        TrajectoryLoader(store, 5, 0.5, torch.device("cpu"), OBSERVATION)
