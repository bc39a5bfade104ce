"""Results as aligned text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atari_dt.evaluation.results import Evaluation, normalization_ranges
from atari_dt.evaluation.statistics import gamer_normalized, summarize


def evaluation_table(evaluation: Evaluation) -> str:
    """A line for each target return, and for what it is to be compared with.

    Scores are in points, mean ± standard deviation over all episodes; behind them the interquartile mean with its 95%
    interval, and the mean gamer-normalized with the paper's constants and with those of the 57 games; returns are in
    the dataset's reward units.
    """
    constants = normalization_ranges(evaluation.game)
    header = ("target return", "score", "median", "IQM", "95% interval", "return", "episodes")
    normalized = {"normalized_as_in_the_paper": "paper's %", "human_normalized": "human %"}
    rows = [[*header[:5], *(normalized[name] for name in constants), *header[5:]]]

    def add(name: str, scores: Sequence[Any], returns: str, episodes: int) -> None:
        summary = summarize(scores)
        interval = "" if summary.interval is None else f"{summary.interval[0]:.1f} to {summary.interval[1]:.1f}"
        percent = [f"{summary.normalized(*pair).mean:.1f}" for pair in constants.values()]
        score = f"{summary.mean:.1f} ± {summary.std:.1f}"
        middle = [f"{summary.median:.1f}", f"{summary.interquartile_mean:.1f}", interval]
        rows.append([name, score, *middle, *percent, returns, str(episodes)])

    def add_score(name: str, score: float | None, spread: str, returns: str, episodes: str) -> None:
        if score is not None:
            percent = [f"{gamer_normalized(score, *pair):.1f}" for pair in constants.values()]
            rows.append([name, f"{score:.1f}{spread}", "", "", "", *percent, returns, episodes])

    for i, multiple in enumerate(evaluation.return_multiples):
        target = evaluation.target_return(i)
        times = "" if multiple is None else f" ({multiple:g}×)"
        name = "none (cloning)" if target is None else f"{target:.1f}{times}"
        scores = evaluation.scores(i)
        add(name, scores, _spread(evaluation.returns(i)), sum(map(len, scores)))
    random, dataset, paper = evaluation.random, evaluation.datasets[0], evaluation.game.paper
    add("random player", [random.scores], _spread(random.returns), len(random.scores))
    if dataset.mean_return is not None:
        add_score("dataset, mean", dataset.mean_score, "", f"{dataset.mean_return:.1f}", str(dataset.episodes))
        add_score("dataset, best", dataset.max_score, "", f"{dataset.max_return:.1f}", "1")
    if paper is not None:
        mean, std = paper.decision_transformer if evaluation.conditioned else paper.behavior_cloning
        add_score("paper, 3 seeds", mean, f" ± {std:.1f}", "", "")
    return align_columns(rows)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _spread(values: Any) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"
