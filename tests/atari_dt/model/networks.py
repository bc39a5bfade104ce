"""Small networks and inputs for the tests of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from tests.conftest import DATA

K, NUM_ACTIONS = 4, 5
SMALL: dict[str, Any] = {"context_length": K, "num_layers": 2, "num_heads": 2, "embed_dim": 16}
ORIGINAL_CHECKPOINT = DATA / "original_model" / "dt_small.pth"


def small_model(conditioning: Conditioning = "return") -> DecisionTransformer:
    """Return a small model in evaluation mode; no parameter is zero, since zeros would hide mistakes."""
    model = DecisionTransformer(ModelConfig(**SMALL, conditioning=conditioning), NUM_ACTIONS, max_timestep=50)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def random_inputs(batch: int = 2, steps: int = K) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random states, actions, returns-to-go and timesteps."""
    states = torch.randint(0, 256, (batch, steps, 4, 84, 84), dtype=torch.uint8)
    return (
        states,
        torch.randint(0, NUM_ACTIONS, (batch, steps)),
        torch.rand(batch, steps) * 10,
        torch.arange(steps).repeat(batch, 1) + 7,
    )
