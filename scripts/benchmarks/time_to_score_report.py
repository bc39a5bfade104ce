"""The report of `time_to_score`: marks, when runs first reach them, tables, and lines for docs/leaderboard.md."""

from __future__ import annotations

import datetime
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from benchmark_tools import median_and_range
from time_to_score_runs import Machine, Point, TimedRun

from atari_dt.rendering.tables import align_columns

NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Mark:
    """A validation loss or a score to reach.

    Attributes:
        name: Name of the mark.
        metric: ``"loss"`` is reached at or below the value, ``"score"`` at or above it.
        values: Value for each seed.
    """

    name: str
    metric: Literal["loss", "score"]
    values: dict[int, float]


@dataclass(frozen=True)
class RecipeRuns:
    """The runs of a recipe, and those of the baseline with the same seeds.

    Attributes:
        label: Label of the recipe.
        runs: Runs in the order of seeds.
        baselines: Runs of the first recipe with the same seeds.
    """

    label: str
    runs: tuple[TimedRun, ...]
    baselines: tuple[TimedRun, ...]

    def reached(self, mark: Mark) -> list[Point | None]:
        """Return when each run first reached a mark; None for those that did not."""
        return [first_reached(run, mark) for run in self.runs]

    def speedups(self, mark: Mark) -> list[float]:
        """Return the baseline's seconds to a mark divided by the recipe's, for each seed with which both reached it."""
        pairs = (
            (first_reached(base, mark), first_reached(run, mark))
            for base, run in zip(self.baselines, self.runs, strict=True)
        )
        return [base.seconds / point.seconds for base, point in pairs if base is not None and point is not None]


def make_marks(runs: Sequence[TimedRun], loss_marks: Sequence[float], score_marks: Sequence[float]) -> list[Mark]:
    """Return the marks: the baseline's final validation loss for each seed, then the given losses and scores.

    Args:
        runs: All runs; those of the baseline's recipe are the first with their seed.
        loss_marks: Validation losses in nats.
        score_marks: Mean scores in points.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    baseline = {run.seed: run.losses[-1].value for run in runs if run.recipe == runs[0].recipe}
    return [
        Mark(f"final validation loss of {runs[0].recipe}", "loss", baseline),
        *(Mark(f"validation loss {value:g}", "loss", dict.fromkeys(seeds, value)) for value in loss_marks),
        *(Mark(f"mean score {value:g}", "score", dict.fromkeys(seeds, value)) for value in score_marks),
    ]


def first_reached(run: TimedRun, mark: Mark) -> Point | None:
    """Return the first point of a run at which it reached a mark, without interpolation; None if it never did."""
    value = mark.values[run.seed]
    if mark.metric == "loss":
        return next((point for point in run.losses if point.value <= value), None)
    return next((point for point in run.mean_scores if point.value >= value), None)


def group_by_recipe(runs: Sequence[TimedRun]) -> list[RecipeRuns]:
    """Return the runs of each recipe; the recipe of the first run is the baseline."""
    grouped = {run.recipe: tuple(other for other in runs if other.recipe == run.recipe) for run in runs}
    return [RecipeRuns(label, group, grouped[runs[0].recipe]) for label, group in grouped.items()]


def report(runs: Sequence[TimedRun], marks: Sequence[Mark]) -> str:
    """Return tables of all runs, of the recipes, and of each mark.

    Figures of several seeds are their mean, followed by that of each seed.
    """
    groups = group_by_recipe(runs)
    multiples = list(runs[0].scores)
    score_columns = [f"score at {multiple:g}x" for multiple in multiples]
    rows = [["recipe", "seed", "seconds", "ms/update", "validation loss", "accuracy", *score_columns]]
    for group in groups:
        for run in group.runs:
            scores = [f"{np.mean(run.scores[each]):.1f} ± {np.std(run.scores[each]):.1f}" for each in multiples]
            rows.append([run.recipe, str(run.seed), *_describe_cost(run), *scores])
    tables = ["scores: mean ± standard deviation over the episodes", align_columns(rows)]
    rows = [["recipe", "updates", "seconds", "ms/update", "validation loss", *score_columns]]
    for group in groups:
        rows.append(
            [
                group.label,
                f"{group.runs[0].updates:,}",
                _format([run.seconds for run in group.runs], "{:.1f}"),
                _format([1000 * run.seconds / run.updates for run in group.runs], "{:.0f}"),
                _format([run.losses[-1].value for run in group.runs], "{:.3f}"),
                *(_format([float(np.mean(run.scores[each])) for run in group.runs], "{:.1f}") for each in multiples),
            ]
        )
    tables += ["", "whole runs: mean over the seeds (each seed)", align_columns(rows)]
    for mark in marks:
        rows = [["recipe", "updates", "seconds", "TFLOP", f"times faster than {groups[0].label}"]]
        rows += [[group.label, *_describe_reached(group, mark)] for group in groups]
        tables += ["", f"until the {mark.name}", align_columns(rows)]
    return "\n".join(tables)


def leaderboard_lines(runs: Sequence[TimedRun], mark: Mark, machine: Machine) -> list[str]:
    """Return the rows of a Markdown table for docs/leaderboard.md, one for each recipe, and their header.

    Args:
        runs: All runs.
        mark: Mark of the leaderboard.
        machine: Machine of all runs.
    """
    multiples = list(runs[0].scores)
    header = ["date", "commit", "recipe", "seconds", "updates", "TFLOP", "times faster", "validation loss"]
    header += [f"score at {multiple:g}x" for multiple in multiples] + ["hardware", "command", "what changed"]
    rows = [header, ["---"] * len(header)]
    command = shlex.join(["python", *sys.argv])
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    for group in group_by_recipe(runs):
        updates, seconds, flops, speedup = _describe_reached(group, mark)
        losses = _format([run.losses[-1].value for run in group.runs], "{:.3f}")
        scores = [_format([float(np.mean(run.scores[each])) for run in group.runs], "{:.1f}") for each in multiples]
        cells = [date, git_commit(), group.label, seconds, updates, flops, speedup, losses, *scores]
        rows.append([*cells, describe_machine(machine), f"`{command}`", ""])
    return [f"| {' | '.join(row)} |" for row in rows]


def to_json(runs: Sequence[TimedRun], marks: Sequence[Mark], machine: Machine) -> dict[str, Any]:
    """Return all figures for a JSON file."""
    groups = group_by_recipe(runs)

    def reached(group: RecipeRuns, mark: Mark) -> dict[str, Any]:
        points = {
            str(run.seed): None
            if point is None
            else {
                "update": point.update,
                "seconds": point.seconds,
                "flops": point.update * run.flops_per_update,
                "value": point.value,
            }
            for run, point in zip(group.runs, group.reached(mark), strict=True)
        }
        return {"seeds": points, "speedups": group.speedups(mark)}

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "command": shlex.join(["python", *sys.argv]),
        "machine": vars(machine) | {"hardware": vars(machine.hardware)},
        "marks": [
            {
                "name": mark.name,
                "metric": mark.metric,
                "values": {str(seed): value for seed, value in mark.values.items()},
                "reached": {group.label: reached(group, mark) for group in groups},
            }
            for mark in marks
        ],
        "runs": [run.to_json() for run in runs],
    }


def describe_machine(machine: Machine) -> str:
    """Return hardware, type of the forward pass and version of PyTorch in one line."""
    hardware = machine.hardware
    device = hardware.gpu or f"{machine.threads} of {hardware.cores} cores, {hardware.cpu}"
    return f"{device}, {machine.dtype}, torch {machine.versions['torch']}"


def git_commit() -> str:
    """Return the commit of this file's repository, with ``-dirty`` if a tracked file differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return "unknown"


def _describe_cost(run: TimedRun) -> list[str]:
    """Return seconds, milliseconds per update, and final validation loss and accuracy."""
    return [
        f"{run.seconds:.1f}",
        f"{1000 * run.seconds / run.updates:.0f}",
        f"{run.losses[-1].value:.3f}",
        f"{run.accuracy:.1%}",
    ]


def _describe_reached(group: RecipeRuns, mark: Mark) -> list[str]:
    """Return updates, seconds and FLOPs until the runs of a recipe reach a mark, and the speedup over the baseline."""
    points = group.reached(mark)
    flops = [
        None if point is None else point.update * run.flops_per_update / 1e12
        for run, point in zip(group.runs, points, strict=True)
    ]
    speedups = group.speedups(mark)
    speedup = ""
    if speedups:
        median, low, high = median_and_range(speedups)
        speedup = f"{median:.1f}" if len(speedups) == 1 else f"{median:.1f} ({low:.1f} to {high:.1f})"
        if len(speedups) < len(points):
            speedup += f" in {len(speedups)} of {len(points)}"
    return [
        _format([None if point is None else point.update for point in points], "{:,.0f}"),
        _format([None if point is None else point.seconds for point in points], "{:.1f}"),
        _format(flops, "{:,.1f}"),
        speedup,
    ]


def _format(values: Sequence[float | None], template: str) -> str:
    """Return the mean over the seeds and each seed's value, or in how many seeds there is none."""
    cells = [NOT_REACHED if value is None else template.format(value) for value in values]
    reached = [value for value in values if value is not None]
    if len(values) == 1 or not reached:
        return cells[0]
    if len(reached) < len(values):
        return f"{NOT_REACHED} in {len(values) - len(reached)} of {len(values)} ({', '.join(cells)})"
    return f"{template.format(statistics.mean(reached))} ({', '.join(cells)})"
