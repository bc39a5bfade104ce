"""Small untrained models that tests play Breakout with."""

from __future__ import annotations

from typing import Literal

from torch import nn

from atari_dt.config import ModelConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer

DATASET = DatasetInfo("Breakout", ("NOOP", "FIRE", "RIGHT", "LEFT"), True, 0.25, 40.0, 10.0, 10, 1, 60.0, 15.0, "")


def small_model(conditioning: Literal["return", "none"] = "return", context_length: int = 5) -> DecisionTransformer:
    """Return a model of two layers with random weights that are large enough for its inputs to matter."""
    model = DecisionTransformer(
        ModelConfig(context_length, 2, 2, 16, conditioning=conditioning), num_actions=4, max_timestep=8
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.dataset = DATASET
    return model.eval()
