"""Summarize a recording: its table and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from atari_dt.games.catalogue import Game
from atari_dt.rendering.figures import to_png
from replay_data.sources.dopamine_format import PADDING
from replay_data.sources.dopamine_sidecar import BufferSidecar

_LINES = 10  # of the table

_WINDOW = 100  # episodes of the moving average


def replay_table(buffers: Sequence[BufferSidecar]) -> str:
    """Returns and scores of the episodes that end in each tenth of the buffers, as text."""
    lines = [f"{'buffers':>8} {'episodes':>9} {'steps/episode':>14} {'return':>8} {'score':>9} {'best score':>11}"]
    for part in np.array_split(np.arange(len(buffers)), min(_LINES, len(buffers))):
        episodes = [episode for number in part for episode in buffers[number].episodes]
        name = f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}"
        if not episodes:
            lines.append(f"{name:>8} {0:>9}")
            continue
        steps, returns, scores = np.array([(each.steps, each.return_, each.score) for each in episodes]).T
        lines.append(
            f"{name:>8} {len(episodes):>9,} {steps.mean():>14,.0f} {returns.mean():>8.1f} {scores.mean():>9.1f} "
            f"{scores.max():>11,.0f}"
        )
    return "\n".join(lines)


def replay_figure(game: Game, buffers: Sequence[BufferSidecar]) -> bytes:
    """Draw the score of every episode over the steps played until it ended, and a moving average; return a PNG file."""
    episodes = [episode for buffer in buffers for episode in buffer.episodes]
    scores = np.array([episode.score for episode in episodes])
    recorded = np.cumsum([episode.steps for episode in episodes])
    played = np.array([episode.details.get("played", at) for episode, at in zip(episodes, recorded, strict=True)]) / 1e6
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(played, scores, ".", color="tab:blue", markersize=2, alpha=0.25, label="an episode")
    if len(scores) >= _WINDOW:
        means = np.convolve(scores, np.full(_WINDOW, 1 / _WINDOW), mode="valid")
        axes.plot(played[_WINDOW - 1 :], means, color="tab:blue", label=f"mean of {_WINDOW} episodes")
    if game.random_and_human is not None:
        for name, score, style in zip(("random", "human"), game.random_and_human, (":", "--"), strict=True):
            axes.axhline(score, color="gray", linestyle=style, linewidth=1, label=f"{name} ({score:g})")
    recording = buffers[0].recording
    axes.set(xlabel="million steps played, in all games", ylabel="score (the game's points)")
    axes.set_title(f"{game.name}, {recording.agent}, seed {recording.seed}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def suggested_selection(buffers: Sequence[BufferSidecar]) -> str:
    """Options of build_dataset.py: a third of the rows, at most the paper's 500,000, if every buffer has its share.

    A buffer of few rows may have no whole episode; then all episodes are taken.
    """
    rows = buffers[0].rows
    share = min(500_000 // len(buffers), rows // 3)
    whole = [sum(e.steps for e in buffer.episodes if PADDING + e.steps <= e.row + 1) for buffer in buffers]
    return f"--selection even --num-steps {share * len(buffers)}" if min(whole) >= share else "--selection all"


def bytes_per_step(directory: Path, buffers: Sequence[BufferSidecar]) -> tuple[int, float]:
    """Bytes on disk of a recording's ``replay_logs``, and how many that is for each row."""
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    return size, size / sum(buffer.rows for buffer in buffers)
