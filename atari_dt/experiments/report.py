"""Tables, figures and JSON of what was played."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from atari_dt.evaluation import EvaluationResult
from atari_dt.model import DatasetInfo
from replay_data import InputError
from replay_data.files import write_whole


def evaluation_json(
    game: str, run: Path, return_multiples: Sequence[float | None], results: Sequence[EvaluationResult]
) -> dict[str, Any]:
    """Every score of an evaluation, and under each target return their mean and (population) standard deviation.

    A return multiple of None says that there was no target (behaviour cloning).
    """
    return {
        "game": game,
        "run": str(run),
        "evaluations": [
            {
                "return_multiple": multiple,
                "target_return": None if multiple is None else result.target_return,
                "scores": result.scores.tolist(),
                "mean_score": float(result.scores.mean()),
                "std_score": float(result.scores.std()),
                "returns": result.returns.tolist(),
                "lengths": result.lengths.tolist(),
            }
            for multiple, result in zip(return_multiples, results, strict=True)
        ],
    }


def evaluation_table(return_multiples: Sequence[float | None], results: Sequence[EvaluationResult]) -> str:
    """A line for each target return: scores in the game's points, returns in the dataset's reward units."""
    lines = [f"{'target return':>22}{'score':>18}{'return':>18}{'episodes':>10}"]
    for multiple, result in zip(return_multiples, results, strict=True):
        target = "none" if multiple is None else f"{result.target_return:.1f} ({multiple:g}×)"
        lines.append(f"{target:>22}{_spread(result.scores):>18}{_spread(result.returns):>18}{len(result.scores):>10}")
    return "\n".join(lines)


def quickstart_results(
    dataset: DatasetInfo,
    return_multiples: Sequence[float],
    results: Sequence[EvaluationResult],
    random: EvaluationResult,
    train_seconds: float,
    total_seconds: float,
) -> dict[str, Any]:
    """What the quickstart found, for ``results.json``."""
    return {
        "game": dataset.game,
        "dataset": {
            "steps": dataset.steps,
            "episodes": dataset.episodes,
            "mean_return": dataset.mean_return,
            "max_return": dataset.max_return,
            "mean_score": dataset.mean_score,
            "max_score": dataset.max_score,
        },
        "scores": [
            {
                "return_multiple": multiple,
                "target_return": result.target_return,
                "mean_score": float(result.scores.mean()),
                "std_score": float(result.scores.std()),
                "mean_return": float(result.returns.mean()),
                "std_return": float(result.returns.std()),
                "episodes": len(result.scores),
            }
            for multiple, result in zip(return_multiples, results, strict=True)
        ],
        "random_score": float(random.scores.mean()),
        "train_seconds": train_seconds,
        "total_seconds": total_seconds,
    }


def quickstart_table(
    dataset: DatasetInfo,
    return_multiples: Sequence[float],
    results: Sequence[EvaluationResult],
    random: EvaluationResult,
) -> str:
    """The evaluation's table with a random player and the dataset itself beneath."""
    rows = [
        ("random player", _spread(random.scores), _spread(random.returns), len(random.scores)),
        ("dataset, mean", f"{dataset.mean_score:.1f}", f"{dataset.mean_return:.1f}", dataset.episodes),
        ("dataset, best", f"{dataset.max_score:.1f}", f"{dataset.max_return:.1f}", 1),
    ]
    lines = [f"{name:>22}{score:>18}{value:>18}{episodes:>10}" for name, score, value, episodes in rows]
    return "\n".join([evaluation_table(return_multiples, results), *lines])


def quickstart_figure(
    path: Path,
    dataset: DatasetInfo,
    results: Sequence[EvaluationResult],
    random: EvaluationResult,
    metrics: Sequence[dict[str, float]],
) -> None:
    """Draw achieved against target return, and the learning curve.

    Args:
        path: a PNG file.
        dataset: what was trained on.
        results: one for each target return.
        random: a random player's episodes.
        metrics: the lines of ``metrics.jsonl``.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    targets = np.array([result.target_return for result in results])
    means = np.array([result.returns.mean() for result in results])
    deviations = np.array([result.returns.std() for result in results])
    low, high = min(0.0, targets.min()), targets.max()
    left.plot([low, high], [low, high], color="0.6", linestyle="--", label="achieved = target")
    left.axhline(dataset.max_return, color="tab:green", linewidth=1, label=f"best of the data ({dataset.max_return:g})")
    left.axhline(
        dataset.mean_return,
        color="tab:green",
        linewidth=1,
        linestyle=":",
        label=f"mean of the data ({dataset.mean_return:.1f})",
    )
    left.axhline(
        random.returns.mean(),
        color="tab:red",
        linewidth=1,
        linestyle=":",
        label=f"random player ({random.returns.mean():.1f})",
    )
    for target, result in zip(targets, results, strict=True):
        left.plot(np.full(len(result.returns), target), result.returns, ".", color="tab:blue", alpha=0.25)
    left.errorbar(
        targets, means, deviations, color="tab:blue", marker="o", capsize=3, label="mean ± standard deviation"
    )
    left.set(
        xlabel="target return", ylabel="achieved return", title=f"{dataset.game}: what is asked for and what is played"
    )
    left.legend(fontsize=8)
    left.set_ylim(top=1.15 * max(dataset.max_return, (means + deviations).max()))

    updates = [line["update"] for line in metrics]
    right.plot(updates, [line["loss"] for line in metrics], color="tab:orange")
    right.set(xlabel="update", title="learning curve")
    right.set_ylabel("cross-entropy per action (nats)", color="tab:orange")
    accuracy = right.twinx()
    accuracy.plot(updates, [line["action_accuracy"] for line in metrics], color="tab:purple")
    accuracy.set_ylabel("action accuracy", color="tab:purple")
    for axes in (left, right, accuracy):
        axes.spines["top"].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue())


def check_writable(path: Path) -> None:
    """Raise InputError unless a file can be written at ``path``; asked before the work is done, not after."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{path} cannot be written; give a file in a directory that exists and is yours to write"
        ) from error


def _spread(values: Any) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"
