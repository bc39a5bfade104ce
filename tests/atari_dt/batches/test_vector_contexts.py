"""Contexts of vectors against a loop over the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atari_dt.batches.contexts import ContextLoader
from atari_dt.games.ram_variables import find_observation
from replay_data import InputError, TrajectoryStore
from replay_data.observation import RAM, ObservationSpec
from replay_data.testing import write_random_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ram_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """A store with RAM, of episodes that are shorter and longer than the contexts."""
    path = tmp_path_factory.mktemp("stores") / "ram"
    return write_random_store(path, [7, 1, 30, 3, 50], repeat_frames=True, ram=True)


@pytest.mark.parametrize(
    "observation", [RAM, find_observation("variables", (), "Breakout")], ids=lambda each: each.kind
)
@pytest.mark.parametrize("context_length", [1, 4, 30])
def test_contexts_have_the_bytes_of_their_steps(
    ram_store: TrajectoryStore, context_length: int, observation: ObservationSpec
) -> None:
    """Padding repeats the last vector of its own episode, and nothing of a neighbor."""
    store, ram = ram_store, ram_store.require_ram()
    steps = np.random.default_rng(0).permutation(len(store))
    loaders = [ContextLoader(store, context_length, CPU, observation, resident) for resident in (None, False)]
    batch, other = (next(loader.batches([steps])) for loader in loaders)
    assert batch.states.dtype == torch.uint8
    assert batch.states.shape == (len(store), context_length, *observation.state_shape)
    assert torch.equal(batch.states, other.states)
    for row, step in enumerate(steps):
        episode = int(np.flatnonzero(step < store.episode_ends)[0])
        first, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
        start = max(first, min(int(step), end - context_length))
        length = min(context_length, end - start)
        assert batch.attention_mask[row].tolist() == [k < length for k in range(context_length)]
        for k in range(context_length):
            source = start + min(k, length - 1)
            vector = [int(ram[source, address]) for address in observation.addresses or range(128)]
            assert batch.states[row, k].tolist() == vector
            assert batch.actions[row, k] == store.actions[source]
            assert batch.returns_to_go[row, k] == store.returns_to_go[source]
            assert batch.timesteps[row, k] == store.timesteps[source]


def test_the_bytes_are_not_copied(ram_store: TrajectoryStore) -> None:
    loader = ContextLoader(ram_store, 4, CPU, RAM)
    assert loader._rows.data_ptr() == ram_store.require_ram().ctypes.data


def test_a_store_without_ram_is_refused(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", [3])
    with pytest.raises(InputError, match="has no RAM; record"):
        ContextLoader(store, 4, CPU, RAM)
