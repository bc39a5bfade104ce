"""Visualize what a model's actions depend on: a picture, a video, numbers and a page in one directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.episode_trace import TracedEvaluation
from atari_dt.interpretation.saliency_maps import GRADIENT, name_explained, newest_state_maps, saliency_maps
from atari_dt.interpretation.step_view import StepView, step_figure, video_frame
from atari_dt.interpretation.summary import SaliencyShares, saliency_shares
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.viewer import viewer_page
from atari_dt.interpretation.visualization_config import SaliencyConfig
from atari_dt.model.pretrained import latest_checkpoint, read_checkpoint_config
from atari_dt.rendering.video import write_video
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SaliencySummary:
    """Saliency averaged over full contexts.

    Attributes:
        traced: Traced evaluation.
        explained: What the saliency raises and lowers, such as ``"Q"``.
        shares: Mean shares of the absolute saliency.
    """

    traced: TracedEvaluation
    explained: str
    shares: SaliencyShares

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``saliency.json``; shares are of 1."""
        traced = self.traced
        return {
            "format_version": FORMAT_VERSION,
            "game": traced.game.name,
            "method": traced.model.config.method,
            "run": str(traced.checkpoint),
            "seed": traced.seed,
            "target_return": traced.target_return if traced.conditioned else None,
            "scores": traced.result.scores.tolist(),
            "steps": [len(episode) for episode in traced.episodes],
            "explained": self.explained,
            **self.shares.to_json(),
        }

    def to_table(self) -> str:
        """Return a table with the share of each frame, or of the entries with the largest shares."""
        parts = "entries" if self.shares.entry_names else "pixels"
        return f"{self.shares.to_table()}\n\n({parts} that raise and lower {self.explained} of the actions taken)"


def play_and_visualize_saliency(
    run_directory: Path,
    out: Path,
    config: SaliencyConfig,
    play: PlayConfig,
    *,
    return_multiple: float | None = None,
    return_percentile: int | None = None,
    target_return: float | None = None,
) -> str:
    """Play episodes with a trained model of any method and visualize what its actions depend on.

    Args:
        run_directory: Run directory or checkpoint.
        out: Directory to create; see `visualize_saliency`.
        config: What to show.
        play: How the model plays.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 by default.
        return_percentile: Target return as a percentile of the dataset's episode returns, instead of a multiple.
        target_return: Target return in the dataset's reward units, instead of a multiple.

    Returns:
        A table of each frame's share of the saliency, or of the entries with the largest shares.

    Raises:
        InputError: As `trace_episodes` and `visualize_saliency`; most errors are raised before the first episode.
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
    return visualize_saliency(out, traced, config)


def visualize_saliency(out: Path, traced: TracedEvaluation, config: SaliencyConfig, show_progress: bool = True) -> str:
    """Write a directory of a picture, a video, numbers and a web page, atomically.

    - ``saliency.png``: one step of the best episode.
    - ``saliency.mp4``: the best episode.
    - ``saliency.json``: numbers.
    - ``viewer.html``: all episodes, step by step.

    Args:
        out: Directory to create.
        traced: Traced evaluation of a model of any method.
        config: What to show.
        show_progress: Whether to show progress bars on standard error.

    Returns:
        A table of each frame's share of the saliency, or of the entries with the largest shares.

    Raises:
        InputError: If the step does not exist, the patch has no effect on the model, or no episode lasted K steps.
        OSError: If a file cannot be written.
    """
    config.check(traced.model.config)
    traced = traced.without_attention()
    episode = traced.episodes[traced.best_episode_index]
    step = config.chosen_step(episode)
    explained = name_explained(traced, config.explain)
    saliency = saliency_maps(traced, config, show_progress)
    summary = SaliencySummary(traced, explained, saliency_shares(traced, [maps[GRADIENT] for maps in saliency]))
    gradients = saliency[traced.best_episode_index][GRADIENT]
    no_weights = np.zeros((traced.context_length, 0), dtype=np.float32)
    views = [StepView(traced, episode, t, no_weights, "", gradients[t], explained) for t in range(len(episode))]
    with atomic_directory(out) as directory:
        stacks = newest_state_maps(traced, episode, step, config)
        step_figure(views[step], stacks, show_actions=True).save(directory / "saliency.png")
        if config.video:
            bar = ProgressBar(views, unit="step", desc="drawing the video", leave=False, disable=not show_progress)
            write_video(directory / "saliency.mp4", map(video_frame, bar))
        numbers = json.dumps(summary.to_json(), indent=2, allow_nan=False)
        (directory / "saliency.json").write_text(numbers + "\n")
        (directory / "viewer.html").write_text(viewer_page(traced, saliency, explained), encoding="utf-8")
    return summary.to_table()
