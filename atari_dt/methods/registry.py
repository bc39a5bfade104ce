"""All methods by name, and checkpoints of any of them."""

from __future__ import annotations

import os
from typing import Any

from atari_dt.config import MethodName
from atari_dt.method_config import MethodConfig
from atari_dt.methods.cql import CQL
from atari_dt.methods.hf_decision_transformer import HFDecisionTransformerMethod
from atari_dt.methods.method import Method
from atari_dt.methods.qrdqn import QRDQN
from atari_dt.methods.rem import REM
from atari_dt.methods.sequence import SequenceMethod
from atari_dt.methods.trajectory_transformer import TrajectoryMethod
from atari_dt.model.pretrained import PretrainedModel, find_checkpoint_files, read_checkpoint_config

METHODS: dict[MethodName, Method[Any]] = {
    "dt": SequenceMethod(),
    "bc": SequenceMethod(),
    "qrdqn": QRDQN,
    "cql": CQL,
    "rem": REM,
    "hf_decision_transformer": HFDecisionTransformerMethod(),
    "trajectory_transformer": TrajectoryMethod(),
}
"""The methods, by the name in their config."""


def find_method(config: MethodConfig) -> Method[Any]:
    """Return the method that a config selects."""
    return METHODS[config.method]


def load_model(pretrained_model_name_or_path: str | os.PathLike[str], **hub: Any) -> PretrainedModel:
    """Load a checkpoint of any method; the model is on the CPU and in evaluation mode.

    Args:
        pretrained_model_name_or_path: Checkpoint directory, or name of a repository on the Hugging Face Hub.
        hub: Options of ``huggingface_hub.snapshot_download``, such as ``revision``.

    Raises:
        InputError: If there is no checkpoint, its format version is unknown, or its files do not match.
    """
    path = find_checkpoint_files(pretrained_model_name_or_path, **hub)
    return find_method(read_checkpoint_config(path).model).network.from_pretrained(path)
