"""Figures of a sweep's runs over their updates: losses and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from atari_dt.experiments.group_labels import group_labels
from atari_dt.experiments.results import RunGroup, format_target
from atari_dt.rendering.figures import game_panels, to_png
from atari_dt.training import MetricsLine, read_metrics
from replay_data import InputError


def read_run_metrics(directory: Path) -> list[MetricsLine]:
    """Return the metrics of a run; an empty list if its ``metrics.jsonl`` is missing or damaged."""
    try:
        return read_metrics(directory / "training")
    except InputError:
        return []


def loss_figure(out: Path, groups: Sequence[RunGroup]) -> bytes:
    """Draw training and validation loss of all runs over their updates.

    Each game has a row of panels for each loss, because the losses of methods have different units. CQL is drawn with
    its temporal-difference loss, without the conservative term, as its validation loss is.

    Args:
        out: Directory of the sweep.
        groups: Finished runs.

    Returns:
        Content of a PNG file.
    """
    panels = list(dict.fromkeys((group.game, group.config.model.loss_name) for group in groups))
    figure = Figure(figsize=(10, 3.5 * len(panels)), layout="constrained")
    styles = _styles(groups)
    for (left, right), (game, loss_name) in zip(figure.subplots(len(panels), 2, squeeze=False), panels, strict=True):
        for group in groups:
            if (group.game, group.config.model.loss_name) != (game, loss_name):
                continue
            label, color = styles[group.names]
            for name, result in zip(group.names, group.results, strict=True):
                lines = read_run_metrics(out / name)
                losses = [line.loss if line.td_loss is None else line.td_loss for line in lines]
                left.plot([line.update for line in lines], losses, color=color, alpha=0.6)
                updates, losses = [p.update for p in result.curve], [p.validation_loss for p in result.curve]
                right.plot(updates, losses, "o-", color=color, markersize=3)
            left.plot([], [], color=color, label=label)
        left.set(ylabel=f"training {loss_name}", title=f"{game.name}, training")
        right.set(ylabel=f"validation {loss_name}", title=f"{game.name}, held-out episodes")
        if not any(len(line.get_xdata()) for line in right.lines):
            right.text(0.5, 0.5, "no episodes were held out", ha="center", transform=right.transAxes)
        handles, labels = left.get_legend_handles_labels()
        if len(labels) > 8:  # too many for a panel
            beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            right.legend(handles, labels, frameon=False, fontsize=6, **beside)
        else:
            left.legend(frameon=False, fontsize=8)
        last_updates = [line.get_xdata()[-1] for line in left.lines if len(line.get_xdata())]
        for axes in (left, right):
            if last_updates and max(last_updates) > 4 * min(last_updates):
                axes.set_xscale("log")
            else:
                axes.set_xlim(left=0)
            axes.set_xlabel("update")
            axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def has_score_curves(groups: Sequence[RunGroup]) -> bool:
    """Return whether several checkpoints of some run were evaluated."""
    return any(group.num_checkpoints > 1 for group in groups)


def score_figure(groups: Sequence[RunGroup]) -> bytes:
    """Draw the scores of all evaluated checkpoints over their updates, with a panel for each game.

    A point is the mean of a seed, a line the mean of all seeds. Runs whose last checkpoint alone was evaluated are
    points. Older runs, which lack their number of updates, are left out.

    Returns:
        Content of a PNG file.
    """
    groups = [group for group in groups if group.final_update is not None]
    games, styles = list(dict.fromkeys(group.game for group in groups)), _styles(groups)
    figure = Figure(layout="constrained")
    for axes, game in zip(game_panels(figure, len(games), 8), games, strict=True):
        members = [group for group in groups if group.game == game]
        for group in members:
            label, color = styles[group.names]
            for i in range(group.num_targets):
                target = format_target(group, i)
                for updates, scores in _seed_means(group, i):
                    axes.plot(updates, scores, "o", color=color, markersize=3, alpha=0.5)
                curve = [(each.update, each.summary.mean) for each in group.score_curve(i) if each.update is not None]
                axes.plot(
                    *zip(*curve, strict=True),
                    color=color,
                    linestyle=("-", "--", "-.")[i % 3],
                    marker="_",
                    markersize=10,
                    label=label + (f", target {target}" if target else ""),
                )
        random_score = members[0].random_scores.mean()
        axes.axhline(random_score, color="gray", linestyle=":", label=f"random policy ({random_score:.1f})")
        final_updates = [group.final_update for group in members if group.final_update is not None]
        if max(final_updates) > 4 * min(final_updates):  # on a linear axis, the short runs would be a narrow strip
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="update", ylabel="score (points)", title=game.name)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def _seed_means(group: RunGroup, target_index: int) -> list[tuple[list[int], list[float]]]:
    """Return the updates of the evaluated checkpoints of each seed, and its mean scores."""
    curves = []
    for result in group.results:
        checkpoints = [(checkpoint.update, checkpoint.targets) for checkpoint in result.earlier]
        if result.updates is not None:
            checkpoints.append((result.updates, result.targets))
        updates = [update for update, _ in checkpoints]
        curves.append((updates, [float(np.mean(targets[target_index].scores)) for _, targets in checkpoints]))
    return curves


def _styles(groups: Sequence[RunGroup]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Return the label and the color of each group, by the names of its runs.

    Groups with the same label share a color, such as those of a method in several games.
    """
    labels = group_labels(groups)
    distinct, turbo = list(dict.fromkeys(labels)), colormaps["turbo"]
    # The default colors repeat after ten.
    colors = [f"C{i}" if len(distinct) <= 10 else to_hex(turbo(i / (len(distinct) - 1))) for i in range(len(distinct))]
    return {group.names: (label, colors[distinct.index(label)]) for group, label in zip(groups, labels, strict=True)}
