"""The methods of a sweep compared over its games: probability of improvement and performance profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from atari_dt.evaluation.comparison import (
    PROFILE_RESAMPLES,
    improvement_interval,
    performance_profile,
    probability_of_improvement,
    profile_band,
)
from atari_dt.evaluation.statistics import RESAMPLES, normalize_score
from atari_dt.experiments.results import RunGroup, format_target, name_data, normalization_scores
from atari_dt.games.catalogue import Game
from atari_dt.rendering.figures import to_png
from atari_dt.rendering.html import ReportDocument

MIN_RUNS = 2
"""Smallest number of runs of a method in a game; a single run does not show how much runs differ."""


@dataclass(frozen=True)
class MethodComparison:
    """The mean scores of the runs of several methods, in the games that all of these methods have.

    Attributes:
        methods: Names of the methods. The first one, the Decision Transformer where there is one, is compared with each
            of the others.
        games: Names of the games.
        scores: Mean score of each run of the last checkpoints, in gamer-normalized percent, ``[methods][games][runs]``.
        targets: Target returns of methods that were evaluated under several, of which the last one counts, such as
            ``"90 for DT in Breakout"``.
        left_out: What is left out and why, such as ``"Pong (no runs of CQL)"``.
    """

    methods: tuple[str, ...]
    games: tuple[str, ...]
    scores: tuple[tuple[npt.NDArray[np.float64], ...], ...]
    targets: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def from_groups(cls, groups: Sequence[RunGroup]) -> MethodComparison:
        """Collect the scores of the finished runs of a sweep.

        A method takes part if it has several runs in some game. A game takes part if every such method has several runs
        in it, all of the same settings, and its scores can be normalized.
        """
        cells: dict[tuple[Game, str], list[RunGroup]] = {}
        for group in sorted(groups, key=lambda group: group.order):
            cells.setdefault((group.game, group.method), []).append(group)
        all_methods = list(dict.fromkeys(method for _, method in cells))
        compared = {group.method for group in groups if len(group.names) >= MIN_RUNS}
        methods = [method for method in all_methods if method in compared]
        left_out = [f"{method} (a single run per game)" for method in all_methods if method not in methods]
        columns: dict[str, list[RunGroup]] = {}
        for game in dict.fromkeys(group.game for group in groups):
            reason = _reason_to_leave_out(game, {method: cells.get((game, method), []) for method in methods})
            if reason:
                left_out.append(f"{game.name} ({reason})")
            else:
                columns[game.name] = [cells[game, method][0] for method in methods]
        return cls(
            methods=tuple(methods),
            games=tuple(columns),
            scores=tuple(
                tuple(_run_scores(column[index]) for column in columns.values()) for index in range(len(methods))
            ),
            targets=tuple(
                f"{format_target(group, -1)} for {group.method} in {name}"
                for name, column in columns.items()
                for group in column
                if group.num_targets > 1
            ),
            left_out=tuple(left_out),
        )

    def num_runs(self, index: int) -> int:
        """Return the number of runs of a method in all games together."""
        return sum(map(len, self.scores[index]))


def _reason_to_leave_out(game: Game, members: dict[str, list[RunGroup]]) -> str:
    """Return why a game does not take part in a comparison; empty if it does."""
    if normalization_scores(game) is None:
        return "no random and human scores to normalize with"
    missing = [method for method, groups in members.items() if not groups]
    if missing:
        return f"no runs of {', '.join(missing)}"
    mixed = [method for method, groups in members.items() if len(groups) > 1]
    if mixed:
        return f"runs of several settings of {', '.join(mixed)}"
    single = [method for method, (group,) in members.items() if len(group.names) < MIN_RUNS]
    return f"a single run of {', '.join(single)}" if single else ""


def _run_scores(group: RunGroup) -> npt.NDArray[np.float64]:
    """Return the mean score of each run under the last target return, in gamer-normalized percent, ``[runs]``."""
    random_and_human = normalization_scores(group.game)
    assert random_and_human is not None
    return np.array([normalize_score(float(scores.mean()), *random_and_human) for scores in group.scores()])


def improvement_rows(comparison: MethodComparison) -> list[list[str]]:
    """Return a table of the probability that the first method improves on each of the others, with a header.

    Args:
        comparison: Methods, with at least one game.
    """
    first, *others = comparison.methods
    rows = [["method", "runs", f"P({first} > method)", "95% interval"]]
    for index, method in enumerate(others, start=1):
        x, y = comparison.scores[0], comparison.scores[index]
        low, high = improvement_interval(x, y)
        probability = f"{probability_of_improvement(x, y):.2f}"
        rows.append([method, f"{comparison.num_runs(index)}", probability, f"{low:.2f} to {high:.2f}"])
    return rows


def explain_improvement(comparison: MethodComparison) -> str:
    """Return the caption of `improvement_rows`: how the probabilities are computed, and from which scores."""
    first = comparison.methods[0]
    text = (
        f"P({first} > method): probability that a run of {first} ({comparison.num_runs(0)} runs) scores higher than a "
        "run of the method, averaged over the games; ties count half. 95% interval: stratified bootstrap over the "
        f"runs of each game ({RESAMPLES:,} resamples). With few runs, it is too narrow; it has no width if every run "
        "of one method scores higher than every run of the other. Both are defined as in Agarwal et al. 2021 "
        "(arXiv:2108.13264). The score of a run is the mean over the episodes of its last checkpoint. Games: "
        f"{', '.join(comparison.games)}."
    )
    if comparison.targets:
        text += f" Of several target returns, the last one counts: {', '.join(comparison.targets)}."
    return f"{text} {explain_left_out(comparison)}".rstrip()


def explain_left_out(comparison: MethodComparison) -> str:
    """Return a sentence that names the games and methods that are not compared, and why; empty if there are none."""
    return f"Left out of this comparison: {', '.join(comparison.left_out)}." if comparison.left_out else ""


def comparison_figure(comparison: MethodComparison) -> bytes:
    """Draw the probabilities of improvement, and the performance profile of each method.

    Bars and bands are 95% intervals of stratified bootstraps over the runs.

    Args:
        comparison: Methods, with at least one game.

    Returns:
        Content of a PNG file.
    """
    num_others = len(comparison.methods) - 1
    figure = Figure(figsize=(11, max(3.5, 1.5 + 0.45 * num_others)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for index in range(1, num_others + 1):
        x, y = comparison.scores[0], comparison.scores[index]
        low_and_high = improvement_interval(x, y)
        left.plot(low_and_high, [index, index], color=f"C{index}", linewidth=8, alpha=0.35, solid_capstyle="butt")
        left.plot(probability_of_improvement(x, y), index, "o", color=f"C{index}")
    left.axvline(0.5, color="gray", linestyle=":")
    left.set_yticks(range(1, num_others + 1), comparison.methods[1:])
    left.set(xlim=(-0.03, 1.03), ylim=(num_others + 0.5, 0.5), xlabel=f"P({comparison.methods[0]} > method)")

    pooled = np.concatenate([runs for of_method in comparison.scores for runs in of_method])
    margin = 0.05 * float(np.ptp(pooled)) or 1.0
    thresholds = np.linspace(pooled.min() - margin, pooled.max() + margin, 401)
    for index, method in enumerate(comparison.methods):
        scores = comparison.scores[index]
        low, high = profile_band(scores, thresholds)
        right.plot(thresholds, performance_profile(scores, thresholds), color=f"C{index}", label=method)
        right.fill_between(thresholds, low, high, color=f"C{index}", alpha=0.15, linewidth=0)
    right.set(xlabel="gamer-normalized score τ (%)", ylabel="fraction of runs with a score above τ", ylim=(-0.03, 1.03))
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def add_comparison(report: ReportDocument, groups: Sequence[RunGroup]) -> None:
    """Add table and figure that compare the methods of a sweep over its games.

    Nothing is added unless two methods have several runs in some game.
    """
    comparison = MethodComparison.from_groups(groups)
    if len(comparison.methods) < 2:
        return
    report.heading("Methods over games")
    if comparison.games:
        report.table(improvement_rows(comparison), explain_improvement(comparison), main=True)
        report.figure(
            "profile", "Probabilities of improvement, and performance profiles", partial(comparison_figure, comparison)
        )
        report.paragraph(
            "Left: the probabilities of the table with their intervals; the dotted line, 0.5, is no difference. Right: "
            "performance profiles, the fraction of the runs whose gamer-normalized score is above τ, averaged over the "
            f"games; bands are 95% intervals at each τ ({PROFILE_RESAMPLES:,} resamples). {name_data(groups)}"
        )
    else:
        report.paragraph(explain_left_out(comparison))
