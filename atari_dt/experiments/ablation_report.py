"""The tables and the figure of an ablation of the context length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atari_dt.experiments.ablation import BUDGETS, Ablation, Budget, read_ablation
from atari_dt.experiments.results import (
    RunGroup,
    describe_time_limits,
    format_interval,
    format_number,
    format_score,
    format_update,
    name_data,
    normalized_summary,
)
from atari_dt.rendering.figures import to_png
from atari_dt.rendering.html import ReportDocument


def add_ablation(report: ReportDocument, out: Path, groups: Sequence[RunGroup]) -> None:
    """Add the tables and the figure of an ablation to a report, a table for each budget.

    Without an ``ablation.json``, groups that differ in their context lengths are compared in a single table.

    Args:
        report: Report of the sweep.
        out: Directory of the sweep.
        groups: Finished runs of one method in one game.

    Raises:
        InputError: If ``ablation.json`` cannot be read.
    """
    ablation = read_ablation(out)
    budgets = _compared_groups(ablation, groups)
    if not budgets:
        return
    subject = f"{groups[0].method} in {groups[0].game.name}"
    plain = list(budgets) == ["updates"]
    for budget, members in budgets.items():
        report.heading(f"Context length: {subject}" if plain else f"Context length at equal {budget}: {subject}")
        note = "" if plain or ablation is None else f"{_explain_budget(budget, ablation)} "
        report.table(
            ablation_rows(members) if plain else budget_rows(members),
            f"{note}Score in points under the last target return, mean ± standard deviation of the seeds' means. IQM: "
            "interquartile mean over all episodes, with its 95% interval. Validation loss in nats, mean ± standard "
            "deviation over the seeds. s/update: seconds per update. steps/s: steps per second of the evaluation."
            f"{describe_time_limits(members)} {name_data(members)}",
            main=True,
        )
    name = f"context-length-{groups[0].game.name}-{groups[0].method}".replace("%", "").replace(" ", "-")
    report.figure(name, "Score and validation loss over the context length", partial(ablation_figure, budgets))
    report.paragraph(f"Points are the mean scores and the validation losses of the seeds. {name_data(groups)}")


def _compared_groups(ablation: Ablation | None, groups: Sequence[RunGroup]) -> dict[Budget, list[RunGroup]]:
    """Return the groups of each budget, where their context lengths differ.

    A group that several budgets share has the seeds that the budget has.
    """
    budgets: dict[Budget, list[RunGroup]] = {"updates": list(groups)}
    if ablation is not None and list(ablation.runs) != ["updates"]:
        budgets = {
            budget: [part for group in groups if (part := _select_runs(group, ablation.runs[budget])) is not None]
            for budget in BUDGETS
            if budget in ablation.runs
        }
    return {
        budget: sorted(members, key=lambda group: group.order)
        for budget, members in budgets.items()
        if len({group.context_length for group in members}) == len(members) > 1
    }


def _select_runs(group: RunGroup, names: Sequence[str]) -> RunGroup | None:
    """Return the part of a group that consists of the named runs; None if it has none of them."""
    selected = [index for index, name in enumerate(group.names) if name in names]
    if not selected:
        return None
    return dataclasses.replace(
        group,
        names=tuple(group.names[index] for index in selected),
        results=tuple(group.results[index] for index in selected),
        costs=tuple(group.costs[index] for index in selected),
    )


def _explain_budget(budget: Budget, ablation: Ablation) -> str:
    """Return sentences about what the runs under a budget have in common, and about the columns that show it."""
    reference = f"{ablation.max_updates:,} updates with K = {ablation.context_length}"
    common = {
        "updates": "All runs make the same number of updates.",
        "states": f"All runs see as many states as {reference}.",
        "seconds": f"All runs train for as long as {reference}, according to measurements before the first run.",
    }
    return (
        f"{common[budget]} States: updates times batch size times K. Minutes: training time, without validation and "
        "checkpoints."
    )


def ablation_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Return a table of groups that differ only in their context length, with a header and a row for each group.

    Scores are in points under the last target return: mean ± standard deviation of the seeds' means, interquartile mean
    over all episodes with its 95% interval, and the gamer-normalized mean. Losses are in nats, mean ± standard
    deviation over the seeds.
    """
    rows = [["K", "seeds", "score", "IQM", "95% interval", "normalized %", "validation loss", "s/update", "steps/s"]]
    for group in sorted(groups, key=lambda group: group.order):
        summary, losses = group.summary(), group.validation_losses
        loss = "" if np.isnan(losses).any() else f"{losses.mean():.3f}"
        if loss and len(losses) > 1:
            loss += f" ± {losses.std():.3f}"
        normalized = normalized_summary(group.game, summary)
        rows.append(
            [
                f"{group.context_length}",
                f"{summary.seeds}",
                format_score(summary),
                format_number(summary.interquartile_mean),
                format_interval(summary),
                "" if normalized is None else format_number(normalized.mean),
                loss,
                f"{group.seconds_per_update:.3g}",
                f"{group.evaluation_steps_per_s:.0f}",
            ]
        )
    return rows


def budget_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Return the table of `ablation_rows` with three more columns: updates, states and minutes of training.

    States are those of all contexts of a run, padding included. Minutes are the mean over the seeds, without those of
    validation and checkpoints; empty if they are unknown.
    """
    columns = [["updates", "states", "minutes"]]
    for group in sorted(groups, key=lambda group: group.order):
        updates = group.final_update
        states = None if updates is None else updates * group.config.training.batch_size * (group.context_length or 1)
        minutes = "" if group.training_minutes is None else f"{group.training_minutes:.1f}"
        columns.append([format_update(updates), format_update(states), minutes])
    return [[*row[:2], *added, *row[2:]] for row, added in zip(ablation_rows(groups), columns, strict=True)]


def ablation_figure(budgets: Mapping[Budget, Sequence[RunGroup]]) -> bytes:
    """Draw score and validation loss over the context length, for groups that differ only in it.

    A point is a seed. The line of the scores is their interquartile mean, with its 95% interval. Several budgets have a
    column of panels each.

    Args:
        budgets: Groups by budget, each with ascending context lengths.

    Returns:
        Content of a PNG file.
    """
    if len(budgets) == 1:
        figure = Figure(figsize=(9, 4), layout="constrained")
        panels = figure.subplots(1, 2, squeeze=False).T
    else:
        figure = Figure(figsize=(1 + 4 * len(budgets), 7), layout="constrained")
        panels = figure.subplots(2, len(budgets), sharey="row", squeeze=False)
    for index, (budget, groups) in enumerate(budgets.items()):
        _draw_scores(panels[0, index], groups)
        _draw_losses(panels[1, index], groups)
        for axes in panels[:, index]:
            axes.set_xticks(range(len(groups)), [str(group.context_length) for group in groups])
            axes.set_xlabel("context length K (steps)")
            axes.spines[["top", "right"]].set_visible(False)
            if index == 0:
                axes.legend(framealpha=0.9, edgecolor="none", fontsize=8)
        if len(budgets) > 1:
            panels[0, index].set_title(f"equal {budget}")
    panels[0, 0].set_ylabel(f"score in {next(iter(budgets.values()))[0].game.name} (points)")
    panels[1, 0].set_ylabel("validation loss (nats)")
    return to_png(figure)


def _draw_scores(axes: Axes, groups: Sequence[RunGroup]) -> None:
    """Draw the scores of groups, a position for each."""
    means = [group.summary().interquartile_mean for group in groups]
    axes.plot(range(len(groups)), means, color="tab:blue", label="interquartile mean, 95% interval")
    for position, group in enumerate(groups):
        if (interval := group.summary().interval) is not None:
            axes.plot([position, position], interval, color="tab:blue", linewidth=3, alpha=0.4)
        seed_means = [scores.mean() for scores in group.scores()]
        axes.plot([position] * len(seed_means), seed_means, "o", color="tab:blue", markersize=4)
    random_score = groups[0].random_scores.mean()
    axes.axhline(random_score, color="gray", linestyle=":", label=f"random policy ({random_score:.1f})")


def _draw_losses(axes: Axes, groups: Sequence[RunGroup]) -> None:
    """Draw the validation losses of groups, a position for each."""
    mean_losses = [group.validation_losses.mean() for group in groups]
    axes.plot(range(len(groups)), mean_losses, color="tab:orange", label="mean over the seeds")
    for position, group in enumerate(groups):
        losses = group.validation_losses
        axes.plot([position] * len(losses), losses, "o", color="tab:orange", markersize=4)
    if np.isnan(mean_losses).all():
        axes.text(0.5, 0.5, "no episodes were held out", ha="center", transform=axes.transAxes)
