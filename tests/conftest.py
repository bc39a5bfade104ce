"""Fixtures that several tests share: small trajectory stores, and seeded random numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # two test processes and their commands share two cores

import torch

from atari_dt.hardware import matmul_peak
from atari_dt.training import metrics
from replay_data import StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource
from replay_data.testing import write_random_store

DATA = Path(__file__).parent / "data"

FORKING = (
    *("test_benchmarks.py", "test_build_dataset.py", "test_changed_arithmetic.py", "test_collect_replay.py"),
    *("test_distributed.py", "test_evaluate.py", "test_hostile_files.py", "test_portability.py", "test_recorder.py"),
    *("test_resume.py", "test_train.py", "test_value_runs.py", "test_visualize_attention.py"),
)
"""Files whose tests fork child processes from the server of tests/atari_dt/training/processes.py."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that fork.

    Each test process that forks starts a server, which takes some seconds to import PyTorch. pytest-xdist gives the
    first eighth of the tests to one of two processes, so only that one starts a server. These tests are also among the
    slowest, and none of them is left for one process when the other has nothing more to do.
    """
    items.sort(key=lambda item: item.path.name not in FORKING)


@pytest.fixture(autouse=True, scope="session")
def _no_fsync() -> Iterator[None]:
    """Do not wait for the disk: other processes see files either way, only a power cut would lose them.

    A flush takes some milliseconds, and every store flushes a dozen files. Like fsync, ``os.fstat`` fails for a
    descriptor that is not open. Processes that a test starts flush as a user's do, unless they are forks of this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_measurement() -> Iterator[None]:
    """Measure the speed of matrix products once instead of in every run, most of which train for less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "matmul_peak", cache(matmul_peak))
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
