"""What a sweep over the context length found: its runs, its table and its figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from atari_dt.evaluation.scores import ScoreSummary, summarise
from atari_dt.experiments.report import aligned, png
from atari_dt.experiments.run import RunConfig, limited, read_result
from atari_dt.games import find_game
from replay_data import InputError


def ablation_runs(base: RunConfig, context_lengths: Sequence[int], seeds: Sequence[int]) -> dict[str, RunConfig]:
    """The runs of every context length with every seed, by name.

    Args:
        base: all that they have in common. Where it has a limit of updates, all make so many (see `limited`) and warm
            up for as many as ``base`` does; otherwise the schedule is the paper's, in tokens.
        context_lengths: K.
        seeds: of the training; the evaluation's is the same in all.

    Raises:
        InputError: if there is none of either, or one is out of range.
    """
    if not context_lengths or not seeds:
        raise InputError("an ablation needs at least one context length and one seed")
    runs = {}
    for length in context_lengths:
        model, training = dataclasses.replace(base.model, context_length=length), limited(base.training, length)
        if training.max_updates is not None:
            warmup = max(1, training.warmup_tokens * length // base.model.context_length)
            training = dataclasses.replace(training, warmup_tokens=warmup)
        for seed in seeds:
            config = dataclasses.replace(base, model=model, training=dataclasses.replace(training, seed=seed))
            runs[f"K{length}-seed{seed}"] = config
    return runs


@dataclasses.dataclass(frozen=True)
class Cell:
    """What the seeds of one context length found.

    Attributes:
        context_length: K.
        scores: ``[seeds][episodes]`` under the last target return.
        random_scores: float64 ``[episodes]``, of a random player.
        validation_losses: float64 ``[seeds]``, of the last checkpoint, in nats; NaN where nothing was held out.
        seconds_per_update, evaluation_steps_per_s: medians over the seeds.
    """

    context_length: int
    scores: Sequence[npt.NDArray[np.float64]]
    random_scores: npt.NDArray[np.float64]
    validation_losses: npt.NDArray[np.float64]
    seconds_per_update: float
    evaluation_steps_per_s: float

    @cached_property
    def summary(self) -> ScoreSummary:
        """Statistics of the scores."""
        return summarise(self.scores)


def ablation_cells(out: Path, runs: Mapping[str, RunConfig], data_digest: str) -> list[Cell]:
    """Gather the finished runs of a sweep by context length, ascending.

    Raises:
        InputError: if one cannot be read, or was trained on other data.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    for name, config in runs.items():
        if (out / name / "result.json").exists():
            result = read_result(out / name)
            if result["data_digest"] != data_digest:
                raise InputError(f"{out / name} was trained on other data; choose another --out")
            found.setdefault(config.model.context_length, []).append(result)
    return [
        Cell(
            length,
            [np.array(result["targets"][-1]["scores"]) for result in results],
            np.array(results[0]["random_scores"]),
            np.array([result["curve"][-1]["validation_loss"] if result["curve"] else np.nan for result in results]),
            float(np.median([result["costs"]["seconds_per_update"] for result in results])),
            float(np.median([result["costs"]["evaluation_steps_per_s"] for result in results])),
        )
        for length, results in sorted(found.items())
    ]


def ablation_table(cells: Sequence[Cell], game: str) -> str:
    """A line for each context length.

    Scores are in points, mean ± standard deviation of the seeds' means; behind them the interquartile mean over all
    episodes with its 95% interval, and the mean gamer-normalised with the scores of the 57 games. The loss is in nats,
    mean ± standard deviation over the seeds.
    """
    constants = find_game(game).random_and_human
    header = ["K", "seeds", "score", "IQM", "95% interval", "human %", "validation loss", "s/update", "steps/s"]
    rows = [header]
    for cell in cells:
        summary = cell.summary
        interval = "" if summary.interval is None else f"{summary.interval[0]:.1f} to {summary.interval[1]:.1f}"
        spread = "" if summary.std_of_seeds is None else f" ± {summary.std_of_seeds:.1f}"
        losses = cell.validation_losses
        loss = "" if np.isnan(losses).any() else f"{losses.mean():.3f}"
        if loss and len(losses) > 1:
            loss += f" ± {losses.std():.3f}"
        rows.append(
            [
                f"{cell.context_length}",
                f"{summary.seeds}",
                f"{summary.mean:.1f}{spread}",
                f"{summary.interquartile_mean:.1f}",
                interval,
                "" if constants is None else f"{summary.normalised(*constants).mean:.1f}",
                loss,
                f"{cell.seconds_per_update:.3g}",
                f"{cell.evaluation_steps_per_s:.0f}",
            ]
        )
    return aligned(rows)


def ablation_figure(cells: Sequence[Cell], game: str) -> bytes:
    """Draw score and validation loss over the context length; return a PNG file.

    A point is a seed. The line of the scores is their interquartile mean, with its 95% interval.
    """
    lengths = [cell.context_length for cell in cells]
    places = np.arange(len(cells))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = np.array([cell.summary.interquartile_mean for cell in cells])
    left.plot(places, middle, color="tab:blue", label="interquartile mean, 95% interval")
    for place, cell in zip(places, cells, strict=True):
        if (interval := cell.summary.interval) is not None:
            left.plot([place, place], interval, color="tab:blue", linewidth=3, alpha=0.4)
        means = [scores.mean() for scores in cell.scores]
        left.plot([place] * len(means), means, "o", color="tab:blue", markersize=4)
        right.plot([place] * len(means), cell.validation_losses, "o", color="tab:orange", markersize=4)
    right.plot(places, [cell.validation_losses.mean() for cell in cells], color="tab:orange", label="mean of the seeds")
    random = cells[0].random_scores.mean()
    left.axhline(random, color="gray", linestyle=":", label=f"random player ({random:.1f})")
    left.set(ylabel=f"score in {game} (points)")
    right.set(ylabel="validation loss (nats)")
    for axes in (left, right):
        axes.set_xticks(places, [str(length) for length in lengths])
        axes.set_xlabel("context length K (steps)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return png(figure)
