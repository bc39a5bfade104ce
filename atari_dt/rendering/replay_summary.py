"""Summarize a recording: a table and a figure of its scores, its size, and a selection to build a dataset with."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from atari_dt.games.catalogue import Game
from atari_dt.rendering.figures import to_png
from atari_dt.rendering.tables import align_columns
from replay_data.selection.methods import Selection
from replay_data.sources.dopamine_format import PADDING, element_path
from replay_data.sources.dopamine_sidecar import BufferSidecar

_TABLE_LINES = 10

_WINDOW = 100  # episodes in the moving average

_MARKERS = "o^sDv"  # of trained policies


def replay_table(buffers: Sequence[BufferSidecar]) -> str:
    """Return `replay_rows` as text."""
    return align_columns(replay_rows(buffers))


def replay_rows(buffers: Sequence[BufferSidecar]) -> list[list[str]]:
    """Return a table of returns and scores, with a header and a row per tenth of the buffers.

    A row covers the episodes that end in its buffers.
    """
    rows = [["buffers", "episodes", "steps/episode", "return", "score", "best score"]]
    for indices in np.array_split(np.arange(len(buffers)), min(_TABLE_LINES, len(buffers))):
        episodes = [episode for index in indices for episode in buffers[index].episodes]
        name = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else f"{indices[0]}"
        if not episodes:
            rows.append([name, "0", "", "", "", ""])
            continue
        steps, returns, scores = np.array([(each.steps, each.return_, each.score) for each in episodes]).T
        means = [f"{steps.mean():,.0f}", f"{returns.mean():.1f}", f"{scores.mean():.1f}"]
        rows.append([name, f"{len(episodes):,}", *means, f"{scores.max():,.0f}"])
    return rows


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
    names = buffers[0].recording.policies
    lines = [f"policy {policy}: {name}" for policy, name in enumerate(names) if policy in policies]
    lines.append(f"{'epsilon':>8} {'episodes':>9} " + " ".join(f"{f'policy {policy}':>9}" for policy in policies))
    for epsilon in epsilons:
        of_policies = [scores.get((epsilon, policy), []) for policy in policies]
        means = (f"{np.mean(each):>9.1f}" if each else f"{'-':>9}" for each in of_policies)
        lines.append(f"{epsilon:>8g} {sum(map(len, of_policies)):>9,} " + " ".join(means))
    return "\n".join(lines)


def replay_figure(game: Game, buffers: Sequence[BufferSidecar]) -> bytes:
    """Plot the score of every episode, and a moving average, over the steps played by its end; return a PNG file.

    If the player did not count the steps of all environments, the figure counts those of the recording. Each of several
    trained policies has a color and a marker of its own, which fade with epsilon. The color of a single one is epsilon.
    """
    episodes = [episode for buffer in buffers for episode in buffer.episodes]
    scores = np.array([episode.score for episode in episodes])
    recorded = np.cumsum([episode.steps for episode in episodes])
    is_counted = any("played" in episode.details for episode in episodes)
    played = [episode.details.get("played", steps) for episode, steps in zip(episodes, recorded, strict=True)]
    unit, unit_steps = _step_unit(max(played, default=0))
    steps = np.array(played) / unit_steps
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = buffers[0].recording.policies
    if episodes and all({"epsilon", "policy"} <= episode.details.keys() for episode in episodes):
        epsilons = np.array([episode.details["epsilon"] for episode in episodes])
        policies = np.array([episode.details["policy"] for episode in episodes])
        if len(names) > 1:
            figure.set_figheight(4.4 + 0.2 * len(names))  # for the legend below the axes
            for policy, name in enumerate(names):
                _plot_policy(axes, policy, name, steps, scores, epsilons, policies == policy)
        else:
            points = axes.scatter(steps, scores, 4, epsilons, vmin=0, vmax=1, label="episode")
            figure.colorbar(points, label="epsilon")
    else:
        axes.plot(steps, scores, ".", color="tab:blue", markersize=2, alpha=0.25, label="episode")
    if len(scores) >= _WINDOW:
        means = np.convolve(scores, np.full(_WINDOW, 1 / _WINDOW), mode="valid")
        color = "black" if len(names) > 1 else "tab:blue"
        axes.plot(steps[_WINDOW - 1 :], means, color=color, label=f"mean of {_WINDOW} episodes")
    if game.random_and_human is not None:
        for name, score, style in zip(("random policy", "human"), game.random_and_human, (":", "--"), strict=True):
            bottom, top = axes.get_ylim()
            if score <= top + (top - bottom):
                axes.axhline(score, color="gray", linestyle=style, linewidth=1, label=f"{name} ({score:g})")
            else:  # a line so far up would flatten the curve
                axes.plot([], [], linestyle="none", label=f"{name} ({score:g}), above the axis")
    recording = buffers[0].recording
    axes.set(
        xlabel=f"{unit} played, all environments together" if is_counted else f"{unit} recorded",
        ylabel="score (game points)",
    )
    axes.set_title(f"{game.name}, {recording.agent}, seed {recording.seed}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        title = "the paler, the more random actions (epsilon)"
        figure.legend(loc="outside lower left", frameon=False, fontsize=8, title=title, title_fontsize=8)
    else:
        axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def _step_unit(num_steps: float) -> tuple[str, float]:
    """Return the unit of an axis of steps, and its number of steps."""
    if num_steps < 10_000:
        return "steps", 1
    return ("thousand steps", 1e3) if num_steps < 1e6 else ("million steps", 1e6)


def _plot_policy(
    axes: Axes,
    policy: int,
    name: str,
    steps: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    epsilons: npt.NDArray[np.float64],
    played: npt.NDArray[np.bool_],
) -> None:
    """Plot the episodes that a trained policy played: solid for its own play, pale for random play.

    Args:
        axes: Axes to draw on.
        policy: Index of the policy.
        name: Name of the policy.
        steps: Place of each episode on the axis, for all policies.
        scores: Score of each episode.
        epsilons: Probability of a random action in each episode.
        played: Whether the policy played each episode.
    """
    color, marker = f"C{policy % 10}", _MARKERS[policy % len(_MARKERS)]
    colors = np.tile(to_rgba(color), (int(played.sum()), 1))
    colors[:, 3] = 1 - 0.8 * epsilons[played]
    axes.scatter(steps[played], scores[played], s=9, c=colors, marker=marker, linewidths=0)
    short_name = re.sub(r"@([0-9a-f]{7})[0-9a-f]{33}$", r"@\1", name).replace("$", r"\$")  # no mathematics
    axes.scatter([], [], s=12, c=color, marker=marker, linewidths=0, label=f"policy {policy}: {short_name}")


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


class DiskUsage(NamedTuple):
    """Size of a recording's ``replay_logs``.

    Attributes:
        num_bytes: Bytes of all files.
        bytes_per_row: Bytes of all files per row.
        ram_bytes_per_row: Bytes of the files of the RAM per row; 0 if it is not recorded.
    """

    num_bytes: int
    bytes_per_row: float
    ram_bytes_per_row: float


def disk_usage(directory: Path, buffers: Sequence[BufferSidecar]) -> DiskUsage:
    """Return the size of a recording's ``replay_logs``."""
    sizes = {file: file.stat().st_size for file in directory.iterdir() if file.is_file()}
    ram_size = sum(sizes.get(element_path(directory, "ram", index), 0) for index in range(len(buffers)))
    num_rows = sum(buffer.rows for buffer in buffers)
    return DiskUsage(sum(sizes.values()), sum(sizes.values()) / num_rows, ram_size / num_rows)
