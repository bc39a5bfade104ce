"""Figures of evaluation results: target-return curve, score histograms, and the quickstart's summary."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atari_dt.evaluation.results import Evaluation
from atari_dt.training.metrics import MetricsLine


def draw_target_return_curve(axes: Axes, evaluation: Evaluation) -> None:
    """Draw achieved against target return with a band of ± one standard deviation, as in the paper's figure."""
    dataset = evaluation.datasets[0]
    targets = np.array([evaluation.target_return(i) or 0.0 for i in range(evaluation.num_targets)])
    order = np.argsort(targets, kind="stable")
    returns = [evaluation.returns(int(i)) for i in order]
    targets = targets[order]
    means = np.array([values.mean() for values in returns])
    deviations = np.array([values.std() for values in returns])
    tops = [(means + deviations).max()]
    if evaluation.conditioned:
        low, high = targets.min(), targets.max()
        if high > 0:
            low = min(0.0, low)
        elif low == high:  # one target return, where a line has no length
            low, high = low - 0.5, high + 0.5
        axes.plot([low, high], [low, high], color="0.6", linestyle="--", label="achieved = target")
        axes.fill_between(targets, means - deviations, means + deviations, color="tab:blue", alpha=0.15, linewidth=0)
    if dataset.max_return is not None:
        best = f"dataset best ({dataset.max_return:g})"
        axes.axhline(dataset.max_return, color="tab:green", linewidth=1, label=best)
        tops.append(dataset.max_return)
        if evaluation.conditioned and dataset.max_return <= high:
            axes.axvline(dataset.max_return, color="tab:green", linewidth=1, alpha=0.4)
    for value, name, color in (
        (dataset.mean_return, "dataset mean", "tab:green"),
        (evaluation.random.returns.mean(), "random policy", "tab:red"),
    ):
        if value is not None:
            axes.axhline(value, color=color, linewidth=1, linestyle=":", label=f"{name} ({value:.1f})")
    for target, values in zip(targets, returns, strict=True):
        axes.plot(np.full(len(values), target), values, ".", color="tab:blue", alpha=0.25)
    axes.errorbar(
        targets, means, deviations, color="tab:blue", marker="o", capsize=3, label="mean ± standard deviation"
    )
    if evaluation.conditioned:
        axes.set(xlabel="target return", title=f"{evaluation.game.name}: achieved and target return")
    else:
        axes.set(xlabel=evaluation.config.title, title=f"{evaluation.game.name}: achieved return")
        axes.set_xticks([])
    axes.set_ylabel("achieved return")
    axes.legend(fontsize=8)
    axes.set_ylim(top=1.15 * max(tops) if max(tops) > 0 else None)
    axes.spines[["top", "right"]].set_visible(False)


def draw_score_histograms(figure: Figure, evaluation: Evaluation) -> None:
    """Draw a histogram of the scores under each target return, one below the other."""
    scores = [np.concatenate(evaluation.scores(i)) for i in range(evaluation.num_targets)]
    all_scores = np.concatenate([*scores, evaluation.random.scores])
    edges = np.histogram_bin_edges(all_scores, bins=min(30, max(5, len(set(all_scores)))))
    rows = figure.subplots(len(scores), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for i, (axes, values) in enumerate(zip(rows, scores, strict=True)):
        axes.hist(values, edges, color="tab:blue", alpha=0.8)
        axes.axvline(np.median(values), color="black", linewidth=1.5, label=f"median {np.median(values):.1f}")
        mean = evaluation.random.scores.mean()
        axes.axvline(mean, color="tab:red", linestyle=":", label=f"random policy {mean:.1f}")
        if (best := evaluation.datasets[0].max_score) is not None and best <= edges[-1]:
            axes.axvline(best, color="tab:green", linewidth=1, label=f"dataset best {best:g}")
        axes.set_ylabel("episodes")
        title = evaluation.label(i) if evaluation.conditioned else evaluation.config.label
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(fontsize=7, loc="upper right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.get_major_locator().set_params(integer=True)
    rows[-1].set_xlabel(f"{evaluation.game.name} score (points)")


def quickstart_figure(evaluation: Evaluation, metrics: Sequence[MetricsLine]) -> bytes:
    """Draw the target-return curve beside the learning curve, as the content of a PNG file.

    Args:
        evaluation: Results of the trained model.
        metrics: Training metrics of the model.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_target_return_curve(left, evaluation)
    updates = [line.update for line in metrics]
    right.plot(updates, [line.loss for line in metrics], color="tab:orange")
    right.set(xlabel="update", title="learning curve")
    right.set_ylabel("cross-entropy (nats per action)", color="tab:orange")
    accuracy = right.twinx()
    accuracy.plot(updates, [line.action_accuracy for line in metrics], color="tab:purple")
    accuracy.set_ylabel("action accuracy", color="tab:purple")
    for axes in (right, accuracy):
        axes.spines["top"].set_visible(False)
    return to_png(figure)


def game_panels(figure: Figure, num_games: int, width: float) -> list[Axes]:
    """Return a panel for each game, in at most two columns, and set the size of the figure.

    Args:
        figure: Empty figure.
        num_games: Number of games, at least 1.
        width: Width of a panel in inches; it is 4 inches high.
    """
    num_columns = min(num_games, 2)
    num_rows = -(-num_games // num_columns)
    figure.set_size_inches(width * num_columns, 4 * num_rows)
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for unused in panels[num_games:]:
        unused.remove()
    return panels[:num_games]


def to_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
