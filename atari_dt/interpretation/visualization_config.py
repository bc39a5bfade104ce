"""What the pictures of a model's attention and saliency show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atari_dt.method_config import MethodConfig, SequenceConfig
from replay_data import InputError
from replay_data.episode import FRAME_SHAPE

if TYPE_CHECKING:
    from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats

Explained = Literal["score", "advantage"]


@dataclass(frozen=True)
class SaliencyConfig:
    """What the pictures, the video and the page show of saliency.

    Raises:
        InputError: If a value is not valid for any model.
    """

    step: int | None = None
    """Step of the best episode in the picture of one step; by default the middle one."""
    explain: Explained = "score"
    """Explain `score`, the logit or Q of the action taken, or `advantage`, how far it is above the mean of all."""
    occlusion: bool = False
    """Add the occlusion of each step's newest state to the page (slow)."""
    patch: int = 12
    """Side of an occluded patch in pixels, a divisor of 84. Of a model of vectors, each entry is occluded."""
    video: bool = True
    """Write a video of the best episode."""

    def __post_init__(self) -> None:
        check_patch(self.patch)

    def check(self, model: MethodConfig) -> None:
        """Raise InputError unless the model has saliency and every setting has an effect on it."""
        if model.plans:
            raise InputError(
                f"{model.title} reads tokens, through which no gradient flows; show what it imagines with "
                "scripts/visualize_plans.py instead"
            )
        if model.observation != "frames" and self.patch != SaliencyConfig.patch:
            raise InputError(f"`patch` has no effect on a model that observes {model.observation}; leave it out")

    def chosen_step(self, episode: EpisodeTrace) -> int:
        """Return the step of an episode in the picture of one step.

        Raises:
            InputError: If the episode has no such step.
        """
        step = len(episode) // 2 if self.step is None else self.step
        if not 0 <= step < len(episode):
            raise InputError(f"`step` must be between 0 and {len(episode) - 1}, the episode's last step, not {step}")
        return step


@dataclass(frozen=True)
class VisualizationConfig(SaliencyConfig):
    """What the pictures, the video and the page show of attention and saliency.

    Raises:
        InputError: If a value is not valid for any model.
    """

    layer: str = "mean"
    """Layer shown in attention.png and attention.mp4: `mean` of all layers, `rollout`, or a number from 1."""
    head: str = "mean"
    """Head of that layer: `mean` of all heads, or a number from 1."""
    grid: bool = False
    """Write attention_heads.png, the attention of every head at the step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer not in ("mean", "rollout") and not _is_number(self.layer):
            raise InputError(f"`layer` must be mean, rollout or a number from 1, not {self.layer!r}")
        if self.head != "mean" and not _is_number(self.head):
            raise InputError(f"`head` must be mean or a number from 1, not {self.head!r}")
        if self.head != "mean" and not _is_number(self.layer):
            raise InputError(f"`head` is {self.head}, so `layer` must be a number from 1, not {self.layer}")

    def check(self, model: MethodConfig) -> None:
        """Raise InputError unless the model has attention weights, the layer and the head, or as `SaliencyConfig`."""
        super().check(model)
        config = require_attention(model)
        for name, value, count in (("layer", self.layer, config.num_layers), ("head", self.head, config.num_heads)):
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


def require_attention(model: MethodConfig) -> SequenceConfig:
    """Return the config of a model that has attention weights.

    Raises:
        InputError: If it has none.
    """
    if not isinstance(model, SequenceConfig):
        raise InputError(
            f"the network of {model.title} has no attention weights; show its saliency with "
            "scripts/visualize_saliency.py instead"
        )
    return model


def check_patch(patch: int) -> None:
    """Raise InputError unless square patches with a side of ``patch`` pixels tile a frame."""
    frame_size = FRAME_SHAPE[0]
    if patch < 1 or frame_size % patch:
        raise InputError(f"`patch` must be a divisor of {frame_size}, such as 6, 12 or 14, not {patch}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0
