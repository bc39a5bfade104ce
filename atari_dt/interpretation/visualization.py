"""Visualize what a model attends to: figures, a video, numbers and a web page in one directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.hardware import translate_out_of_memory
from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats, TracedEvaluation
from atari_dt.interpretation.figures import distance_figure, heads_figure
from atari_dt.interpretation.saliency import gradient_times_input, occlusion, sum_by_cell, sum_by_frame
from atari_dt.interpretation.step_view import StepView, step_figure, video_frame
from atari_dt.interpretation.summary import attention_of_full_contexts, summarize_attention
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.viewer import viewer_page
from atari_dt.interpretation.visualization_config import VisualizationConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.rendering.video import write_video
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory

GRADIENT, OCCLUSION = "gradient × input", "occlusion"

_CELLS = 14  # cells of a gradient map along a side, of 6 pixels each

_BATCH_SIZE = 16  # contexts in one backward pass


def play_and_visualize(
    run_directory: Path,
    out: Path,
    config: VisualizationConfig,
    play: PlayConfig,
    *,
    return_multiple: float | None = None,
    return_percentile: int | None = None,
    target_return: float | None = None,
) -> str:
    """Play episodes with a trained model and visualize what it attends to.

    Args:
        run_directory: Run directory or checkpoint.
        out: Directory to create; see `visualize`.
        config: What to show.
        play: How the model plays.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 by default.
        return_percentile: Target return as a percentile of the dataset's episode returns, instead of a multiple.
        target_return: Target return in the dataset's reward units, instead of a multiple.

    Returns:
        A table of each layer's attention.

    Raises:
        InputError: As `trace_episodes` and `visualize`; most errors are raised before the first episode.
        OSError: If a file cannot be written.
    """
    check_new_directory(out)
    config.check(DecisionTransformer.from_pretrained(latest_checkpoint(run_directory)).config)
    traced = trace_episodes(
        run_directory,
        play,
        return_multiple=return_multiple,
        return_percentile=return_percentile,
        target_return=target_return,
    )
    return visualize(out, traced, config)


def visualize(out: Path, traced: TracedEvaluation, config: VisualizationConfig, show_progress: bool = True) -> str:
    """Write a directory of figures, a video, numbers and a web page, atomically.

    - ``attention.png``: one step of the best episode.
    - ``attention.mp4``: the best episode.
    - ``attention_distance.png``: attention by distance.
    - ``attention_heads.png``: attention of every head at that step, if `VisualizationConfig.grid` is set.
    - ``attention.json``: numbers.
    - ``viewer.html``: all episodes, step by step.

    Args:
        out: Directory to create.
        traced: Traced evaluation.
        config: What to show.
        show_progress: Whether to show progress bars on standard error.

    Returns:
        A table of each layer's attention.

    Raises:
        InputError: If the step, layer or head does not exist, or no episode lasted K steps.
        OSError: If a file cannot be written.
    """
    config.check(traced.model.config)
    episode = traced.episodes[traced.best_episode_index]
    step = len(episode) // 2 if config.step is None else config.step
    if not 0 <= step < len(episode):
        raise InputError(f"`step` must be between 0 and {len(episode) - 1}, the episode's last step, not {step}")
    attention = attention_of_full_contexts(traced)
    saliency = [_saliency(traced, each, config, show_progress) for each in traced.episodes]
    summary = summarize_attention(traced, attention, [maps[GRADIENT] for maps in saliency])
    weights, weights_name = config.weights(episode)
    gradients = saliency[traced.best_episode_index][GRADIENT]
    views = [StepView(traced, episode, t, weights[t], weights_name, gradients[t]) for t in range(len(episode))]
    with atomic_directory(out) as directory:
        stacks = _newest_state_saliency(traced, episode, step, config.patch)
        step_figure(views[step], stacks).save(directory / "attention.png")
        title = f"{traced.game.name}, {traced.name}, {attention.num_contexts:,} contexts"
        (directory / "attention_distance.png").write_bytes(distance_figure(attention, title))
        if config.grid:
            heads = episode.attention[step, :, :, : episode.num_steps[step]]
            title = f"{traced.game.name}, {traced.name}, step {step}"
            figure = heads_figure(heads, traced.model.config.conditioning, title)
            (directory / "attention_heads.png").write_bytes(figure)
        if config.video:
            bar = ProgressBar(views, unit="step", desc="drawing the video", leave=False, disable=not show_progress)
            write_video(directory / "attention.mp4", map(video_frame, bar))
        numbers = json.dumps(summary.to_json(), indent=2, allow_nan=False)
        (directory / "attention.json").write_text(numbers + "\n")
        (directory / "viewer.html").write_text(viewer_page(traced, saliency), encoding="utf-8")
    return summary.to_table()


def _saliency(
    traced: TracedEvaluation, episode: EpisodeTrace, config: VisualizationConfig, show_progress: bool
) -> dict[str, Floats]:
    """Compute the saliency maps of every step by method, float32 ``[T, K + 3, cells, cells]``."""
    model = traced.model
    device = next(model.parameters()).device
    maps: dict[str, list[Floats]] = {GRADIENT: [], **({OCCLUSION: []} if config.occlusion else {})}
    with (
        ProgressBar(total=len(episode), unit="step", desc="saliency", leave=False, disable=not show_progress) as bar,
        translate_out_of_memory(device, "`episodes`, or set `device` to cpu"),
    ):
        for steps in np.array_split(np.arange(len(episode)), -(-len(episode) // _BATCH_SIZE)):
            batch = episode.batch(steps, device)
            gradient = sum_by_cell(sum_by_frame(gradient_times_input(model, batch)), _CELLS)
            maps[GRADIENT].append(gradient.cpu().numpy())
            if config.occlusion:
                drops = sum_by_frame(occlusion(model, batch, config.patch, last_steps=1))
                maps[OCCLUSION].append(drops.cpu().numpy())
            bar.update(len(steps))
    return {name: np.concatenate(batches) for name, batches in maps.items()}


def _newest_state_saliency(traced: TracedEvaluation, episode: EpisodeTrace, step: int, patch: int) -> dict[str, Floats]:
    """Compute the saliency maps of a step's newest state by name, each ``[4, cells, cells]``."""
    batch = episode.batch(np.array([step]), next(traced.model.parameters()).device)
    newest = int(episode.num_steps[step]) - 1
    maps = {
        GRADIENT: sum_by_cell(gradient_times_input(traced.model, batch), _CELLS),
        f"{OCCLUSION} ({patch}×{patch} pixels)": occlusion(traced.model, batch, patch, last_steps=1),
    }
    return {name: saliency[0, newest].cpu().numpy() for name, saliency in maps.items()}
