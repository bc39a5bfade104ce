"""The Q-network of the PQN player."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.player_config import NetworkName

BLOCK = 4  # pixels; the stride of the first convolution

SIZES: dict[NetworkName, tuple[int, int, int, int]] = {"nature": (32, 64, 64, 512), "small": (16, 32, 32, 256)}
"""Channels of the three convolutions and units of the linear layer, by the name of the network."""


class QNetwork(nn.Module):
    """Estimates the value of each action in a state.

    The network of Mnih et al. 2015 (``nature``), or one of half the width (``small``, a third of the operations), with
    layer normalization before each ReLU. Its first two convolutions, 8×8 with
    stride 4 and 4×4 with stride 2, are computed as equivalent 2×2 convolutions with stride 1, over blocks of 4×4 pixels
    and of 2×2 positions that become channels. On a CPU in bfloat16, their gradients then take 0.4 and 0.8 of the time.

    Args:
        num_actions: A, the number of actions.
        dtype: Type of the arithmetic; the weights are float32.
        name: Name of the network, a key of `SIZES`.
    """

    def __init__(self, num_actions: int, dtype: torch.dtype = torch.float32, name: NetworkName = "nature"):
        super().__init__()
        channels1, channels2, channels3, units = SIZES[name]
        self.conv1 = nn.Conv2d(4 * BLOCK**2, channels1, 2)  # to 20×20
        self.conv2 = nn.Conv2d(channels1 * 4, channels2, 2)  # to 9×9
        self.conv3 = nn.Conv2d(channels2, channels3, 3)  # to 7×7
        self.linear = nn.Linear(7 * 7 * channels3, units)
        self.values = nn.Linear(units, num_actions)
        self.norm1 = nn.LayerNorm(20 * 20 * channels1)
        self.norm2 = nn.LayerNorm(9 * 9 * channels2)
        self.norm3 = nn.LayerNorm(7 * 7 * channels3)
        self.norm4 = nn.LayerNorm(units)
        self._dtype = dtype
        for layer in (self.conv1, self.conv2, self.conv3, self.linear, self.values):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.constant_(_bias(layer), 0)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def blocks(states: Tensor) -> Tensor:
        """Rearrange states, uint8 ``[N, 4, 84, 84]``, into blocks of 4×4 pixels, uint8 ``[N, 21, 21, 64]``."""
        words = states.view(torch.int32).view(-1, 4, 21, BLOCK, 21)  # four pixels of a row as one integer
        return words.permute(0, 2, 4, 1, 3).contiguous().view(torch.uint8).flatten(3)

    def forward(self, blocks: Tensor) -> Tensor:
        """Return the action values, float32 ``[N, A]``, of states that `blocks` has rearranged."""
        x = _convolve(self.conv1, blocks.to(self._dtype), scale=1 / 255)
        x = _normalize(self.norm1, x).unflatten(1, (10, 2, 10, -1))
        x = _convolve(self.conv2, x.transpose(2, 3).reshape(len(x), 10, 10, -1))
        x = _normalize(self.norm2, x).unflatten(1, (9, 9, -1))
        x = _normalize(self.norm3, _convolve(self.conv3, x))
        x = _normalize(self.norm4, F.linear(x, self.linear.weight.to(x.dtype), _bias(self.linear).to(x.dtype)))
        return self.values(x.float())  # in bfloat16, values from 4 to 8 are 1/32 apart: actions would tie


def _bias(layer: nn.Conv2d | nn.Linear | nn.LayerNorm) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _convolve(layer: nn.Conv2d, x: Tensor, scale: float = 1.0) -> Tensor:
    """Convolve ``[N, height, width, channels]``; return the flattened output, its channels last."""
    x = F.conv2d(x.permute(0, 3, 1, 2), (layer.weight * scale).to(x.dtype), _bias(layer).to(x.dtype))
    return x.permute(0, 2, 3, 1).flatten(1)


def _normalize(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """Apply layer normalization and ReLU."""
    return F.relu(F.layer_norm(x, x.shape[1:], layer.weight.to(x.dtype), _bias(layer).to(x.dtype)))
