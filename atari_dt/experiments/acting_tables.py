"""Tables of a comparison of ways to act: one for each question, the settings, and what was left out."""

from __future__ import annotations

import numpy as np

from atari_dt.evaluation.paired_differences import PairedDifference, paired_difference
from atari_dt.evaluation.results import format_origin
from atari_dt.evaluation.statistics import summarize
from atari_dt.experiments.acting_results import ActingComparison, VariantResult
from atari_dt.experiments.acting_variants import Question
from atari_dt.experiments.results import format_interval, format_number, format_score

QUESTIONS: dict[Question, str] = {"sampling": "sampling", "target": "target return", "protocol": "protocol"}
"""Title of each question's first column."""

_DEFAULT_LABELS: dict[Question, str] = {
    "sampling": "temperature 1 (default)",
    "protocol": "dopamine (default)",
}


def comparison_tables(comparison: ActingComparison) -> dict[str, list[list[str]]]:
    """Return tables of text by part, as `atari_dt.experiments.study.Study.tables` does.

    Scores are in points: the mean with the standard deviation of the seeds' means, and the interquartile mean with its
    95% interval. The difference is that of the interquartile means, the variant's minus the default's, with its 95%
    interval from episodes in pairs (`paired_difference`). Steps are the mean length of the episodes, and truncated
    ones were not over after the largest number of steps.
    """
    questions = [name for name in QUESTIONS if any(each.variant.question == name for each in comparison.results)]
    tables = {str(name): _question_table(comparison, name) for name in questions}
    if comparison.left_out:
        tables["left-out"] = [["left out", "why"], *([each.label, each.reason] for each in comparison.left_out)]
    return {**tables, "settings": _settings_table(comparison)}


def difference_from_default(comparison: ActingComparison, result: VariantResult) -> PairedDifference:
    """Return the difference of a variant's interquartile mean score from the default's, in points."""
    return paired_difference(result.scores, comparison.results[0].scores)


def name_variant(comparison: ActingComparison, result: VariantResult, question: Question) -> str:
    """Return the name of a variant in a table or figure of a question."""
    variant = result.variant
    is_default = variant.question == "default"
    if question == "target":
        origin = format_origin(variant.return_multiple, variant.return_percentile)
        return f"{result.target_return:g}{origin}" + (", default" if is_default else "")
    return _DEFAULT_LABELS[question] if is_default else variant.label


def _question_table(comparison: ActingComparison, question: Question) -> list[list[str]]:
    """Return the table of the default and the variants of a question."""
    returns = ["return"] if question == "target" else []
    header = [QUESTIONS[question], *returns, "score", "IQM", "95% interval", "difference", "95% interval"]
    rows = [[*header, "steps", "truncated", "random policy"]]
    for result in comparison.of_question(question):
        summary, lengths = summarize(result.scores), result.lengths
        truncated = int((lengths >= comparison.settings.max_steps).sum())
        rows.append(
            [
                name_variant(comparison, result, question),
                *([format_score(summarize(result.returns))] if returns else []),
                format_score(summary),
                format_number(summary.interquartile_mean),
                format_interval(summary),
                *(("", "") if result.variant.question == "default" else _difference_cells(comparison, result)),
                f"{np.mean(lengths):,.0f}",
                f"{truncated} of {len(lengths)}",
                format_number(result.random_mean),
            ]
        )
    return rows


def _difference_cells(comparison: ActingComparison, result: VariantResult) -> tuple[str, str]:
    """Return the difference from the default and its interval, which is empty where it is unknown."""
    difference = difference_from_default(comparison, result)
    interval = () if difference.interval is None else map(format_number, difference.interval)
    return f"{round(difference.value, 1) + 0.0:+.1f}", " to ".join(interval)


def _settings_table(comparison: ActingComparison) -> list[list[str]]:
    """Return the settings that all variants have in common, and when and where they were played."""
    settings = comparison.settings
    rows = [["setting", "value"], ["game", settings.game], ["method", settings.model.title]]
    for run in settings.runs:
        updates = "" if run.updates is None else f", {run.updates:,} updates"
        seed = "" if run.seed is None else f", training seed {run.seed}"
        rows.append(["run", f"{run.name}{seed}{updates}, largest return of its data {run.max_return:g}"])
    rows.append(["episodes", f"{settings.episodes} of each run, at most {settings.max_steps:,} steps"])
    rows.append(["evaluation seed", str(settings.seed)])
    rows.append(["units of returns", "clipped rewards" if settings.reward_clipping else "points"])
    for session in comparison.sessions:
        device = session.hardware.gpu or f"{session.hardware.cpu}, {session.hardware.cores} cores"
        rows.append([f"played on {session.date}", f"{session.command} ({device})"])
    return rows
