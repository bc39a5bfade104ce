"""One run: a config in, a directory out.

The directory has ``experiment.json`` (what was asked for), ``training`` (what `atari_dt.training.train` writes: config,
metrics, checkpoints), ``evaluation`` (scores and figures), ``costs.json`` (what it took, here and now), and, written
last, ``result.json``: what tables and figures are made of. On a machine's CPU that is the same for the same config,
whatever interrupted the run meanwhile. ``python -m atari_dt.experiments.run DIRECTORY`` does, or goes on with, what a
directory's ``experiment.json`` says.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import stat
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from atari_dt.command_line import run as run_command
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.protocol import PROTOCOLS, ProtocolName
from atari_dt.evaluation.results import Evaluation
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.rendering.evaluation_report import write_evaluation
from atari_dt.training.loop import train
from replay_data import InputError, TrajectoryStore
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock

CURVE = ("update", "validation_loss", "validation_accuracy")
"""What of ``metrics.jsonl`` goes into a result: what depends neither on the machine's speed nor on interruptions, which
add lines of the training loss."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the trained model plays."""

    return_multiples: tuple[float, ...] = (1.0,)
    """Target returns, as multiples of the dataset's largest return; they mean nothing to behavior cloning."""
    target_returns: tuple[float, ...] = ()
    """Target returns as numbers, in the dataset's reward units."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: as the data was made; `original`: as the original code evaluates."""
    episodes: int = 16
    """Episodes under each target return."""
    max_steps: int = 27_000
    """Steps after which an episode is cut off."""
    evaluation_seed: int = 0
    """Of the emulator, the no-ops and the action sampling."""

    def __post_init__(self) -> None:
        if self.evaluation_seed < 0:
            raise InputError(f"`evaluation_seed` must be at least 0, not {self.evaluation_seed}")
        if not self.return_multiples and not self.target_returns:
            raise InputError("give at least one return multiple or target return")
        if not all(map(math.isfinite, (*self.return_multiples, *self.target_returns))):
            raise InputError("return multiples and target returns must be finite numbers")
        self.play("auto")

    def play(self, device: str) -> PlayConfig:
        """Return how the trained model plays on a device."""
        return PlayConfig(
            protocol=PROTOCOLS[self.protocol],
            episodes=self.episodes,
            max_steps=self.max_steps,
            seed=self.evaluation_seed,
            device=device,
        )


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run finds.

    Attributes:
        data: the store.
        model, training, evaluation: as they say.
        threads: of PyTorch on a CPU; their number decides in which order it adds.
    """

    data: Path
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        content: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(self), "data": str(self.data)}))
        return content

    def flat(self) -> dict[str, Any]:
        """Every field by name, as in `to_json`, without the parts that they stand in."""
        fields: dict[str, Any] = {}
        for name, value in self.to_json().items():
            fields |= value if isinstance(value, dict) else {name: value}
        return fields

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunConfig:
        """Read what `to_json` gave.

        Raises:
            InputError: if it is something else.
        """
        try:
            parts = {"model": ModelConfig, "training": TrainingConfig, "evaluation": EvaluationConfig}
            configs: dict[str, Any] = {
                name: kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in content[name].items()})
                for name, kind in parts.items()
            }
            return cls(data=Path(content["data"]), threads=int(content["threads"]), **configs)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is no config of a run ({type(error).__name__}: {error})") from error


def schedule_for_max_updates(training: TrainingConfig, context_length: int) -> TrainingConfig:
    """Where there is a limit of updates, so many are made, however many epochs that is, and the cosine ends with the
    last; otherwise the schedule is the paper's, in tokens."""
    if (updates := training.max_updates) is None:
        return training
    return dataclasses.replace(
        training,
        epochs=max(training.epochs, updates),
        final_tokens=updates * training.batch_size * context_length,
    )


def read_config(directory: Path) -> RunConfig:
    """Read a run's ``experiment.json``.

    Raises:
        InputError: if it is not there, or damaged.
    """
    path = directory / "experiment.json"
    try:
        return RunConfig.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{directory} is no run (its {path.name} cannot be read: {error})") from error


def execute(directory: Path) -> None:
    """Do what a directory's ``experiment.json`` says, or what of it is not done yet.

    ``result.json`` gets the ``config``, the ``dataset`` with its ``data_source`` and ``data_digest``, the ``curve``
    (`CURVE` at each checkpoint), the episodes under each of the ``targets`` and the ``random_scores``.

    Raises:
        InputError: if the config asks for what cannot be, or the data is not there.
        FloatingPointError: if the training diverges.
        OSError: if something cannot be written.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; the run can be gone on with.
    """
    path = directory / "result.json"
    if path.exists():
        return
    config = read_config(directory)
    torch.set_num_threads(config.threads)
    store = TrajectoryStore.open(config.data)
    training = directory / "training"
    train(store, training, config.model, config.training, resume=True, show_progress=False)
    evaluation, steps_per_s = _evaluate(training, config)
    shutil.rmtree(directory / "evaluation", ignore_errors=True)  # of a session that was killed before its result
    write_evaluation(directory / "evaluation", evaluation, video_targets=())

    lines = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    made = json.loads((training / "config.json").read_text())
    costs = {
        "seconds_per_update": config.training.batch_size / statistics.median(line["contexts_per_s"] for line in lines),
        "evaluation_steps_per_s": steps_per_s,
        **{name: made[name] for name in ("dtype", "versions", "hardware")},
    }
    atomic_write(directory / "costs.json", json.dumps(costs, indent=2) + "\n")
    result = {
        "config": config.to_json(),
        "data_digest": store.digest,
        "dataset": dataclasses.asdict(evaluation.datasets[0]),
        "data_source": store.metadata.source.to_json(),
        "curve": [{name: line[name] for name in CURVE} for line in lines if "validation_loss" in line],
        "targets": [
            {
                "return_multiple": multiple,
                "target_return": played.target_return if evaluation.conditioned else None,
                "scores": played.scores.tolist(),
                "returns": played.returns.tolist(),
                "lengths": played.lengths.tolist(),
            }
            for multiple, played in zip(evaluation.return_multiples, evaluation.results[0], strict=True)
        ],
        "random_scores": evaluation.random.scores.tolist(),
    }
    atomic_write(path, json.dumps(result, indent=2) + "\n")


def _evaluate(training: Path, config: RunConfig) -> tuple[Evaluation, float]:
    """Let the trained model and a random player play; return what they did, and the steps/s of both together."""
    asked, conditioned = config.evaluation, config.model.conditioning == "return"
    start = time.perf_counter()
    evaluation = evaluate_runs(
        [training],
        asked.play(config.training.device),
        return_multiples=asked.return_multiples if conditioned else None,
        targets=asked.target_returns if conditioned else None,
        show_progress=False,
    )
    steps = sum(int(played.lengths.sum()) for played in (*evaluation.results[0], evaluation.random))
    return evaluation, steps / (time.perf_counter() - start)


def read_result(directory: Path) -> dict[str, Any]:
    """Read a run's ``result.json``, with what is in ``costs.json`` as ``costs``.

    Raises:
        InputError: if one cannot be read, or lacks what `execute` writes.
    """
    path = directory / "result.json"
    try:
        result = dict(json.loads(path.read_text()))
        lists = [*(target["scores"] for target in result["targets"]), result["random_scores"]]
        if not result["targets"] or not all(lists) or not all(math.isfinite(score) for each in lists for score in each):
            raise ValueError("scores are missing")
        _ = result["dataset"]["game"], result["data_source"]["kind"], result["data_digest"]
        _ = [line[name] for line in result["curve"] for name in CURVE]
        path = directory / "costs.json"
        costs = dict(json.loads(path.read_text()))
        _ = [costs[name] for name in ("seconds_per_update", "evaluation_steps_per_s", "dtype")]
        _ = costs["hardware"]["cpu"], costs["versions"].items()
        return {**result, "costs": costs}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        advice = f"remove {directory / 'result.json'}, and the run is evaluated anew"
        raise InputError(f"{path} cannot be read; {advice}") from error


def _end_with_parent() -> None:
    """Where standard input is a pipe, end when it does: whoever holds its other end has ended, whatever the reason."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(directory: tyro.conf.Positional[Path]) -> None:
    """Do a run, or what of it is not done yet; how far it is, is in its files.

    Args:
        directory: Of the run, with its experiment.json.
    """
    _end_with_parent()
    with exclusive_lock(directory, "doing the run in"):
        execute(directory)


if __name__ == "__main__":
    run_command(main)
