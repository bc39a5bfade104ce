"""The linear encoder that turns a vector of RAM bytes into one state token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atari_dt.config import ModelConfig
from replay_data.contexts import FloatArray
from replay_data.observation import ObservationSpec


class VectorEncoder(nn.Module):
    """Linear state embedding of the gym experiments of Chen et al. 2021, with the output of `StateEncoder`.

    States are normalized with the mean and the standard deviation of the store, which are buffers: checkpoints hold
    them, and training and acting use the same.

    Args:
        config: Config with the dimension of a state token, and whether it is normalized.
        observation: Observation, a vector.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig, observation: ObservationSpec):
        super().__init__()
        (num_entries,) = observation.state_shape
        self.register_buffer("mean", torch.zeros(num_entries))
        self.register_buffer("scale", torch.ones(num_entries))
        self.linear = nn.Linear(num_entries, config.embed_dim)
        self.norm = nn.LayerNorm(config.embed_dim) if config.encoder_norm else None

    def set_statistics(self, mean: FloatArray, scale: FloatArray) -> None:
        """Set the mean and the scale of each entry of a state, float32 ``[D]``."""
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def normalize(self, states: Tensor) -> Tensor:
        """Return states, uint8 or float ``[..., D]``, as float32 with mean 0 and standard deviation 1 in the data."""
        return (states.float() - self.mean) / self.scale

    def forward(self, states: Tensor) -> Tensor:
        """Encode states, uint8 or float ``[..., D]``, as state tokens ``[..., embed_dim]``."""
        x = self.linear(self.normalize(states))
        return torch.tanh(x) if self.norm is None else self.norm(x)
