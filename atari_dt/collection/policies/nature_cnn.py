"""The network of Stable-Baselines3's policies for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.environment.config import Frames
from atari_dt.hardware import translate_out_of_memory

CONVOLUTIONS = ((32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3))
"""Shapes of the convolutions' weights, ``[outputs, inputs, height, width]`` (Mnih et al. 2015)."""

STRIDES = (4, 2, 1)

NUM_FEATURES = 64 * 7 * 7
"""Size of the last convolution's output for images of 84×84 pixels."""

Layer: TypeAlias = tuple[Tensor, Tensor]
"""Weight and bias."""

Outputs = Literal["values", "quantiles", "logits"]
"""What the outputs of a network are: ``"values"``, float32 ``[N, A]``, of the actions (DQN); ``"quantiles"``, float32
``[N, Q · A]``, of each action's return, the A actions of a quantile side by side (QR-DQN); or ``"logits"``, float32
``[N, A]``, of the actions (PPO, A2C)."""


class NatureCNNPolicy:
    """Choose actions with three convolutions and fully connected layers, in float32.

    The actions are those of ``predict(deterministic=True)`` in Stable-Baselines3.

    Args:
        layers: The convolutions, the layer of features, any hidden layers, and the output layer; float32.
        activation: Activation of the hidden layers. That of the layers before them is ReLU.
        outputs: What the outputs are.
        num_actions: A.
        normalize_images: Whether pixels are divided by 255.
        device: Device of the network.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activation: type[nn.Module],
        outputs: Outputs,
        num_actions: int,
        normalize_images: bool,
        device: torch.device,
    ):
        self._outputs, self._num_actions = outputs, num_actions
        self._normalize_images, self._device = normalize_images, device
        modules: list[nn.Module] = []
        for layer, stride in zip(layers[:3], STRIDES, strict=True):
            outputs_, inputs, kernel, _ = layer[0].shape
            modules += [_load(nn.Conv2d(inputs, outputs_, kernel, stride, device="meta"), layer), nn.ReLU()]
        modules.append(nn.Flatten())
        for index, layer in enumerate(layers[3:]):
            size, inputs = layer[0].shape
            modules += [_load(nn.Linear(inputs, size, device="meta"), layer), activation() if index else nn.ReLU()]
        self._network = nn.Sequential(*modules[:-1]).to(device).eval()

    @torch.inference_mode()
    def __call__(self, observations: Frames) -> npt.NDArray[np.int64]:
        """Return the actions for N states; see `ActionFunction`.

        Raises:
            InputError: If memory runs out.
        """
        with translate_out_of_memory(self._device, "`num_envs`"):
            pixels = torch.from_numpy(observations).to(self._device).float()
            if self._normalize_images:
                pixels /= 255
            actions: npt.NDArray[np.int64] = self._best_actions(self._network(pixels)).cpu().numpy()
        return actions

    def _best_actions(self, outputs: Tensor) -> Tensor:
        if self._outputs == "quantiles":
            outputs = outputs.view(len(outputs), -1, self._num_actions).mean(1)
        elif self._outputs == "logits":
            # The action of the largest probability, not logit: probabilities of different logits can be equal.
            outputs = F.softmax(outputs - outputs.logsumexp(-1, keepdim=True), -1)
        return outputs.argmax(1)


def _load(module: nn.Module, layer: Layer) -> nn.Module:
    module.load_state_dict({"weight": layer[0], "bias": layer[1]}, assign=True)
    return module
