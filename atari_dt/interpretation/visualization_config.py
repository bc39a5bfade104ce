"""What the pictures of a model's attention show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atari_dt.config import ModelConfig
from replay_data import InputError
from replay_data.episode import FRAME_SHAPE

if TYPE_CHECKING:
    from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats


@dataclass(frozen=True)
class VisualizationConfig:
    """What the figures, the video and the page show.

    Raises:
        InputError: If a value is not valid for any model.
    """

    step: int | None = None
    """Step of the best episode shown in attention.png; by default the middle one."""
    layer: str = "mean"
    """Layer shown in attention.png and attention.mp4: `mean` of all layers, `rollout`, or a number from 1."""
    head: str = "mean"
    """Head of that layer: `mean` of all heads, or a number from 1."""
    grid: bool = False
    """Write attention_heads.png, the attention of every head at the step."""
    occlusion: bool = False
    """Add the occlusion map of each step's newest state to the page (slow)."""
    patch: int = 12
    """Side of an occluded patch in pixels, a divisor of 84."""
    video: bool = True
    """Write attention.mp4, a video of the best episode."""

    def __post_init__(self) -> None:
        check_patch(self.patch)
        if self.layer not in ("mean", "rollout") and not _is_number(self.layer):
            raise InputError(f"`layer` must be mean, rollout or a number from 1, not {self.layer!r}")
        if self.head != "mean" and not _is_number(self.head):
            raise InputError(f"`head` must be mean or a number from 1, not {self.head!r}")
        if self.head != "mean" and not _is_number(self.layer):
            raise InputError(f"`head` is {self.head}, so `layer` must be a number from 1, not {self.layer}")

    def check(self, model: ModelConfig) -> None:
        """Raise InputError unless the model has the layer and the head."""
        for name, value, count in (("layer", self.layer, model.num_layers), ("head", self.head, model.num_heads)):
            if _is_number(value) and int(value) > count:
                raise InputError(f"`{name}` must be at most {count}, the model's number of {name}s, not {value}")

    def weights(self, episode: EpisodeTrace) -> tuple[Floats, str]:
        """Return the weights to show for each step of an episode, ``[T, K, token_types]``, and their name."""
        if self.layer == "rollout":
            return episode.rollout, "attention rollout"
        if self.layer == "mean":
            return episode.attention.mean((1, 2)), "attention, mean of all heads"
        layer = episode.attention[:, int(self.layer) - 1]
        if self.head == "mean":
            return layer.mean(1), f"attention of layer {self.layer}, mean of its heads"
        return layer[:, int(self.head) - 1], f"attention of layer {self.layer}, head {self.head}"


def check_patch(patch: int) -> None:
    """Raise InputError unless square patches with a side of ``patch`` pixels tile a frame."""
    frame_size = FRAME_SHAPE[0]
    if patch < 1 or frame_size % patch:
        raise InputError(f"`patch` must be a divisor of {frame_size}, such as 6, 12 or 14, not {patch}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0
