"""Runs of every method: from a config to a result, interrupted or not."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.evaluation import run_evaluation
from atari_dt.evaluation.evaluator import evaluate_random
from atari_dt.evaluation.results import EvaluationResult
from atari_dt.experiments import run
from atari_dt.experiments.benchmark import benchmark_runs
from atari_dt.experiments.benchmark_methods import parse_methods
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig, read_run_config
from atari_dt.experiments.run_result import read_costs, read_result
from atari_dt.method_config import CQLConfig, MethodConfig, QRDQNConfig, REMConfig
from atari_dt.training import TrainingStopped, loop, read_metrics
from atari_dt.training.learner import Learner, flops_per_window
from replay_data import InputError, TrajectoryStore

CONFIGS: tuple[MethodConfig, ...] = (
    ModelConfig(2, 1, 1, 8),
    ModelConfig(2, 1, 1, 8, conditioning="none"),
    QRDQNConfig(num_quantiles=2),
    CQLConfig(num_quantiles=2),
    REMConfig(num_q_heads=2),
)
TRAINING = TrainingConfig(
    max_updates=4, batch_size=2, checkpoint_every=2, keep_checkpoints=2, precision="fp32", device="cpu"
)
CONSTANT = dataclasses.replace(TRAINING, schedule="constant")
EVALUATION = EvaluationConfig(episodes=1, max_steps=10, evaluated_checkpoints=2)


@pytest.fixture(scope="module")
def cheap() -> Iterator[pytest.MonkeyPatch]:
    """Leave out what takes longer than these runs: the figures of an evaluation and the count of operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_evaluation", lambda *_, **__: None)
        patch.setattr(loop, "flops_per_window", lambda *_: 1.0)
        yield patch


@pytest.fixture(scope="module")
def finished(
    readable_store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory, cheap: pytest.MonkeyPatch
) -> tuple[Path, Mapping[str, RunConfig]]:
    """Return the directory and the configs of a run of each method."""
    bases = {
        ("Breakout", config.method): RunConfig(Path(), config, training, EVALUATION)
        for config, training in zip(CONFIGS, (TRAINING, TRAINING, CONSTANT, CONSTANT, CONSTANT), strict=True)
    }
    methods = parse_methods(["rem", "top50bc", "qrdqn", "bc", "cql", "dt"])
    runs = benchmark_runs(bases, {("Breakout", 7): readable_store}, methods)
    random_results = []

    def count(*arguments: Any, **options: Any) -> EvaluationResult:
        random_results.append(evaluate_random(*arguments, **options))
        return random_results[-1]

    cheap.setattr(run_evaluation, "evaluate_random", count)
    out = tmp_path_factory.mktemp("runs")
    for name, config in runs.items():
        do_run(out / name, config)
        assert [tuple(each.scores) for each in random_results] == [read_result(out / name).random_scores]  # played once
        random_results.clear()
    return out, runs


def do_run(directory: Path, config: RunConfig) -> None:
    """Do a run, or continue it, in this process."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "experiment.json").write_text(json.dumps(config.to_json()))
    run.execute_run(directory)


def test_every_method_runs(finished: tuple[Path, Mapping[str, RunConfig]]) -> None:
    out, runs = finished
    assert list(runs) == [f"Breakout-{label}-seed7" for label in ("REM", "50BC", "QRDQN", "BC", "CQL", "DT")]
    for name, config in runs.items():
        assert read_run_config(out / name) == config
        result = read_result(out / name)
        assert (result.updates, [checkpoint.update for checkpoint in result.earlier]) == (4, [2])
        costs = read_costs(out / name)
        assert costs.training_seconds == read_metrics(out / name / "training")[-1].seconds
        assert costs.flops_per_update == flops_per_window(config.model, 4) * config.training.batch_size
    groups = sorted(read_groups(out, runs), key=lambda group: group.order)
    assert [group.method for group in groups] == ["DT", "BC", "50%BC", "CQL", "QR-DQN", "REM"]

    # Each checkpoint is played as it would be played alone.
    path = out / "Breakout-CQL-seed7" / "training" / "checkpoints" / "update-00000002"
    alone = run_evaluation.evaluate_runs([path], EVALUATION.play_config("cpu"), show_progress=False)
    (target,) = read_result(path.parents[2]).earlier[0].targets
    assert (tuple(alone.results[0][0].scores), tuple(alone.results[0][0].returns)) == (target.scores, target.returns)


def test_an_interrupted_run_evaluates_the_same_checkpoints(
    finished: tuple[Path, Mapping[str, RunConfig]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interruption writes a checkpoint of update 3, and the run keeps and evaluates those of updates 2 and 4."""
    out, runs = finished
    name = "Breakout-QRDQN-seed7"
    make_update = Learner.update

    def interrupted_update(learner: Learner, batch: Any, update: int, *arguments: float) -> Tensor:
        if update == 2:
            signal.raise_signal(signal.SIGINT)
        return make_update(learner, batch, update, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", interrupted_update)
        with pytest.raises(TrainingStopped):
            do_run(tmp_path / name, runs[name])
    checkpoints = tmp_path / name / "training" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["update-00000002", "update-00000003"]
    do_run(tmp_path / name, runs[name])
    assert sorted(path.name for path in checkpoints.iterdir()) == ["update-00000002", "update-00000004"]
    assert (tmp_path / name / "result.json").read_bytes() == (out / name / "result.json").read_bytes()


def test_a_run_keeps_the_checkpoints_that_it_evaluates(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`keep_checkpoints` must be at least `evaluated_checkpoints` \(4\), not 3"):
        RunConfig(tmp_path, evaluation=EvaluationConfig(evaluated_checkpoints=4))
    with pytest.raises(InputError, match="`evaluated_checkpoints` must be at least 1, not 0"):
        EvaluationConfig(evaluated_checkpoints=0)
