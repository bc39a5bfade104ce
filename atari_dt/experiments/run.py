"""One run: train and evaluate a model, from a config in a directory to a result in the same directory.

The directory of a run contains

- ``experiment.json``: the config, `RunConfig`, which is there before the run starts;
- ``training``: config, metrics and checkpoints, written by `atari_dt.training.loop.train`;
- ``evaluation``: scores and figures, written by `atari_dt.rendering.evaluation_report.write_evaluation`;
- ``costs.json``: times and hardware, `RunCosts`;
- ``result.json``: the scores that tables and figures are made of, `RunResult`, written last.

``python -m atari_dt.experiments.run DIRECTORY`` does a run or resumes it. On a machine's CPU, the same config gives the
same ``result.json``, byte for byte, no matter how often the run was interrupted.
"""

from __future__ import annotations

from replay_data.storage.processes import exit_with_parent, stdin_is_pipe, wait_for_stdin_to_close

if __name__ == "__main__" and stdin_is_pipe():  # the imports below take seconds, in which the parent may be killed
    exit_with_parent(wait_for_stdin_to_close)

import dataclasses
import itertools
import json
import shutil
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import tyro

from atari_dt.command_line import run as run_command
from atari_dt.evaluation.results import Evaluation, EvaluationResult
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.experiments.run_config import RunConfig, read_run_config
from atari_dt.experiments.run_result import CheckpointResult, CurvePoint, RunCosts, RunResult, TargetResult
from atari_dt.games.ram_variables import find_observation
from atari_dt.model.pretrained import checkpoint_updates
from atari_dt.rendering.evaluation_report import write_evaluation
from atari_dt.training import MetricsLine, read_metrics, read_training_run, train
from atari_dt.training.checkpoint import find_planned_checkpoints
from atari_dt.training.learner import flops_per_window
from replay_data import TrajectoryStore
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock


def execute_run(directory: Path) -> None:
    """Do the run of a directory's ``experiment.json``, or the rest of it; do nothing if the run is finished.

    Raises:
        InputError: If the config is invalid, or the trajectory store does not exist.
        FloatingPointError: If the training diverges.
        OSError: If a file cannot be written.
        KeyboardInterrupt: On Ctrl-C or SIGTERM; another call resumes the run.
    """
    if (directory / "result.json").exists():
        return
    config = read_run_config(directory)
    torch.set_num_threads(config.threads)
    store = TrajectoryStore.open(config.data)
    training = directory / "training"
    train(store, training, config.model, config.training, resume=True, show_progress=False)
    start = time.perf_counter()
    evaluation = _evaluate(training, config)
    evaluation_steps_per_s = _num_steps(evaluation) / (time.perf_counter() - start)
    *earlier, last = _checkpoint_results(evaluation)
    shutil.rmtree(directory / "evaluation", ignore_errors=True)  # left by a process killed before it wrote the result
    write_evaluation(directory / "evaluation", _last_checkpoint(evaluation), video_targets=())

    metrics = read_metrics(training)
    training_run = read_training_run(training)
    observation = find_observation(config.model.observation, config.model.variables, store.game)
    costs = RunCosts(
        seconds_per_update=config.training.batch_size / statistics.median(line.contexts_per_s for line in metrics),
        evaluation_steps_per_s=evaluation_steps_per_s,
        dtype=training_run.dtype,
        versions=training_run.versions,
        hardware=training_run.hardware,
        training_seconds=metrics[-1].seconds,
        flops_per_update=flops_per_window(config.model, store.num_actions, observation) * config.training.batch_size,
    )
    atomic_write(directory / "costs.json", json.dumps(costs.to_json(), indent=2) + "\n")
    result = RunResult(
        config=config,
        data_digest=store.digest,
        dataset=evaluation.datasets[0],
        data_source=store.metadata.source,
        curve=_validation_curve(metrics),
        targets=last.targets,
        random_scores=tuple(evaluation.random.scores.tolist()),
        updates=last.update,
        earlier=tuple(earlier),
    )
    atomic_write(directory / "result.json", json.dumps(result.to_json(), indent=2) + "\n")


def _evaluate(training: Path, config: RunConfig) -> Evaluation:
    """Evaluate the last checkpoints, oldest first, and a uniform-random policy."""
    conditioned = config.model.conditioned
    checkpoints = find_planned_checkpoints(training, config.training)
    return evaluate_runs(
        checkpoints[-(config.evaluation.evaluated_checkpoints or 1) :],
        config.evaluation.play_config(config.training.device),
        return_multiples=config.evaluation.return_multiples if conditioned else None,
        return_percentiles=config.evaluation.return_percentiles if conditioned else None,
        target_returns=config.evaluation.target_returns if conditioned else None,
        show_progress=False,
    )


def _num_steps(evaluation: Evaluation) -> int:
    """Return the number of steps of all episodes, those of the uniform-random policy included."""
    results = (*itertools.chain.from_iterable(evaluation.results), evaluation.random)
    return sum(int(result.lengths.sum()) for result in results)


def _last_checkpoint(evaluation: Evaluation) -> Evaluation:
    """Return the part of an evaluation that is of the last checkpoint."""
    return dataclasses.replace(
        evaluation,
        checkpoints=evaluation.checkpoints[-1:],
        datasets=evaluation.datasets[-1:],
        results=evaluation.results[-1:],
    )


def _validation_curve(metrics: Iterable[MetricsLine]) -> tuple[CurvePoint, ...]:
    """Return the validation of each checkpoint."""
    return tuple(
        CurvePoint(line.update, line.validation_loss, line.validation_accuracy)
        for line in metrics
        if line.validation_loss is not None and line.validation_accuracy is not None
    )


def _checkpoint_results(evaluation: Evaluation) -> list[CheckpointResult]:
    """Return the episodes of each checkpoint, oldest first."""
    return [
        CheckpointResult(checkpoint_updates(checkpoint) or 0, _target_results(evaluation, results))
        for checkpoint, results in zip(evaluation.checkpoints, evaluation.results, strict=True)
    ]


def _target_results(evaluation: Evaluation, results: Sequence[EvaluationResult]) -> tuple[TargetResult, ...]:
    """Return the episodes of a checkpoint under each target return."""
    return tuple(
        TargetResult(
            return_multiple=multiple,
            target_return=result.target_return if evaluation.conditioned else None,
            scores=tuple(result.scores.tolist()),
            returns=tuple(result.returns.tolist()),
            lengths=tuple(result.lengths.tolist()),
            return_percentile=percentile,
        )
        for multiple, percentile, result in zip(
            evaluation.return_multiples, evaluation.return_percentiles, results, strict=True
        )
    )


def main(directory: tyro.conf.Positional[Path]) -> None:
    """Do a run, or resume it; its progress is in its files.

    Args:
        directory: Directory of the run, with its experiment.json.
    """
    with exclusive_lock(directory, "doing the run in"):
        execute_run(directory)


if __name__ == "__main__":
    run_command(main)
