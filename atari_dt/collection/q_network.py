"""The Q-network of the PQN player."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 4  # pixels; the stride of the first convolution


class QNetwork(nn.Module):
    """Estimates the value of each action in a state.

    The network of Mnih et al. 2015, with layer normalization before each ReLU. Its first two convolutions, 8×8 with
    stride 4 and 4×4 with stride 2, are computed as equivalent 2×2 convolutions with stride 1, over blocks of 4×4 pixels
    and of 2×2 positions that become channels. On a CPU in bfloat16, their gradients then take 0.4 and 0.8 of the time.

    Args:
        num_actions: A, the number of actions.
        dtype: Type of the arithmetic; the weights are float32.
    """

    def __init__(self, num_actions: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.conv1 = nn.Conv2d(4 * BLOCK**2, 32, 2)  # to 20×20
        self.conv2 = nn.Conv2d(32 * 4, 64, 2)  # to 9×9
        self.conv3 = nn.Conv2d(64, 64, 3)  # to 7×7
        self.linear = nn.Linear(7 * 7 * 64, 512)
        self.values = nn.Linear(512, num_actions)
        self.norm1 = nn.LayerNorm(20 * 20 * 32)
        self.norm2 = nn.LayerNorm(9 * 9 * 64)
        self.norm3 = nn.LayerNorm(7 * 7 * 64)
        self.norm4 = nn.LayerNorm(512)
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
        x = _normalize(self.norm1, x).view(-1, 10, 2, 10, 64)
        x = _convolve(self.conv2, x.transpose(2, 3).reshape(-1, 10, 10, 128))
        x = _normalize(self.norm2, x).view(-1, 9, 9, 64)
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
