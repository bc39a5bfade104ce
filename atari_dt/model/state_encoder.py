"""The convolutional encoder that turns four stacked frames into one state token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atari_dt.config import ModelConfig
from atari_dt.model.nature_cnn import NatureCNN


class StateEncoder(NatureCNN):
    """Convolutional encoder of Chen et al. 2021: the network of Mnih et al. 2015 with a tanh token as output.

    Args:
        config: Config with the channels of the convolutions, the layer norms, the first convolution's input, and the
            dimension of a state token.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config.encoder_channels, config.encoder_norm, config.frame_differences)
        self.linear = nn.Linear(self.num_features, config.embed_dim)
        if config.encoder_norm:
            self.norms.append(nn.LayerNorm(config.embed_dim))

    def forward(self, states: Tensor) -> Tensor:
        """Encode states as state tokens.

        Args:
            states: uint8 or float ``[..., 4, 84, 84]``, as in `NatureCNN.features`.

        Returns:
            Tokens ``[..., embed_dim]``.
        """
        x = self.linear(self.features(states))
        x = self.norms[3](x) if self.norms else torch.tanh(x)
        return x.view(*states.shape[:-3], -1)
