"""From a recording to a directory of pictures, a video, numbers, and the page to scrub through it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.config import ModelConfig
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.hardware import translate_out_of_memory
from atari_dt.interpretation.attention import AttentionByDistance, attention_by_distance, token_types
from atari_dt.interpretation.episode_trace import EpisodeTrace, TracedEvaluation, trace_episodes
from atari_dt.interpretation.figures import StepView, distance_figure, heads_figure, step_figure, video_frame
from atari_dt.interpretation.saliency import by_cell, by_frame, check_patch, gradient_times_input, occlusion
from atari_dt.interpretation.viewer import viewer_page
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.rendering.tables import align_columns
from atari_dt.rendering.video import write_video
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory

Floats = npt.NDArray[np.float32]

GRADIENT, OCCLUSION = "gradient × input", "occlusion"

_CELLS = 14  # along a side, of 6 pixels each

_BATCH = 16  # contexts whose gradients are computed together


@dataclass(frozen=True)
class VisualizationConfig:
    """Which of what was recorded the pictures show.

    Attributes:
        step: of the best episode, for the still picture; by default its middle.
        layer: ``"mean"`` of all, ``"rollout"``, or a number from 1.
        head: ``"mean"`` of all, or a number from 1.
        grid: whether there is a picture of every layer and head.
        occlusion: whether the page has occlusion of each step's newest state beside the gradients (slow).
        patch: side of an occluded patch in pixels, a divisor of 84.
        video: whether there is one.

    Raises:
        InputError: if it cannot be shown of any model.
    """

    step: int | None = None
    layer: str = "mean"
    head: str = "mean"
    grid: bool = False
    occlusion: bool = False
    patch: int = 12
    video: bool = True

    def __post_init__(self) -> None:
        check_patch(self.patch)
        if self.layer not in ("mean", "rollout") and not _is_number(self.layer):
            raise InputError(f"layer is mean, rollout, or a number from 1, not {self.layer!r}")
        if self.head != "mean" and not _is_number(self.head):
            raise InputError(f"head is mean, or a number from 1, not {self.head!r}")
        if self.head != "mean" and not _is_number(self.layer):
            raise InputError(f"head {self.head} of which layer? give a number as the layer, not {self.layer}")

    def check(self, config: ModelConfig) -> None:
        """Raise InputError unless the model has the layer and head."""
        for name, chosen, most in (("layer", self.layer, config.num_layers), ("head", self.head, config.num_heads)):
            if _is_number(chosen) and int(chosen) > most:
                raise InputError(f"{name} {chosen} is none of the model's {most}; they are numbered from 1")

    def weights(self, episode: EpisodeTrace) -> tuple[Floats, str]:
        """The weights to be shown of each step of an episode, ``[T, K, kinds]``, and their name."""
        if self.layer == "rollout":
            return episode.rollout, "attention rollout"
        if self.layer == "mean":
            return episode.attention.mean((1, 2)), "attention, mean of all heads"
        layer = episode.attention[:, int(self.layer) - 1]
        if self.head == "mean":
            return layer.mean(1), f"attention of layer {self.layer}, mean of its heads"
        return layer[:, int(self.head) - 1], f"attention of layer {self.layer}, head {self.head}"


def play_and_visualize(
    run_directory: Path,
    out: Path,
    shown: VisualizationConfig,
    play: PlayConfig,
    *,
    return_multiple: float | None = None,
    target_return: float | None = None,
) -> str:
    """Let a trained model play, and write what it attended to.

    Args:
        run_directory: what scripts/train.py wrote, or one of its checkpoints.
        out: as in `visualize`.
        shown: likewise.
        play: likewise, as are the rest.

    Returns:
        A table of where the layers look, as text.

    Raises:
        InputError: as `trace_episodes` and `visualize` do; what can be refused before playing is.
        OSError: if something cannot be written.
    """
    check_new_directory(out)
    shown.check(DecisionTransformer.from_pretrained(latest_checkpoint(run_directory)).config)
    traced = trace_episodes(run_directory, play, return_multiple=return_multiple, target_return=target_return)
    return visualize(out, traced, shown)


def visualize(out: Path, recording: TracedEvaluation, shown: VisualizationConfig, show_progress: bool = True) -> str:
    """Write a directory of what a model attends to, whole or not at all.

    ``attention.png`` shows one step, ``attention.mp4`` the best episode, ``attention_distance.png`` how far back each
    layer looks, ``viewer.html`` everything; ``attention.json`` has the numbers, and ``attention_heads.png`` is there if
    the grid is asked for.

    Args:
        out: the directory, which must not exist.
        recording: what was played.
        shown: what the pictures show.
        show_progress: progress bars on standard error.

    Returns:
        A table of where the layers look, as text.

    Raises:
        InputError: if the step, layer or head is not there, or no episode lasted for K steps.
        OSError: if something cannot be written.
    """
    config, game = recording.model.config, recording.game.name
    shown.check(config)
    best = int(recording.result.scores.argmax())
    episode = recording.episodes[best]
    step = len(episode) // 2 if shown.step is None else shown.step
    if not 0 <= step < len(episode):
        raise InputError(f"step must lie between 0 and {len(episode) - 1}, the episode's last, not {step}")
    weights, what = shown.weights(episode)
    distance = _distance(recording)
    saliency = [_saliency(recording, each, shown, show_progress) for each in recording.episodes]
    with atomic_directory(out) as directory:
        gradients = saliency[best][GRADIENT]
        moments = [StepView(recording, episode, t, weights[t], what, gradients[t]) for t in range(len(episode))]
        step_figure(moments[step], _of_newest(recording, episode, step, shown.patch)).save(directory / "attention.png")
        title = f"{game}, {recording.name}, {distance.contexts:,} contexts"
        (directory / "attention_distance.png").write_bytes(distance_figure(distance, title))
        if shown.grid:
            title = f"{game}, {recording.name}, step {step}"
            heads = heads_figure(episode.attention[step, :, :, : episode.num_steps[step]], config.conditioning, title)
            (directory / "attention_heads.png").write_bytes(heads)
        if shown.video:
            bar = ProgressBar(moments, unit="step", desc="drawing the video", leave=False, disable=not show_progress)
            write_video(directory / "attention.mp4", map(video_frame, bar))
        numbers = _numbers(recording, distance, saliency)
        (directory / "attention.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
        (directory / "viewer.html").write_text(viewer_page(recording, saliency), encoding="utf-8")
    return _table(recording, distance, numbers)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _full(recording: TracedEvaluation) -> list[npt.NDArray[np.bool_]]:
    """Of each episode, which steps have a context of K steps."""
    return [episode.num_steps == recording.model.config.context_length for episode in recording.episodes]


def _distance(recording: TracedEvaluation) -> AttentionByDistance:
    """How far back the heads look, over all full contexts."""
    full = _full(recording)
    if not any(each.any() for each in full):
        raise InputError(
            f"no episode lasted {recording.model.config.context_length} steps, the model's context length; play others "
            "(--seed, --episodes)"
        )
    parts = [episode.attention[each] for episode, each in zip(recording.episodes, full, strict=True)]
    return attention_by_distance(np.concatenate(parts))


def _saliency(
    recording: TracedEvaluation, episode: EpisodeTrace, shown: VisualizationConfig, show_progress: bool
) -> dict[str, Floats]:
    """Maps of every step by name, float32 ``[T, K + 3, cells, cells]``."""
    model = recording.model
    device = next(model.parameters()).device
    parts: dict[str, list[Floats]] = {GRADIENT: [], **({OCCLUSION: []} if shown.occlusion else {})}
    with (
        ProgressBar(total=len(episode), unit="step", desc="saliency", leave=False, disable=not show_progress) as bar,
        translate_out_of_memory(device, "--episodes, or use --device cpu"),
    ):
        for steps in np.array_split(np.arange(len(episode)), -(-len(episode) // _BATCH)):
            batch = episode.batch(steps, device)
            parts[GRADIENT].append(by_cell(by_frame(gradient_times_input(model, batch)), _CELLS).cpu().numpy())
            if shown.occlusion:
                parts[OCCLUSION].append(by_frame(occlusion(model, batch, shown.patch, last_steps=1)).cpu().numpy())
            bar.update(len(steps))
    return {name: np.concatenate(maps) for name, maps in parts.items()}


def _of_newest(recording: TracedEvaluation, episode: EpisodeTrace, step: int, patch: int) -> dict[str, Floats]:
    """Both kinds of saliency of a step's newest state, each ``[4, cells, cells]``."""
    batch = episode.batch(np.array([step]), next(recording.model.parameters()).device)
    newest = int(episode.num_steps[step]) - 1
    gradient = by_cell(gradient_times_input(recording.model, batch), _CELLS)
    occluded = occlusion(recording.model, batch, patch, last_steps=1)
    names = f"{GRADIENT}:", f"{OCCLUSION} of {patch}×{patch} pixels:"
    return {name: maps[0, newest].cpu().numpy() for name, maps in zip(names, (gradient, occluded), strict=True)}


def _numbers(
    recording: TracedEvaluation, distance: AttentionByDistance, saliency: list[dict[str, Floats]]
) -> dict[str, Any]:
    """What attention.json holds: attention in shares of 1, entropy in nats, distances in steps."""
    full = _full(recording)
    by_frame = [np.abs(maps[GRADIENT][each]).sum((2, 3)) for maps, each in zip(saliency, full, strict=True)]
    shares = np.concatenate([sums / np.maximum(sums.sum(1, keepdims=True), 1e-30) for sums in by_frame])
    config = recording.model.config
    likeliest = np.concatenate([episode.probabilities[:, [0, -1]].argmax(-1) for episode in recording.episodes])
    return {
        "game": recording.game.name,
        "run": str(recording.checkpoint),
        "seed": recording.seed,
        "target_return": float(recording.targets[recording.played]) if recording.conditioned else None,
        "scores": recording.result.scores.tolist(),
        "steps": [len(episode) for episode in recording.episodes],
        "contexts": distance.contexts,
        "context_length": config.context_length,
        "kinds": token_types(config.conditioning),
        "attention_by_layer_head_distance_kind": distance.weights.tolist(),
        "entropy_by_layer_head": distance.entropy.tolist(),
        "mean_distance_by_layer_head": distance.mean_distance.tolist(),
        "saliency_by_frame_newest_first": shares.mean(0)[::-1].tolist(),
        "least_and_most_asked_for": recording.targets[[0, -1]].tolist() if recording.conditioned else None,
        "likeliest_action_differs": float((likeliest[:, 0] != likeliest[:, 1]).mean()),
    }


def _table(recording: TracedEvaluation, distance: AttentionByDistance, numbers: dict[str, Any]) -> str:
    """A line for each layer, the mean of its heads, and one for all tokens alike."""
    layers, _, steps, kinds = distance.weights.shape
    rows = [["", "entropy", "mean distance", "newest step", *numbers["kinds"]]]
    everything = [
        (f"layer {layer + 1}", distance.entropy[layer].mean(), distance.weights[layer].mean(0))
        for layer in range(layers)
    ]
    for name, entropy, weights in [*everything, ("all tokens alike", np.log(kinds * steps - 1), distance.even)]:
        back = weights.sum(1) @ np.arange(steps)
        shares = [f"{share:.1%}" for share in (weights[0].sum(), *weights.sum(0))]
        rows.append([name, f"{entropy:.2f} nats", f"{back:.1f} steps", *shares])
    text = f"""{align_columns(rows)}

{sum(numbers["saliency_by_frame_newest_first"][:4]):.1%} of the saliency lies in the newest four frames."""
    if recording.conditioned:
        least, most = (recording.target_label(target) for target in numbers["least_and_most_asked_for"])
        differs = f"{numbers['likeliest_action_differs']:.1%} of the steps"
        text += f"\nAsked for {most} instead of {least}, it would prefer another action in {differs}."
    return f"{text}\n({distance.contexts:,} contexts of {steps} steps)"
