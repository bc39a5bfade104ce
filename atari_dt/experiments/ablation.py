"""What a sweep over the context length found: its runs, table and figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from atari_dt.experiments.results import RunGroup, format_interval, mean_and_spread, normalized_summary
from atari_dt.experiments.run import RunConfig, schedule_for_max_updates
from atari_dt.rendering.figures import to_png
from replay_data import InputError


def ablation_runs(base: RunConfig, context_lengths: Sequence[int], seeds: Sequence[int]) -> dict[str, RunConfig]:
    """The runs of every context length with every seed, by name.

    Args:
        base: all that they have in common. Where it has a limit of updates, all make so many (see `schedule_for_max_updates`) and warm
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
        model, training = (
            dataclasses.replace(base.model, context_length=length),
            schedule_for_max_updates(base.training, length),
        )
        if training.max_updates is not None:
            warmup = max(1, training.warmup_tokens * length // base.model.context_length)
            training = dataclasses.replace(training, warmup_tokens=warmup)
        for seed in seeds:
            config = dataclasses.replace(base, model=model, training=dataclasses.replace(training, seed=seed))
            runs[f"K{length}-seed{seed}"] = config
    return runs


def ablation_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """A table of groups that differ in K only, with a line for each, ascending, under a header.

    Scores are in points under the last target return, mean ± standard deviation of the seeds' means; behind them the
    interquartile mean over all episodes with its 95% interval, and the gamer-normalized mean. The loss is in nats, mean
    ± standard deviation over the seeds.
    """
    rows = [["K", "seeds", "score", "IQM", "95% interval", "normalized %", "validation loss", "s/update", "steps/s"]]
    for group in sorted(groups, key=lambda group: group.context_length):
        summary, losses = group.summary(), group.validation_losses
        loss = "" if np.isnan(losses).any() else f"{losses.mean():.3f}"
        if loss and len(losses) > 1:
            loss += f" ± {losses.std():.3f}"
        in_percent = normalized_summary(group.game, summary)
        rows.append(
            [
                f"{group.context_length}",
                f"{summary.seeds}",
                mean_and_spread(summary),
                f"{summary.interquartile_mean:.1f}",
                format_interval(summary),
                "" if in_percent is None else f"{in_percent.mean:.1f}",
                loss,
                f"{group.cost('seconds_per_update'):.3g}",
                f"{group.cost('evaluation_steps_per_s'):.0f}",
            ]
        )
    return rows


def ablation_figure(groups: Sequence[RunGroup]) -> bytes:
    """Draw score and validation loss of groups that differ in K only over the context length; return a PNG file.

    A point is a seed. The line of the scores is their interquartile mean, with its 95% interval.
    """
    groups = sorted(groups, key=lambda group: group.context_length)
    places = np.arange(len(groups))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = np.array([group.summary().interquartile_mean for group in groups])
    left.plot(places, middle, color="tab:blue", label="interquartile mean, 95% interval")
    for place, group in zip(places, groups, strict=True):
        if (ends := group.summary().interval) is not None:
            left.plot([place, place], ends, color="tab:blue", linewidth=3, alpha=0.4)
        means = [scores.mean() for scores in group.scores()]
        left.plot([place] * len(means), means, "o", color="tab:blue", markersize=4)
        right.plot([place] * len(means), group.validation_losses, "o", color="tab:orange", markersize=4)
    losses = np.array([group.validation_losses.mean() for group in groups])
    if np.isnan(losses).all():
        right.text(0.5, 0.5, "no episodes were held out", ha="center", transform=right.transAxes)
    right.plot(places, losses, color="tab:orange", label="mean of the seeds")
    random = groups[0].random_scores.mean()
    left.axhline(random, color="gray", linestyle=":", label=f"random player ({random:.1f})")
    left.set(ylabel=f"score in {groups[0].game.name} (points)")
    right.set(ylabel="validation loss (nats)")
    for axes in (left, right):
        axes.set_xticks(places, [str(group.context_length) for group in groups])
        axes.set_xlabel("context length K (steps)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return to_png(figure)
