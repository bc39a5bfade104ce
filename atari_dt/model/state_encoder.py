"""From four stacked frames to one state token."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class StateEncoder(nn.Module):
    """The convolutional encoder of Chen et al. 2021 (that of Mnih et al. 2015, with a tanh token at the end).

    The first convolution has stride 4 and kernel 8, both multiples of 4, so it equals a convolution of stride 1 over
    4×4 blocks of pixels taken as channels, which suits matrix hardware better; and where the states of successive
    steps share their frames, the four frames of a state are the third dimension of that convolution's kernel, and no
    stack is ever copied. Weights are those of the plain form, results differ from it only in the last bit.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 32, 8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, 3, stride=1)
        self.linear = nn.Linear(64 * 7 * 7, embed_dim)

    def forward(self, states: Tensor) -> Tensor:
        """Encode states, uint8 ``[..., 4, 84, 84]``, as tokens ``[..., embed_dim]``.

        States of floats, from 0 to 255 likewise, have gradients; they go through the plain form, which is slower.
        States may be a view ``[B, K, 4, 84, 84]`` in which steps share their frames, as `ContextLoader` gives; each
        frame is then rearranged once instead of four times.
        """
        if states.is_floating_point():
            return self._rest(F.relu(self.conv1(states.flatten(0, -4) / 255))).view(*states.shape[:-3], -1)
        # Four pixels of a row move as one word, and only then become floats.
        words = _single_frames(states).contiguous().view(torch.int32)
        blocks = rearrange(words, "b t (y dy) x -> b t y x dy", dy=4).contiguous().view(torch.uint8)
        blocks = blocks.to(self._dtype(states.device))
        if states.device.type == "cpu":
            weight = rearrange(self.conv1.weight, "o f (ky dy) (kx dx) -> o (dy dx) f ky kx", dy=4, dx=4) / 255
            x = F.relu_(F.conv3d(rearrange(blocks, "b t y x c -> b c t y x"), weight, self.conv1.bias))
            x = rearrange(x, "b c k y x -> (b k) c y x")
        else:
            stacks = rearrange(blocks.unfold(1, 4, 1), "b k y x c f -> (b k) y x (f c)")
            weight = rearrange(self.conv1.weight, "o f (ky dy) (kx dx) -> o (f dy dx) ky kx", dy=4, dx=4) / 255
            x = F.relu_(F.conv2d(rearrange(stacks, "n y x c -> n c y x"), weight, self.conv1.bias))
        return self._rest(x).view(*states.shape[:-3], -1)

    def _rest(self, x: Tensor) -> Tensor:
        """From the first convolution's output to tokens ``[M, embed_dim]``."""
        x = F.relu_(self.conv2(x))
        x = F.relu_(self.conv3(x))
        return torch.tanh(self.linear(x.flatten(1)))

    def _dtype(self, device: torch.device) -> torch.dtype:
        """The arithmetic's type: uint8 goes straight there, without a detour through float32."""
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.conv1.weight.dtype


def _single_frames(states: Tensor) -> Tensor:
    """Return frames ``[M, W + 3, 84, 84]`` whose W windows of four are the states, M · W of them in order."""
    if states.dim() == 5 and states.stride(1) == states.stride(2):  # frame f of step k is frame k + f of the context
        batch, steps = states.shape[:2]
        strides = states.stride(0), states.stride(1), states.stride(3), states.stride(4)
        return states.as_strided((batch, steps + 3, 84, 84), strides)
    return states.reshape(-1, 4, 84, 84)
