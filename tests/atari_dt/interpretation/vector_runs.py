"""A run of a Decision Transformer that observes vectors, for the tests of saliency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from atari_dt.config import ModelConfig
from atari_dt.games.ram_variables import find_observation
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.vector_encoder import VectorEncoder
from replay_data.observation import ObservationKind
from tests.atari_dt.models import DATASET

K = 3


def vector_model(
    observation: ObservationKind, variables: Sequence[str] = (), encoder_norm: bool = False
) -> DecisionTransformer:
    """Return a model of Breakout that predicts states and returns, with weights that make its inputs matter."""
    config = ModelConfig(
        K,
        2,
        2,
        16,
        observation=observation,
        variables=tuple(variables),
        predict=("state", "return"),
        encoder_norm=encoder_norm,
    )
    model = DecisionTransformer(config, 4, 8, find_observation(observation, variables, "Breakout"))
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    rng = np.random.default_rng(1)
    encoder = model.state_encoder
    assert isinstance(encoder, VectorEncoder)
    num_entries = len(encoder.mean)
    encoder.set_statistics(
        rng.uniform(0, 255, num_entries).astype(np.float32), rng.uniform(20, 90, num_entries).astype(np.float32)
    )
    model.dataset = DATASET
    return model.eval()


def vector_run(path: Path, observation: ObservationKind, variables: Sequence[str] = ()) -> Path:
    """Save a `vector_model` as a run in ``path`` and return the directory of the run."""
    vector_model(observation, variables).save_pretrained(path / "run" / "checkpoints" / "update-00000001")
    return path / "run"
