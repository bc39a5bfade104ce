"""The content of a checkpoint's ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.method_config import HFDecisionTransformerConfig, MethodConfig, SequenceConfig, read_method_config
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.input_scaling import InputScaling
from atari_dt.model.reported_evaluation import ReportedEvaluation
from replay_data.json_fields import check_range, read_count, read_field, read_object
from replay_data.observation import FRAMES, ObservationSpec
from replay_data.recording import MAX_ACTIONS

CHECKPOINT_FORMAT = 2


@dataclass(frozen=True)
class CheckpointConfig:
    """Everything a checkpoint stores besides the weights.

    Format version 1 stores more keys per evaluation; they are ignored. Its first checkpoints have neither a training
    config nor evaluations.

    Attributes:
        model: Config of the method and its network.
        num_actions: Size of the game's action set.
        max_timestep: Largest timestep with its own embedding; None for a network that reads no timesteps.
        dataset: Summary of the training data; None if unknown.
        training: Settings the weights were trained with; None if unknown. Settings that did not exist yet when the
            checkpoint was written have their default values.
        evaluations: Reported scores, one entry per target return; empty if the model was not evaluated.
        observation: What the model observes; frames in checkpoints of before there was anything else.
        scaling: What states and returns-to-go are scaled with; only of networks of transformers, which have no place
            for it among their weights.
    """

    model: MethodConfig
    num_actions: int
    max_timestep: int | None
    dataset: DatasetInfo | None = None
    training: TrainingConfig | None = None
    evaluations: tuple[ReportedEvaluation, ...] = ()
    observation: ObservationSpec = FRAMES
    scaling: InputScaling | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        return {
            "format_version": CHECKPOINT_FORMAT,
            "model": self.model.to_json(),
            "observation": self.observation.to_json(),
            **({} if self.scaling is None else {"scaling": self.scaling.to_json()}),
            "num_actions": self.num_actions,
            **({} if self.max_timestep is None else {"max_timestep": self.max_timestep}),
            "dataset": self.dataset and self.dataset.to_json(),
            "training": self.training and self.training.to_json(),
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
        }

    @classmethod
    def from_json(cls, content: Any) -> CheckpointConfig:
        """Read the content of ``config.json``, format version 1 or 2.

        Raises:
            ValueError, KeyError, TypeError: If the content is anything else, or a number is impossible.
            InputError: If a setting has an impossible value.
        """
        dataset, training = read_object(content)["dataset"], content.get("training")
        evaluations = content.get("evaluations", [])
        if not isinstance(evaluations, list):
            raise TypeError("evaluations is not a list")
        model = read_method_config(content["model"])
        reads_timesteps = isinstance(model, SequenceConfig)
        if isinstance(model, ModelConfig):
            read_field(content["model"], "num_heads", int)  # the weights show every other size that has a default
        config = cls(
            model=model,
            num_actions=check_range("num_actions", read_field(content, "num_actions", int), 1, MAX_ACTIONS),
            max_timestep=read_count(content, "max_timestep") if reads_timesteps else None,
            dataset=None if dataset is None else DatasetInfo.from_json(dataset),
            training=None if training is None else TrainingConfig.from_json(training),
            evaluations=tuple(map(ReportedEvaluation.from_json, evaluations)),
            observation=ObservationSpec.from_json(content["observation"]) if "observation" in content else FRAMES,
            scaling=InputScaling.from_json(content["scaling"])
            if isinstance(model, HFDecisionTransformerConfig)
            else None,
        )
        num_meanings = config.num_actions if config.dataset is None else len(config.dataset.action_meanings)
        if num_meanings != config.num_actions:
            raise ValueError(f"num_actions is {config.num_actions}, but there are {num_meanings} action_meanings")
        if config.observation.kind != model.observation:
            raise ValueError(
                f"its model observes {model.observation}, but its observation is {config.observation.kind}"
            )
        if model.variables and config.observation.names != model.variables:
            raise ValueError("its model observes other variables than its observation has")
        num_entries = config.observation.state_shape[0]
        if config.scaling is not None and len(config.scaling.mean) != num_entries:
            raise ValueError(f"scaling has {len(config.scaling.mean)} means, but a state has {num_entries} entries")
        return config
