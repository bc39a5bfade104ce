"""The Q-network of the value-based methods (Mnih et al. 2015), with many outputs per action."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.method_config import ValueConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.nature_cnn import NatureCNN
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.weights import Shapes, build_on_meta

HIDDEN = 512
"""Units of the hidden layer (Mnih et al. 2015)."""


class QNetwork(PretrainedModel):
    """Map states to several estimates of Q for each action: quantiles of the return, or heads.

    The layers are those of Mnih et al. 2015: three convolutions and a hidden layer of 512 units. Weights are drawn as
    PyTorch draws them by default.

    Args:
        config: Config of the method, which decides the number of estimates.
        num_actions: Size of the game's action set.
    """

    config: ValueConfig
    config_types = (ValueConfig,)

    def __init__(self, config: ValueConfig, num_actions: int):
        super().__init__(config, num_actions)
        self.encoder = NatureCNN()
        self.hidden = nn.Linear(self.encoder.num_features, HIDDEN)
        self.head = nn.Linear(HIDDEN, num_actions * config.num_estimates)

    @classmethod
    def from_config(cls, config: CheckpointConfig) -> QNetwork:
        """Return the untrained network that a checkpoint's ``config.json`` describes."""
        assert isinstance(config.model, ValueConfig)
        return cls(config.model, config.num_actions)

    @classmethod
    def shapes(cls, config: CheckpointConfig, num_tensors: int) -> Shapes:
        """Return the shape of each tensor of the state dict, without allocating them."""
        return build_on_meta(lambda: cls.from_config(config))

    def forward(self, states: Tensor) -> Tensor:
        """Return the estimates of every action.

        The last layer is computed in float32 even under autocast: differences of Q between actions are often smaller
        than the resolution of bfloat16.

        Args:
            states: uint8 or float ``[B, 4, 84, 84]`` with values from 0 to 255, oldest frame first.

        Returns:
            float32 ``[B, num_actions, num_estimates]``.
        """
        x = F.relu(self.hidden(self.encoder.features(states)))
        with torch.autocast(x.device.type, enabled=False):
            estimates = self.head(x.to(self.head.weight.dtype))
        return estimates.unflatten(1, (self.num_actions, -1))

    def q_values(self, states: Tensor) -> Tensor:
        """Return Q of every action, the mean of its estimates, float32 ``[B, num_actions]``."""
        return self(states).mean(-1)
