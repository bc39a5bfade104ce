"""Summarize a recording: a table and a figure of its scores, its size, and a selection to build a dataset with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from atari_dt.games.catalogue import Game
from atari_dt.rendering.figures import to_png
from replay_data.selection.methods import Selection
from replay_data.sources.dopamine_format import PADDING
from replay_data.sources.dopamine_sidecar import BufferSidecar

_TABLE_LINES = 10

_WINDOW = 100  # episodes in the moving average


def replay_table(buffers: Sequence[BufferSidecar]) -> str:
    """Return a text table of returns and scores, one line per tenth of the buffers.

    A line covers the episodes that end in its buffers.
    """
    lines = [f"{'buffers':>8} {'episodes':>9} {'steps/episode':>14} {'return':>8} {'score':>9} {'best score':>11}"]
    for indices in np.array_split(np.arange(len(buffers)), min(_TABLE_LINES, len(buffers))):
        episodes = [episode for index in indices for episode in buffers[index].episodes]
        name = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
        if not episodes:
            lines.append(f"{name:>8} {0:>9}")
            continue
        steps, returns, scores = np.array([(each.steps, each.return_, each.score) for each in episodes]).T
        lines.append(
            f"{name:>8} {len(episodes):>9,} {steps.mean():>14,.0f} {returns.mean():>8.1f} {scores.mean():>9.1f} "
            f"{scores.max():>11,.0f}"
        )
    return "\n".join(lines)


def policy_table(buffers: Sequence[BufferSidecar]) -> str:
    """Return a text table of the mean score of each trained policy at each epsilon; empty if none played."""
    scores = defaultdict[tuple[float, int], list[float]](list)
    for buffer in buffers:
        for episode in buffer.episodes:
            if {"policy", "epsilon"} <= episode.details.keys():
                scores[episode.details["epsilon"], int(episode.details["policy"])].append(episode.score)
    if not scores:
        return ""
    epsilons, policies = (sorted(set(values)) for values in zip(*scores, strict=True))
    settings = buffers[0].recording.settings
    lines = [f"policy {policy}: {settings.get(f'policy_{policy}')}" for policy in policies]
    lines.append(f"{'epsilon':>8} {'episodes':>9} " + " ".join(f"{f'policy {policy}':>9}" for policy in policies))
    for epsilon in epsilons:
        of_policies = [scores.get((epsilon, policy), []) for policy in policies]
        means = (f"{np.mean(each):>9.1f}" if each else f"{'-':>9}" for each in of_policies)
        lines.append(f"{epsilon:>8g} {sum(map(len, of_policies)):>9,} " + " ".join(means))
    return "\n".join(lines)


def replay_figure(game: Game, buffers: Sequence[BufferSidecar]) -> bytes:
    """Plot the score of every episode, and a moving average, over the steps played by its end; return a PNG file.

    If the player did not count the steps of all environments, the figure counts those of the recording. Episodes of
    trained policies have the color of their epsilon.
    """
    episodes = [episode for buffer in buffers for episode in buffer.episodes]
    scores = np.array([episode.score for episode in episodes])
    recorded = np.cumsum([episode.steps for episode in episodes])
    is_counted = any("played" in episode.details for episode in episodes)
    played = [episode.details.get("played", steps) for episode, steps in zip(episodes, recorded, strict=True)]
    million_steps = np.array(played) / 1e6
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if episodes and all("epsilon" in episode.details for episode in episodes):
        epsilons = [episode.details["epsilon"] for episode in episodes]
        points = axes.scatter(million_steps, scores, 4, epsilons, vmin=0, vmax=1, label="episode")
        figure.colorbar(points, label="epsilon")
    else:
        axes.plot(million_steps, scores, ".", color="tab:blue", markersize=2, alpha=0.25, label="episode")
    if len(scores) >= _WINDOW:
        means = np.convolve(scores, np.full(_WINDOW, 1 / _WINDOW), mode="valid")
        axes.plot(million_steps[_WINDOW - 1 :], means, color="tab:blue", label=f"mean of {_WINDOW} episodes")
    if game.random_and_human is not None:
        for name, score, style in zip(("random policy", "human"), game.random_and_human, (":", "--"), strict=True):
            axes.axhline(score, color="gray", linestyle=style, linewidth=1, label=f"{name} ({score:g})")
    recording = buffers[0].recording
    axes.set(
        xlabel="million steps played, all environments together" if is_counted else "million steps recorded",
        ylabel="score (game points)",
    )
    axes.set_title(f"{game.name}, {recording.agent}, seed {recording.seed}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def suggest_selection(buffers: Sequence[BufferSidecar]) -> Selection | None:
    """Return a selection that suits the recording, or None if no episode ends in it.

    The selection is a number of steps, the same from every buffer: a third of the rows, at most the paper's 500,000. If
    the whole episodes of some buffer have fewer steps than its share, the selection is all episodes.
    """
    if not any(buffer.episodes for buffer in buffers):
        return None
    share = min(500_000 // len(buffers), buffers[0].rows // 3)
    steps_of_whole_episodes = [  # an episode that ends in the link row, the last one, began in the buffer before
        sum(episode.steps for episode in buffer.episodes if PADDING + episode.steps <= (episode.row + 1) % buffer.rows)
        for buffer in buffers
    ]
    if min(steps_of_whole_episodes) >= share:
        return Selection.of("even", num_steps=share * len(buffers))
    return Selection.of("all")


def disk_usage(directory: Path, buffers: Sequence[BufferSidecar]) -> tuple[int, float]:
    """Return the size of a recording's ``replay_logs`` in bytes, and its bytes per row."""
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    return size, size / sum(buffer.rows for buffer in buffers)
