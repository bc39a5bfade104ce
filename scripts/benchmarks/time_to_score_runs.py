"""The runs of `time_to_score`: do those that are not finished, and read their curves."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.evaluation.scores import EvaluationScores, read_scores
from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import RunResult, read_costs, read_result
from atari_dt.experiments.sweep import run_sweep
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import find_checkpoints
from atari_dt.training import read_metrics
from atari_dt.training.learner import flops_per_window
from atari_dt.training.training_run import Hardware
from replay_data import InputError, TrajectoryStore
from replay_data.storage.atomic import atomic_write

_cached_flops_per_window = functools.lru_cache(flops_per_window)  # the same for all seeds


@dataclass(frozen=True)
class Point:
    """A validation loss or a mean score during a run.

    Attributes:
        update: Number of updates made.
        seconds: Wall time of these updates, see `MetricsLine`.
        value: Validation loss in nats, or mean score in points.
    """

    update: int
    seconds: float
    value: float


@dataclass(frozen=True)
class TimedRun:
    """A finished run of a recipe.

    Attributes:
        recipe: Label of the recipe, with its number of updates.
        seed: Seed of the run.
        flops_per_update: Floating-point operations of an update's forward and backward pass.
        losses: Validation losses in the order of updates; the last is that of the final model.
        accuracy: Validation accuracy of the final model.
        mean_scores: Mean scores under the first target return in the order of updates; the last is the final model's.
        scores: Scores of the final model's episodes, by multiple of the dataset's largest return.
    """

    recipe: str
    seed: int
    flops_per_update: int
    losses: tuple[Point, ...]
    accuracy: float
    mean_scores: tuple[Point, ...]
    scores: Mapping[float, tuple[float, ...]]

    @property
    def updates(self) -> int:
        """Number of updates of the whole run."""
        return self.losses[-1].update

    @property
    def seconds(self) -> float:
        """Wall time of all updates."""
        return self.losses[-1].seconds

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the run for a JSON file."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Machine:
    """Where and how all runs of a benchmark were done.

    Attributes:
        hardware: Machine.
        threads: Number of PyTorch threads on a CPU.
        dtype: Name of the forward pass's type.
        compile: Setting of `TrainingConfig.compile`.
        versions: Versions of Python and of the packages, by name.
    """

    hardware: Hardware
    threads: int
    dtype: str
    compile: str
    versions: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path) -> Machine:
        """Read the machine of a finished run."""
        costs, config = read_costs(directory), read_result(directory).config
        return cls(costs.hardware, config.threads, costs.dtype, config.training.compile, costs.versions)


def complete_runs(
    out: Path, runs: Mapping[tuple[str, int], RunConfig], store: TrajectoryStore, score_every: int
) -> tuple[list[TimedRun], Machine]:
    """Do every run that is not finished, one after another in the given order.

    Args:
        out: Directory of all runs.
        runs: Config of each run, whose ``data`` is ignored, by label of the recipe and seed.
        store: Data.
        score_every: Updates between two evaluations during a run; 0 if there are none.

    Returns:
        All runs, and the machine that did them.

    Raises:
        InputError: If a run fails, naming each failed run after all others are done; if ``out`` holds runs with other
            settings, or of another machine or version; or if the data have no positive return.
        KeyboardInterrupt: On Ctrl-C; the same call resumes the benchmark.
    """
    runs = {key: dataclasses.replace(config, data=store.path.resolve()) for key, config in runs.items()}
    dataset = DatasetInfo.from_store(store)
    for config in runs.values():
        config.evaluation.check_targets(dataset)  # fail before hours of training
    failures, timed_runs, machines = {}, [], {}
    try:
        for (recipe, seed), config in runs.items():
            name = f"{recipe.replace(':', '-')}-seed{seed}"
            finished = (out / name / "result.json").exists()
            failed = run_sweep({name: config}, out, jobs=1, retry_failed=True, show_progress=not finished)
            failures.update(failed)
            if failed:
                continue
            result = read_result(out / name)
            if result.data_digest != store.digest:
                raise InputError(
                    f"the data in {store.path} have changed since {out / name} trained on them; choose another `out`"
                )
            if score_every:
                _evaluate_checkpoints(out / name, config, score_every)
            timed_runs.append(_read_run(out / name, recipe, seed, result, store.num_actions))
            machines[name] = Machine.read(out / name)
            first = next(iter(machines))
            if machines[name] != machines[first]:
                raise InputError(
                    f"{name} and {first} in {out} differ in machine, threads, precision or versions, so their times "
                    "cannot be compared; choose another `out`"
                )
    except KeyboardInterrupt:
        message = f"{len(timed_runs)} of {len(runs)} runs are finished; the same command resumes the benchmark"
        raise KeyboardInterrupt(message) from None
    if failures:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failures.items())
        raise InputError(
            f"{len(failures)} of {len(runs)} runs failed: {reasons}; the same command retries them, and without their "
            "`recipes` or `seeds` it reports on the others"
        )
    return timed_runs, next(iter(machines.values()))


def _evaluate_checkpoints(directory: Path, config: RunConfig, score_every: int) -> None:
    """Evaluate checkpoints of a finished run, and then remove all but its last one."""
    torch.set_num_threads(config.threads)
    training = directory / "training"
    (directory / "checkpoint_scores").mkdir(exist_ok=True)
    for checkpoint in find_checkpoints(training):
        path = directory / "checkpoint_scores" / f"{checkpoint.name}.json"
        update = int(checkpoint.name.removeprefix("update-"))
        if update % score_every or update == config.training.max_updates or path.exists():
            continue
        evaluation = evaluate_runs(
            [checkpoint],
            config.evaluation.play_config(config.training.device),
            return_multiples=config.evaluation.return_multiples[:1],
        )
        atomic_write(path, json.dumps(EvaluationScores.from_evaluation(evaluation).to_json(), indent=2) + "\n")
    for checkpoint in find_checkpoints(training)[:-1]:
        shutil.rmtree(checkpoint)


def _read_run(directory: Path, recipe: str, seed: int, result: RunResult, num_actions: int) -> TimedRun:
    """Read a finished run."""
    config = result.config
    seconds = {line.update: line.seconds for line in read_metrics(directory / "training") if line.seconds is not None}
    scores = {target.return_multiple: target.scores for target in result.targets if target.return_multiple is not None}
    mean_scores = {result.curve[-1].update: float(np.mean(result.targets[0].scores))}
    for path in (directory / "checkpoint_scores").glob("*.json"):
        (target,) = read_scores(path).runs[0].evaluations
        mean_scores[int(path.stem.removeprefix("update-"))] = target.mean_score
    try:
        return TimedRun(
            recipe=recipe,
            seed=seed,
            flops_per_update=_cached_flops_per_window(config.model, num_actions) * config.training.batch_size,
            losses=tuple(Point(point.update, seconds[point.update], point.validation_loss) for point in result.curve),
            accuracy=result.curve[-1].validation_accuracy,
            mean_scores=tuple(Point(update, seconds[update], score) for update, score in sorted(mean_scores.items())),
            scores=scores,
        )
    except KeyError as error:
        raise InputError(
            f"the metrics in {directory} do not say how long {error} updates took; remove the directory to train again"
        ) from error
