"""The figure of a comparison of ways to act: achieved against target return, and differences of scores."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atari_dt.evaluation.statistics import bootstrap_interval, interquartile_mean
from atari_dt.experiments.acting_results import ActingComparison, VariantResult
from atari_dt.experiments.acting_tables import difference_from_default, name_variant
from atari_dt.experiments.acting_variants import Question
from atari_dt.rendering.figures import to_png

_COLORS: dict[Question, str] = {"sampling": "tab:purple", "protocol": "tab:orange"}


def comparison_figure(comparison: ActingComparison) -> bytes:
    """Draw returns over target returns, and beside them the differences of the other variants from the default.

    Each panel is left out if its variants were not played.

    Returns:
        Content of a PNG file.
    """
    targets = comparison.of_question("target")
    bars = [
        (question, each) for question in _COLORS for each in comparison.results if each.variant.question == question
    ]
    widths = [4.6] * (len(targets) > 1) + [6.4] * bool(bars)
    figure = Figure(figsize=(sum(widths), max(4.2, 0.42 * len(bars) + 1.4)), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1, len(widths), width_ratios=widths)))
    if len(targets) > 1:
        _draw_targets(panels[0], comparison, targets)
    if bars:
        _draw_differences(panels[-1], comparison, bars)
    return to_png(figure)


def _draw_targets(axes: Axes, comparison: ActingComparison, results: list[VariantResult]) -> None:
    """Draw the interquartile mean of the returns over the target return, with 95% intervals and a point per seed."""
    settings = comparison.settings
    targets = np.array([each.target_return for each in results], dtype=np.float64)
    means = np.array([interquartile_mean(np.concatenate(each.returns)) for each in results])
    intervals = [bootstrap_interval(each.returns) or (mean, mean) for each, mean in zip(results, means, strict=True)]
    errors = np.abs(np.transpose(intervals) - means)
    low, high = min(0.0, targets.min()), targets.max()
    axes.plot([low, high], [low, high], color="0.6", linestyle="--", label="achieved = target")
    best = float(np.mean([run.max_return for run in settings.runs]))
    axes.axhline(best, color="tab:green", linewidth=1, label=f"data, best ({best:.4g})")
    known = [run.mean_return for run in settings.runs if run.mean_return is not None]
    if known:
        mean = float(np.mean(known))
        axes.axhline(mean, color="tab:green", linewidth=1, linestyle=":", label=f"data, mean ({mean:.1f})")
    for target, each in zip(targets, results, strict=True):
        points = [interquartile_mean(returns) for returns in each.returns]
        axes.plot(np.full(len(points), target), points, ".", color="tab:blue", alpha=0.5)
    axes.errorbar(targets, means, errors, color="tab:blue", marker="o", capsize=3, label="IQM, 95% interval, seeds")
    axes.set(xlabel="target return", ylabel="achieved return", title=f"{settings.game}: achieved and target return")
    tops = [best, means.max(), max(interval[1] for interval in intervals)]
    axes.set_ylim(top=1.2 * max(tops) if max(tops) > 0 else None)  # the diagonal may leave the panel
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_differences(axes: Axes, comparison: ActingComparison, bars: list[tuple[Question, VariantResult]]) -> None:
    """Draw a horizontal bar with a 95% interval for each variant, the first one on top."""
    for position, (question, result) in enumerate(bars):
        difference = difference_from_default(comparison, result)
        low, high = difference.interval or (difference.value, difference.value)
        axes.barh(position, difference.value, color=_COLORS[question], alpha=0.6)
        axes.plot([low, high], [position, position], color="black", linewidth=1.5, solid_capstyle="butt")
    axes.set_yticks(range(len(bars)), [name_variant(comparison, result, question) for question, result in bars])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="difference from the default (points, IQM, 95% interval)", title="Sampling and protocol")
    axes.spines[["top", "right"]].set_visible(False)
