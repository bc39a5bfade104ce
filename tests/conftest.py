"""Fixtures that several tests share: small trajectory stores, and seeded random numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # two test processes and their commands share two cores

import torch

from replay_data import StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource
from replay_data.testing import write_random_store

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True, scope="session")
def _no_fsync() -> Iterator[None]:
    """Do not wait for the disk: other processes see files either way, only a power cut would lose them.

    A flush takes some milliseconds, and every store flushes a dozen files. Like fsync, ``os.fstat`` fails for a
    descriptor that is not open. Processes that a test starts flush as a user's do, unless they are forks of this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """A store of episodes that are shorter and longer than the contexts in the tests."""
    return write_random_store(tmp_path_factory.mktemp("stores") / "store", [7, 1, 30, 12, 3, 50])


@pytest.fixture(scope="session")
def readable_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """A store in which the brightness of the newest frame determines the action."""
    path = tmp_path_factory.mktemp("stores") / "readable"
    rng = np.random.default_rng(0)
    with StoreWriter(
        path,
        game="Breakout",
        action_meanings=["NOOP", "FIRE", "RIGHT", "LEFT"],
        reward_clipping=False,
        sticky_actions=None,
        source=StoreSource("test"),
    ) as writer:
        for _ in range(8):
            actions = rng.integers(0, 4, size=25)
            frames = np.broadcast_to((60 * actions).astype(np.uint8)[:, None, None], (25, 84, 84))
            writer.append(np.ascontiguousarray(frames), actions, np.ones(25), terminated=True)
    return TrajectoryStore.open(path)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a previous test may have changed it
