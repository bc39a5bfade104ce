"""The clock of the training metrics: what counts as training time, and that it survives a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from atari_dt.hardware import set_up_compute
from atari_dt.training import metrics as metrics_module
from atari_dt.training import read_metrics
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.metrics import MetricsLogger
from tests.conftest import DATA


class Clock:
    """A clock that only the test moves on."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics_module, "time", clock)
    monkeypatch.setattr(metrics_module, "matmul_peak", lambda device, dtype: 1.0)
    return clock


def log(directory: Path, update: int, clock: Clock, durations: list[tuple[float, float]]) -> None:
    """Log a line per pair of seconds: those of two updates of 4 contexts, and those of a checkpoint after them."""
    names = ("loss", "action_accuracy", "grad_norm")
    compute = set_up_compute("cpu", "fp32", "off", 0)
    with MetricsLogger(directory, names, update, 1, compute, ProcessGroup()) as logger:
        for updates, checkpoint in durations:
            for _ in range(2):
                logger.add(np.arange(4), torch.ones(3))
            clock.now += updates
            logger.write(logger.next_line(tokens=1, learning_rate=1.0))
            clock.now += checkpoint
            logger.restart_clock()


def test_seconds_count_updates_alone_and_survive_a_resume(clock: Clock, tmp_path: Path) -> None:
    log(tmp_path, 0, clock, [(3, 10), (4, 20)])
    assert [(line.update, line.seconds) for line in read_metrics(tmp_path)] == [(2, 3), (4, 7)]
    assert [line.contexts_per_s for line in read_metrics(tmp_path)] == [8 / 3, 8 / 4]
    clock.now += 100  # between two processes
    log(tmp_path, 4, clock, [(5, 0)])
    assert [(line.update, line.seconds) for line in read_metrics(tmp_path)] == [(2, 3), (4, 7), (6, 12)]
    log(tmp_path, 2, clock, [(1, 0)])  # the checkpoint of update 2 was the last
    assert [(line.update, line.seconds) for line in read_metrics(tmp_path)] == [(2, 3), (4, 4)]


def test_a_run_of_an_early_version_goes_on_without_seconds(clock: Clock, tmp_path: Path) -> None:
    shutil.copy(DATA / "version_1" / "run" / "metrics.jsonl", tmp_path)
    log(tmp_path, 3, clock, [(3, 0), (3, 0)])
    assert [(line.update, line.seconds) for line in read_metrics(tmp_path)] == [(3, None), (5, None), (7, None)]
