"""The files that a run leaves for the report: ``result.json``, ``costs.json`` and ``failure.json``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from atari_dt.experiments.run_config import FORMAT_VERSION, RunConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.training.training_run import Hardware
from replay_data import InputError
from replay_data.json_fields import (
    convert,
    omit_none,
    read_count,
    read_dataclass,
    read_field,
    read_format_version,
    read_list,
    read_mapping,
    read_optional_field,
)
from replay_data.storage.regular_files import read_json_as, read_json_file
from replay_data.store_metadata import StoreSource


@dataclass(frozen=True)
class CurvePoint:
    """The validation of one checkpoint.

    Only numbers that depend neither on the speed of the machine nor on interruptions are part of a result. An
    interruption adds lines with a training loss to ``metrics.jsonl``, so the training loss is not among them.

    Attributes:
        update: Number of updates made.
        validation_loss: Mean loss on the held-out episodes: cross-entropy in nats, or the temporal-difference loss of
            value-based methods.
        validation_accuracy: Fraction of the held-out actions predicted.
    """

    update: int
    validation_loss: float
    validation_accuracy: float

    @classmethod
    def from_json(cls, content: Any) -> CurvePoint:
        """Read one entry of ``curve``."""
        return cls(
            update=read_field(content, "update", int),
            validation_loss=read_field(content, "validation_loss", float),
            validation_accuracy=read_field(content, "validation_accuracy", float),
        )


@dataclass(frozen=True)
class TargetResult:
    """The episodes of a run under one target return.

    Attributes:
        return_multiple: Target return as a multiple of the dataset's largest return; None for a target return given
            another way, and for methods without one.
        target_return: Target return in the dataset's reward units; None for methods without one.
        scores: Score of each episode, in points.
        returns: Return of each episode, in the dataset's reward units.
        lengths: Number of steps of each episode.
        return_percentile: Target return as a percentile of the dataset's episode returns; None for a target return
            given another way, for methods without one, and in older files.
    """

    return_multiple: float | None
    target_return: float | None
    scores: tuple[float, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    return_percentile: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return one entry of ``targets``."""
        return omit_none(dataclasses.asdict(self), "return_percentile")

    @classmethod
    def from_json(cls, content: Any) -> TargetResult:
        """Read one entry of ``targets``."""
        return cls(
            return_multiple=read_optional_field(content, "return_multiple", float),
            target_return=read_optional_field(content, "target_return", float),
            scores=_read_scores(content, "scores"),
            returns=read_list(content, "returns", float),
            lengths=read_list(content, "lengths", int),
            return_percentile=read_optional_field(content, "return_percentile", int),
        )


@dataclass(frozen=True)
class CheckpointResult:
    """The episodes of a checkpoint.

    Attributes:
        update: Number of updates made.
        targets: Episodes under each target return, as in `RunResult`.
    """

    update: int
    targets: tuple[TargetResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Return one entry of ``earlier``."""
        return {"update": self.update, "targets": [target.to_json() for target in self.targets]}

    @classmethod
    def from_json(cls, content: Any) -> CheckpointResult:
        """Read one entry of ``earlier``."""
        return cls(update=read_count(content, "update"), targets=_read_targets(content))


@dataclass(frozen=True)
class RunResult:
    """The result of a run: the same, byte for byte, for the same config on the same machine's CPU.

    Attributes:
        config: Config of the run.
        data_digest: Digest of the trajectory store, `TrajectoryStore.digest`.
        dataset: Game, sizes and returns of the trajectory store.
        data_source: Where the episodes of the store come from.
        curve: Validation of each checkpoint; empty if no episodes were held out.
        targets: Episodes of the last checkpoint under each target return; a single entry for methods without one.
        random_scores: Scores of a uniform-random policy under the same protocol, in points.
        updates: Number of updates of the last checkpoint; None in older files.
        earlier: Episodes of the earlier checkpoints that were evaluated, oldest first; empty in older files.
    """

    config: RunConfig
    data_digest: str
    dataset: DatasetInfo
    data_source: StoreSource
    curve: tuple[CurvePoint, ...]
    targets: tuple[TargetResult, ...]
    random_scores: tuple[float, ...]
    updates: int | None = None
    earlier: tuple[CheckpointResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``result.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "config": self.config.to_json(),
            "data_digest": self.data_digest,
            "dataset": self.dataset.to_json(),
            "data_source": self.data_source.to_json(),
            "curve": [dataclasses.asdict(point) for point in self.curve],
            "targets": [target.to_json() for target in self.targets],
            "random_scores": list(self.random_scores),
            "updates": self.updates,
            "earlier": [checkpoint.to_json() for checkpoint in self.earlier],
        }

    @classmethod
    def from_json(cls, content: Any) -> RunResult:
        """Read the content of ``result.json``, of format version 1 or 2.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        targets = _read_targets(content)
        earlier = tuple(map(CheckpointResult.from_json, content.get("earlier", ())))
        updates = read_optional_field(content, "updates", int)
        counts = [checkpoint.update for checkpoint in earlier]
        if counts != sorted(set(counts)) or (counts and (updates is None or counts[-1] >= updates)):
            raise ValueError("its checkpoints are out of order")
        if any(len(checkpoint.targets) != len(targets) for checkpoint in earlier):
            raise ValueError("its checkpoints differ in the number of target returns")
        return cls(
            config=RunConfig.from_json(content["config"]),
            data_digest=read_field(content, "data_digest", str),
            dataset=_read_dataset(content["dataset"]),
            data_source=StoreSource.from_json(content["data_source"]),
            curve=tuple(map(CurvePoint.from_json, content["curve"])),
            targets=targets,
            random_scores=_read_scores(content, "random_scores"),
            updates=updates,
            earlier=earlier,
        )


@dataclass(frozen=True)
class RunCosts:
    """The time that a run took, and the machine that it ran on.

    Attributes:
        seconds_per_update: Median wall-clock time of an update, in seconds.
        evaluation_steps_per_s: Steps per second of the evaluation, in all environments together.
        dtype: Name of the forward pass's type, such as ``"bfloat16"``.
        versions: Versions of Python and of the packages, by name.
        hardware: Machine of the run.
        training_seconds: Wall-clock time of all updates, those before interruptions included; None in older files.
        flops_per_update: Floating-point operations of an update's forward and backward pass; None in older files.
    """

    seconds_per_update: float
    evaluation_steps_per_s: float
    dtype: str
    versions: Mapping[str, str]
    hardware: Hardware
    training_seconds: float | None = None
    flops_per_update: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``costs.json``."""
        fields = omit_none(dataclasses.asdict(self), "training_seconds", "flops_per_update")
        return {"format_version": FORMAT_VERSION, **fields}

    @classmethod
    def from_json(cls, content: Any) -> RunCosts:
        """Read the content of ``costs.json``, of format version 1 or 2.

        Raises:
            ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        return cls(
            seconds_per_update=read_field(content, "seconds_per_update", float),
            evaluation_steps_per_s=read_field(content, "evaluation_steps_per_s", float),
            dtype=read_field(content, "dtype", str),
            versions=read_mapping(content, "versions", lambda name, version: convert(version, name, str)),
            hardware=read_dataclass(content["hardware"], Hardware),
            training_seconds=read_optional_field(content, "training_seconds", float),
            flops_per_update=read_optional_field(content, "flops_per_update", int),
        )


@dataclass(frozen=True)
class RunFailure:
    """Why a run failed.

    Attributes:
        reason: One sentence, without a full stop.
    """

    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``failure.json``."""
        return {"format_version": FORMAT_VERSION, "reason": self.reason}

    @classmethod
    def from_json(cls, content: Any) -> RunFailure:
        """Read the content of ``failure.json``, of format version 1 or 2.

        Raises:
            ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        return cls(read_field(content, "reason", str))


def read_result(directory: Path) -> RunResult:
    """Read the ``result.json`` of a run's directory.

    Raises:
        InputError: If the file does not exist or is malformed.
    """
    return _read(directory, "result.json", RunResult.from_json)


def read_costs(directory: Path) -> RunCosts:
    """Read the ``costs.json`` of a run's directory.

    Raises:
        InputError: If the file does not exist or is malformed.
    """
    return _read(directory, "costs.json", RunCosts.from_json)


def read_failure(directory: Path) -> RunFailure | None:
    """Read the ``failure.json`` of a run's directory; return None if the run has not failed."""
    if (directory / "result.json").exists():
        return None
    try:
        return RunFailure.from_json(read_json_file(directory / "failure.json"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return RunFailure("its failure.json cannot be read")


Content = TypeVar("Content", RunResult, RunCosts)


def _read(directory: Path, name: str, from_json: Callable[[Any], Content]) -> Content:
    advice = f"remove {directory / 'result.json'} to evaluate the run again"
    return read_json_as(directory / name, from_json, advice)


def _read_targets(content: Any) -> tuple[TargetResult, ...]:
    """Read the episodes under each target return, of which there is at least one."""
    targets = tuple(map(TargetResult.from_json, content["targets"]))
    if not targets:
        raise ValueError("it has no target returns")
    return targets


def _read_scores(content: Any, name: str) -> tuple[float, ...]:
    """Read a list of scores, at least one and all finite."""
    scores = read_list(content, name, float)
    if not scores or not all(map(math.isfinite, scores)):
        raise ValueError(f"{name} lacks scores")
    return scores


def _read_dataset(content: Any) -> DatasetInfo:
    """Read the dataset of a run, whose sizes and returns are always known."""
    dataset = DatasetInfo.from_json(content)
    for name, number_type in (("steps", int), ("episodes", int), ("mean_return", float), ("max_return", float)):
        read_field(content, name, number_type)
    for name in ("mean_score", "max_score"):
        read_optional_field(content, name, float)
    return dataset
