"""Visualize what a model attends to: figures, a video, numbers and a web page in one directory."""

from __future__ import annotations

import json
from pathlib import Path

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.episode_trace import TracedEvaluation
from atari_dt.interpretation.figures import distance_figure, heads_figure
from atari_dt.interpretation.saliency_maps import GRADIENT, name_explained, newest_state_maps, saliency_maps
from atari_dt.interpretation.step_view import StepView, step_figure, video_frame
from atari_dt.interpretation.summary import attention_of_full_contexts, summarize_attention
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.viewer import viewer_page
from atari_dt.interpretation.visualization_config import VisualizationConfig
from atari_dt.model.pretrained import latest_checkpoint, read_checkpoint_config
from atari_dt.rendering.video import write_video
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory


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
    """Play episodes with a Decision Transformer, or by behavior cloning, and visualize what the model attends to.

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
        InputError: If the model has no attention weights, or as `trace_episodes` and `visualize`; most errors are
            raised before the first episode.
        OSError: If a file cannot be written.
    """
    check_new_directory(out)
    config.check(read_checkpoint_config(latest_checkpoint(run_directory)).model)
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
        InputError: If the model has no attention weights, the step, layer or head does not exist, or no episode lasted
            K steps.
        OSError: If a file cannot be written.
    """
    config.check(traced.model.config)
    episode = traced.episodes[traced.best_episode_index]
    step = config.chosen_step(episode)
    attention = attention_of_full_contexts(traced)
    saliency = saliency_maps(traced, config, show_progress)
    summary = summarize_attention(traced, attention, [maps[GRADIENT] for maps in saliency])
    weights, weights_name = config.weights(episode)
    gradients = saliency[traced.best_episode_index][GRADIENT]
    explained = name_explained(traced, config.explain)
    views = [
        StepView(traced, episode, t, weights[t], weights_name, gradients[t], explained) for t in range(len(episode))
    ]
    with atomic_directory(out) as directory:
        stacks = newest_state_maps(traced, episode, step, config)
        step_figure(views[step], stacks).save(directory / "attention.png")
        title = f"{traced.game.name}, {traced.name}, {attention.num_contexts:,} contexts"
        (directory / "attention_distance.png").write_bytes(distance_figure(attention, title))
        if config.grid:
            heads = episode.attention[step, :, :, : episode.num_steps[step]]
            title = f"{traced.game.name}, {traced.name}, step {step}"
            figure = heads_figure(heads, traced.token_types, title)
            (directory / "attention_heads.png").write_bytes(figure)
        if config.video:
            bar = ProgressBar(views, unit="step", desc="drawing the video", leave=False, disable=not show_progress)
            write_video(directory / "attention.mp4", map(video_frame, bar))
        numbers = json.dumps(summary.to_json(), indent=2, allow_nan=False)
        (directory / "attention.json").write_text(numbers + "\n")
        (directory / "viewer.html").write_text(viewer_page(traced, saliency, explained), encoding="utf-8")
    return summary.to_table()
