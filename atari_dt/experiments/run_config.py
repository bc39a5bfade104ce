"""The config of a run: ``experiment.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.target_returns import (
    check_percentiles,
    check_target_returns,
    compute_target_returns,
    explain_percentiles,
    lacks_positive_return,
    look_up_percentiles,
)
from atari_dt.method_config import MethodConfig, read_method_config
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.policies.protocol import PROTOCOLS, ProtocolName
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import read_dataclass, read_field, read_format_version
from replay_data.storage.regular_files import read_json_file

FORMAT_VERSION = 2
"""Version of ``experiment.json``, ``result.json``, ``costs.json`` and ``failure.json``."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the trained model is evaluated.

    Multiples are played first, then percentiles, then numbers. Only the Decision Transformer uses them.
    """

    return_multiples: tuple[float, ...] = (1.0,)
    """Target returns as multiples of the dataset's largest return."""
    target_returns: tuple[float, ...] = ()
    """Target returns as numbers, in the dataset's reward units."""
    return_percentiles: tuple[int, ...] = ()
    """Target returns as percentiles of the dataset's episode returns, from 0 to 100; by default 100, in place of the
    multiples, where the largest return is not positive."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: play as the dataset was recorded; `original`: play as the original code evaluates."""
    episodes: int = 16
    """Number of episodes under each target return."""
    max_steps: int = 27_000
    """Number of steps after which an episode is truncated."""
    evaluation_seed: int = 0
    """Seed of the emulator, the no-ops and the action sampling."""
    evaluated_checkpoints: int | None = None
    """Number of a run's last checkpoints to evaluate, all with the same seeds; by default one, and in the benchmark all
    that value-based methods keep. The last one gives the final score, the largest score is the best one."""

    def __post_init__(self) -> None:
        if self.evaluation_seed < 0:
            raise InputError(f"`evaluation_seed` must be at least 0, not {self.evaluation_seed}")
        if self.evaluated_checkpoints is not None and self.evaluated_checkpoints < 1:
            raise InputError(f"`evaluated_checkpoints` must be at least 1, not {self.evaluated_checkpoints}")
        if not self.return_multiples and not self.return_percentiles and not self.target_returns:
            raise InputError(
                "`return_multiples`, `return_percentiles` or `target_returns` must have at least one number"
            )
        check_percentiles(self.return_percentiles)
        check_target_returns((*self.return_multiples, *self.target_returns))
        self.play_config("auto")

    def for_returns_of(self, datasets: Sequence[DatasetInfo]) -> EvaluationConfig:
        """Return the config with percentile 100 in place of the multiples if they make no targets for some dataset.

        The result is a default, which the user may change.

        Args:
            datasets: Dataset of each run.
        """
        if not self.return_multiples or not lacks_positive_return(datasets):
            return self
        return dataclasses.replace(self, return_multiples=(), return_percentiles=(100,))

    def explain_default(self, default: EvaluationConfig) -> str | None:
        """Return a sentence about percentiles that are not given but the default; None if there are none.

        Args:
            default: The default config, from `for_returns_of`.
        """
        if not self.return_percentiles or self.return_percentiles != default.return_percentiles:
            return None
        return explain_percentiles(self.return_percentiles)

    def check_targets(self, dataset: DatasetInfo) -> None:
        """Check that a dataset has these target returns.

        Raises:
            InputError: If it lacks one.
        """
        compute_target_returns(dataset, self.return_multiples)
        look_up_percentiles(dataset, self.return_percentiles)

    def play_config(self, device: str) -> PlayConfig:
        """Return how the trained model plays on a device."""
        return PlayConfig(
            protocol=PROTOCOLS[self.protocol],
            episodes=self.episodes,
            max_steps=self.max_steps,
            seed=self.evaluation_seed,
            device=device,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {
            **dataclasses.asdict(self),
            "return_multiples": list(self.return_multiples),
            "target_returns": list(self.target_returns),
            "return_percentiles": list(self.return_percentiles),
        }

    @classmethod
    def from_json(cls, content: Any) -> EvaluationConfig:
        """Read a JSON object that `to_json` returned; missing fields have their default values.

        Raises:
            InputError, ValueError, TypeError: If the content is malformed.
        """
        return read_dataclass(content, cls)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the result of a run.

    Attributes:
        data: Path of the trajectory store.
        model: Config of the method and its network.
        training: Config of the training.
        evaluation: Config of the evaluation.
        threads: Number of PyTorch threads on a CPU. It decides the order of summation, and with it the last digits.
    """

    data: Path
    model: MethodConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"`threads` must be at least 1, not {self.threads}")
        kept, evaluated = self.training.keep_checkpoints, self.evaluation.evaluated_checkpoints
        if evaluated is not None and kept < evaluated:
            raise InputError(f"`keep_checkpoints` must be at least `evaluated_checkpoints` ({evaluated}), not {kept}")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``experiment.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "data": str(self.data),
            "model": self.model.to_json(),
            "training": self.training.to_json(),
            "evaluation": self.evaluation.to_json(),
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, content: Any) -> RunConfig:
        """Read the content of ``experiment.json``, of format version 1 or 2.

        Fields that an older version did not know get their defaults.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        return cls(
            data=Path(read_field(content, "data", str)),
            model=read_method_config(content["model"]),
            training=TrainingConfig.from_json(content["training"]),
            evaluation=EvaluationConfig.from_json(content["evaluation"]),
            threads=read_field(content, "threads", int),
        )

    def flat(self) -> dict[str, Any]:
        """Return every setting by name, in one mapping, with lists in place of tuples."""
        settings: dict[str, Any] = {}
        for name, value in self.to_json().items():
            settings |= value if isinstance(value, dict) else {name: value}
        del settings["format_version"]
        return settings


def read_run_config(directory: Path) -> RunConfig:
    """Read the ``experiment.json`` of a run's directory.

    Raises:
        InputError: If the directory has no such file, or the file is malformed.
    """
    path = directory / "experiment.json"
    try:
        return RunConfig.from_json(read_json_file(path))
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{directory} is not a run: its {path.name} cannot be read ({summarize_error(error)}); "
            "remove the directory to start the run again"
        ) from error


def schedule_for_max_updates(training: TrainingConfig, window_length: int) -> TrainingConfig:
    """Return a schedule that makes exactly ``max_updates`` updates and ends its cosine, if any, at the last one.

    Without ``max_updates``, the schedule is unchanged.

    Args:
        training: Config of the training.
        window_length: Number of successive actions of an entry of a batch: K of a context, 1 of a transition.
    """
    if (updates := training.max_updates) is None:
        return training
    counted_in_tokens = training.schedule == "cosine" and training.warmup_fraction is None
    final_tokens = updates * training.batch_size * window_length if counted_in_tokens else None
    return dataclasses.replace(training, epochs=max(training.epochs, updates), final_tokens=final_tokens)
