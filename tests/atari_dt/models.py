"""Small untrained models that tests play Breakout with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class FastStateEncoder(nn.Module):
    """State encoder for tests of everything but the encoder: average pooling and one linear layer.

    On one core, it takes a hundredth of the time of the real one.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.linear = nn.Linear(4 * 14 * 14, embed_dim)
        nn.init.normal_(self.linear.weight, std=0.3)

    def forward(self, states: Tensor) -> Tensor:
        """Encode states ``[..., 4, 84, 84]`` as tokens ``[..., embed_dim]``."""
        pooled = F.avg_pool2d(states.flatten(0, -4).float() / 255, 6)
        return torch.tanh(self.linear(pooled.flatten(1))).view(*states.shape[:-3], -1)


def use_fast_encoder(model: DecisionTransformer) -> DecisionTransformer:
    """Replace the state encoder of a model by a `FastStateEncoder`."""
    model.state_encoder = FastStateEncoder(model.config.embed_dim)  # type: ignore[assignment]
    return model
