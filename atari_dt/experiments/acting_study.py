"""Tables and figure of a comparison of ways to act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atari_dt.evaluation.results import format_origin
from atari_dt.evaluation.statistics import bootstrap_interval, interquartile_mean, summarize
from atari_dt.experiments.acting_results import ActingComparison, VariantResult
from atari_dt.experiments.acting_variants import Question
from atari_dt.experiments.results import format_interval, format_number, format_score
from atari_dt.method_config import default_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUESTIONS: dict[Question, str] = {"sampling": "sampling", "target": "target return", "protocol": "protocol"}
"""Questions that have a table, and the title of its first column."""

_DEFAULT_LABELS: dict[Question, str] = {"sampling": "temperature 1 (default)", "protocol": "dopamine (default)"}

_COLORS: dict[Question, str] = {"sampling": "tab:purple", "protocol": "tab:orange"}


@dataclass(frozen=True)
class ActingStudy:
    """A comparison of ways to act, as a `atari_dt.experiments.study.Study`."""

    comparison: ActingComparison

    def tables(self) -> dict[str, list[list[str]]]:
        """Return a table for each question that was played, one of what was left out, and one of the settings.

        Scores are in points: the mean with the standard deviation of the seeds' means, and the interquartile mean with
        its 95% interval. Differences are those of the interquartile means, with 95% intervals of `paired_difference`.
        """
        played = {each.variant.question for each in self.comparison.results}
        tables = {str(question): self._question_table(question) for question in _QUESTIONS if question in played}
        if self.comparison.left_out:
            left_out = ([each.label, each.reason] for each in self.comparison.left_out)
            tables["left-out"] = [["left out", "why"], *left_out]
        return {**tables, "settings": self._settings_table()}

    def figures(self) -> dict[str, bytes]:
        """Return the figure; none if only the default was played.

        Its first panel shows the achieved over the target return, its second one the differences from the default of
        the other variants. A panel without variants is left out.
        """
        from matplotlib.figure import Figure  # takes half a second, and tables do not need it

        from atari_dt.rendering.figures import to_png

        if len(self.comparison.results) == 1:
            return {}
        targets = self.comparison.of_question("target")
        bars = [result for result in self.comparison.results if result.variant.question in _COLORS]
        bars.sort(key=lambda result: list(_COLORS).index(result.variant.question))
        widths = [4.6] * (len(targets) > 1) + [6.4] * bool(bars)
        figure = Figure(figsize=(sum(widths), max(4.2, 0.42 * len(bars) + 1.4)), layout="constrained")
        panels = list(np.atleast_1d(figure.subplots(1, len(widths), width_ratios=widths)))
        if len(targets) > 1:
            self._draw_targets(panels[0], targets)
        if bars:
            self._draw_differences(panels[-1], bars)
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        return {"": to_png(figure)}

    def _question_table(self, question: Question) -> list[list[str]]:
        """Return the table of the default and the variants of a question."""
        returns = ["return"] if question == "target" else []
        header = [_QUESTIONS[question], *returns, "score", "IQM", "95% interval", "difference", "95% interval"]
        rows = [[*header, "steps", "truncated", "random policy"]]
        for result in self.comparison.of_question(question):
            summary, lengths = summarize(result.scores), result.lengths
            truncated = int((lengths >= self.comparison.settings.max_steps).sum())
            rows.append(
                [
                    _name(result, question),
                    *([format_score(summarize(result.returns))] if returns else []),
                    format_score(summary),
                    format_number(summary.interquartile_mean),
                    format_interval(summary),
                    *(("", "") if result.variant.question == "default" else self._difference_cells(result)),
                    f"{np.mean(lengths):,.0f}",
                    f"{truncated} of {len(lengths)}",
                    format_number(result.random_mean),
                ]
            )
        return rows

    def _difference_cells(self, result: VariantResult) -> tuple[str, str]:
        """Return the difference from the default, and its interval or an empty text."""
        difference = self.comparison.difference(result)
        interval = () if difference.interval is None else map(format_number, difference.interval)
        return f"{round(difference.value, 1) + 0.0:+.1f}", " to ".join(interval)

    def _settings_table(self) -> list[list[str]]:
        """Return the settings of all variants, and when and where they were played."""
        settings = self.comparison.settings
        rows = [["setting", "value"], ["game", settings.game], ["method", default_config(settings.method).title]]
        for run in settings.runs:
            updates = "" if run.updates is None else f", {run.updates:,} updates"
            seed = "" if run.seed is None else f", training seed {run.seed}"
            rows.append(["run", f"{run.name}{seed}{updates}, largest return of its data {run.max_return:g}"])
        rows.append(["episodes", f"{settings.episodes} of each run, at most {settings.max_steps:,} steps"])
        rows.append(["evaluation seed", str(settings.seed)])
        rows.append(["units of returns", "clipped rewards" if settings.reward_clipping else "points"])
        for session in self.comparison.sessions:
            device = session.hardware.gpu or f"{session.hardware.cpu}, {session.hardware.cores} cores"
            rows.append([f"played on {session.date}", f"{session.command} ({device})"])
        return rows

    def _draw_targets(self, axes: Axes, results: list[VariantResult]) -> None:
        """Draw the returns over the target return: interquartile means, 95% intervals and a point for each seed."""
        runs = self.comparison.settings.runs
        targets = np.array([each.target_return for each in results], dtype=np.float64)
        means = [float(interquartile_mean(np.concatenate(each.returns))) for each in results]
        ends = [bootstrap_interval(each.returns) or (mean, mean) for each, mean in zip(results, means, strict=True)]
        diagonal = [min(0.0, targets.min()), targets.max()]
        axes.plot(diagonal, diagonal, color="0.6", linestyle="--", label="achieved = target")
        best = float(np.mean([run.max_return for run in runs]))
        axes.axhline(best, color="tab:green", linewidth=1, label=f"data, best ({best:.4g})")
        if known := [run.mean_return for run in runs if run.mean_return is not None]:
            mean = float(np.mean(known))
            axes.axhline(mean, color="tab:green", linewidth=1, linestyle=":", label=f"data, mean ({mean:.1f})")
        for target, each in zip(targets, results, strict=True):
            points = [interquartile_mean(returns) for returns in each.returns]
            axes.plot(np.full(len(points), target), points, ".", color="tab:blue", alpha=0.5)
        axes.vlines(targets, *np.transpose(ends), color="tab:blue")
        axes.plot(targets, means, marker="o", color="tab:blue", label="IQM, 95% interval, seeds")
        axes.set(xlabel="target return", ylabel="achieved return")
        axes.set_title(f"{self.comparison.settings.game}: achieved and target return")
        top = max(best, *(max(each) for each in ends))
        axes.set_ylim(top=1.2 * top if top > 0 else None)  # the diagonal may leave the panel
        axes.legend(frameon=False, fontsize=8)

    def _draw_differences(self, axes: Axes, results: list[VariantResult]) -> None:
        """Draw a horizontal bar with a 95% interval for each variant, the first one on top."""
        for position, result in enumerate(results):
            difference = self.comparison.difference(result)
            axes.barh(position, difference.value, color=_COLORS[result.variant.question], alpha=0.6)
            if difference.interval is not None:
                axes.hlines(position, *difference.interval, color="black", linewidth=1.5)
        axes.set_yticks(range(len(results)), [result.variant.label for result in results])
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel="difference from the default (points, IQM, 95% interval)", title="Sampling and protocol")


def read_study(content: Any) -> ActingStudy:
    """Read the content of a file of the type ``acting``.

    Raises:
        InputError, ValueError, KeyError, TypeError: If the content is malformed.
    """
    return ActingStudy(ActingComparison.from_json(content))


def _name(result: VariantResult, question: Question) -> str:
    """Return the name of a variant in the table of a question."""
    variant = result.variant
    is_default = variant.question == "default"
    if question == "target":
        origin = format_origin(variant.return_multiple, variant.return_percentile)
        return f"{result.target_return:g}{origin}" + (", default" if is_default else "")
    return _DEFAULT_LABELS[question] if is_default else variant.label
