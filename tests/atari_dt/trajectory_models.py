"""A small untrained Trajectory Transformer that tests play Breakout with."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from atari_dt.games.ram_variables import find_observation
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.trajectory_config import TrajectoryTransformerConfig
from tests.atari_dt.models import DATASET

VARIABLES = ("ball_x", "ball_y", "player_x")

NUM_ACTIONS = len(DATASET.action_meanings)


def small_trajectory_transformer(sequence_length: int = 5) -> TrajectoryTransformer:
    """Return a network with random weights that are large enough for its inputs to matter."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = TrajectoryTransformerConfig(
        sequence_length, vocab_size=20, num_layers=2, num_heads=2, embed_dim=16, variables=VARIABLES
    )
    network = TrajectoryTransformer(config, NUM_ACTIONS, find_observation("variables", VARIABLES, DATASET.game))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    columns = [rng.integers(0, 256, 500) for _ in VARIABLES]
    network.discretizer.fit(
        [*columns, np.arange(NUM_ACTIONS), np.arange(-2, 3), rng.random(500, dtype=np.float32)], "quantile"
    )
    network.dataset = DATASET
    return network.eval()
