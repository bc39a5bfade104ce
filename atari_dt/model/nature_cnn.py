"""The three convolutions over stacked frames that all networks share (Mnih et al. 2015)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class NatureCNN(nn.Module):
    """Convolutions of Mnih et al. 2015 over the four frames of a state.

    Two rewrites make the first convolution faster. They keep its weights and change results only in the last bit.

    - Its stride of 4 and kernel size of 8 are multiples of 4. It therefore equals a convolution of stride 1 over 4×4
      pixel blocks used as channels, which suits matrix hardware better.
    - The states of successive steps share frames. The four frames of a state become the third dimension of the
      convolution's kernel, so that stacks need not be copied.

    Args:
        channels: Channels of the convolutions.
        norm: Layer norm over the channels after each convolution.
        frame_differences: Whether the first convolution sees the newest frame and the differences of successive frames.

    Attributes:
        num_features: Number of features of a state.
    """

    def __init__(
        self, channels: tuple[int, int, int] = (32, 64, 64), norm: bool = False, frame_differences: bool = False
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(4, channels[0], 8, stride=4)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 4, stride=2)
        self.conv3 = nn.Conv2d(channels[1], channels[2], 3, stride=1)
        self.norms = nn.ModuleList(map(nn.LayerNorm, channels if norm else ()))
        self.num_features = channels[2] * 7 * 7
        self._frame_differences = frame_differences

    def features(self, states: Tensor) -> Tensor:
        """Return the features of M states.

        States may be a view in which successive steps share frames, as from `ContextLoader`; each frame is then
        rearranged once instead of four times. Float states take the slower plain convolution, which has gradients with
        respect to the states.

        Args:
            states: uint8 or float ``[..., 4, 84, 84]`` with values from 0 to 255, oldest frame first; M states in all.

        Returns:
            Features ``[M, num_features]``.
        """
        weight = self._frame_weight()
        if states.is_floating_point():
            x = F.conv2d(states.flatten(0, -4) / 255, weight, self.conv1.bias, stride=4)
            return self._finish(x)
        frames, dtype = _unstack_frames(states), self._dtype(states.device)
        if states.device.type == "cpu":
            # Rearrange four pixels of a row as one 32-bit word, and convert them to floats afterwards.
            words = frames.contiguous().view(torch.int32)
            blocks = rearrange(words, "b t (y dy) x -> b t y x dy", dy=4).contiguous().view(torch.uint8).to(dtype)
            weight = rearrange(weight, "o f (ky dy) (kx dx) -> o (dy dx) f ky kx", dy=4, dx=4) / 255
            x = F.conv3d(rearrange(blocks, "b t y x c -> b c t y x"), weight, self.conv1.bias)
            x = rearrange(x, "b c k y x -> (b k) c y x")
        else:
            # No words here: `torch.compile` reorders dimensions on a GPU, and then cannot view words as bytes.
            blocks = rearrange(frames, "b t (y dy) (x dx) -> b t y x (dy dx)", dy=4, dx=4).to(dtype)
            stacks = rearrange(blocks.unfold(1, 4, 1), "b k y x c f -> (b k) y x (f c)")
            weight = rearrange(weight, "o f (ky dy) (kx dx) -> o (f dy dx) ky kx", dy=4, dx=4) / 255
            x = F.conv2d(rearrange(stacks, "n y x c -> n c y x"), weight, self.conv1.bias)
        return self._finish(x)

    def _frame_weight(self) -> Tensor:
        """Return the weight of the first convolution as a convolution of the four frames, ``[C, 4, 8, 8]``.

        With frame differences, the input channels of ``conv1`` are the newest frame and its difference from the frame
        before it, and so on. Differences are linear, so they are taken from the weights, which are smaller.
        """
        weight = self.conv1.weight
        if not self._frame_differences:
            return weight
        newest, *differences = weight.unbind(1)
        zero = torch.zeros_like(newest)
        to_frame = [newest + differences[0]] + [
            later - earlier for later, earlier in zip([*differences[1:], zero], differences, strict=True)
        ]
        return torch.stack(to_frame[::-1], dim=1)

    def _finish(self, x: Tensor) -> Tensor:
        """Return features ``[M, num_features]`` for the output of the first convolution, ``[M, C, 20, 20]``."""
        x = self._activate(x, 0)
        x = self._activate(self.conv2(x), 1)
        x = self._activate(self.conv3(x), 2)
        return x.flatten(1)

    def _activate(self, x: Tensor, layer: int) -> Tensor:
        """Apply the layer norm, if there is one, and the ReLU of a convolution to its output ``[M, C, H, W]``."""
        if self.norms:
            x = self.norms[layer](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.relu_(x)

    def _dtype(self, device: torch.device) -> torch.dtype:
        """Return the dtype of the convolution, to which uint8 frames are converted directly."""
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.conv1.weight.dtype


def _unstack_frames(states: Tensor) -> Tensor:
    """Return frames ``[M, W + 3, 84, 84]`` whose windows of four frames are the M · W states, in order."""
    if states.dim() == 5 and states.stride(1) == states.stride(2):  # frame f of step k is frame k + f
        batch, steps = states.shape[:2]
        strides = states.stride(0), states.stride(1), states.stride(3), states.stride(4)
        return states.as_strided((batch, steps + 3, 84, 84), strides)
    return states.reshape(-1, 4, 84, 84)
