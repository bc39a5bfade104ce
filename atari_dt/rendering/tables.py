"""Evaluation results as aligned text tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from atari_dt.evaluation.results import Evaluation, format_origin, normalization_ranges
from atari_dt.evaluation.statistics import Scores, normalize_score, summarize
from atari_dt.games.published_scores import PUBLISHED_SCORES

_NORMALIZED_COLUMNS = {"normalized_as_in_the_paper": "paper's %", "human_normalized": "human %"}


def evaluation_table(evaluation: Evaluation) -> str:
    """Return a table with a line for each target return, followed by lines to compare them with.

    The latter are a uniform-random policy, the dataset, and the published scores of the method in this game. Scores are
    in points, as mean ± standard deviation over all episodes, median, and interquartile mean with its 95% confidence
    interval. Normalized means use the constants of the paper and of 57 games. Returns are in the dataset's reward
    units.
    """
    config, game = evaluation.config, evaluation.game
    ranges = normalization_ranges(game)
    statistics = ("target return", "score", "median", "IQM", "95% interval")
    rows = [[*statistics, *(_NORMALIZED_COLUMNS[name] for name in ranges), "return", "episodes"]]

    def add_episodes(name: str, scores: Scores, returns: npt.NDArray[np.float64]) -> None:
        summary = summarize(scores)
        interval = "" if summary.interval is None else f"{summary.interval[0]:.1f} to {summary.interval[1]:.1f}"
        rows.append(
            [
                name,
                f"{summary.mean:.1f} ± {summary.std:.1f}",
                f"{summary.median:.1f}",
                f"{summary.interquartile_mean:.1f}",
                interval,
                *(f"{summary.normalized(*bounds).mean:.1f}" for bounds in ranges.values()),
                f"{returns.mean():.1f} ± {returns.std():.1f}",
                str(summary.episodes),
            ]
        )

    def add_reference(name: str, score: float | None, spread: str, returns: str, episodes: str) -> None:
        if score is not None:
            normalized = [f"{normalize_score(score, *bounds):.1f}" for bounds in ranges.values()]
            rows.append([name, f"{score:.1f}{spread}", "", "", "", *normalized, returns, episodes])

    for i, origin in enumerate(zip(evaluation.return_multiples, evaluation.return_percentiles, strict=True)):
        target_return = evaluation.target_return(i)
        target = f"none ({config.label})" if target_return is None else f"{target_return:.1f}{format_origin(*origin)}"
        add_episodes(target, evaluation.scores(i), evaluation.returns(i))
    add_episodes("random policy", [evaluation.random.scores], evaluation.random.returns)
    dataset = evaluation.datasets[0]
    if dataset.mean_return is not None:
        add_reference("dataset, mean", dataset.mean_score, "", f"{dataset.mean_return:.1f}", str(dataset.episodes))
        add_reference("dataset, best", dataset.max_score, "", f"{dataset.max_return:.1f}", "1")
    for published in PUBLISHED_SCORES:
        if (published.method, published.game) == (config.label, game.rom):
            seeds = "" if published.seeds is None else f", {published.seeds} seeds"
            spread = "" if published.std is None else f" ± {published.std:.1f}"
            add_reference(f"{published.publication.name}{seeds}", published.final, spread, "", "")
    return align_columns(rows)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text, with every column right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
