"""The ablation of the context length: its runs, table and figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from atari_dt.config import ModelConfig
from atari_dt.experiments.results import RunGroup, format_interval, format_number, format_score, normalized_summary
from atari_dt.experiments.run_config import RunConfig, schedule_for_max_updates
from atari_dt.rendering.figures import to_png
from replay_data import InputError


def ablation_runs(base: RunConfig, context_lengths: Sequence[int], seeds: Sequence[int]) -> dict[str, RunConfig]:
    """Return a run for every context length and seed, by name.

    With `TrainingConfig.max_updates`, all runs make the same number of updates (see `schedule_for_max_updates`), and
    warm up for as many updates as ``base``. Otherwise the schedule is that of ``base``.

    Args:
        base: Settings that the runs share.
        context_lengths: Context lengths K, in steps.
        seeds: Training seeds; the evaluation seed is the same in all runs.

    Raises:
        InputError: If there is no context length or no seed, one is out of range, or the method has no context length.
    """
    if not isinstance(base.model, ModelConfig):
        raise InputError(f"{base.model.title} has no context length to ablate; set `method` to dt or bc")
    if not context_lengths or not seeds:
        raise InputError("an ablation needs at least one context length and one seed")
    runs = {}
    for length in context_lengths:
        model = dataclasses.replace(base.model, context_length=length)
        training = schedule_for_max_updates(base.training, length)
        if training.max_updates is not None and training.schedule == "cosine":
            warmup = max(1, training.warmup_tokens * length // base.model.context_length)
            training = dataclasses.replace(training, warmup_tokens=warmup)
        for seed in seeds:
            config = dataclasses.replace(base, model=model, training=dataclasses.replace(training, seed=seed))
            runs[f"K{length}-seed{seed}"] = config
    return runs


def ablation_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Return a table of groups that differ only in their context length, with a header and a row for each group.

    Scores are in points under the last target return: mean ± standard deviation of the seeds' means, interquartile mean
    over all episodes with its 95% interval, and the gamer-normalized mean. Losses are in nats, mean ± standard
    deviation over the seeds.
    """
    rows = [["K", "seeds", "score", "IQM", "95% interval", "normalized %", "validation loss", "s/update", "steps/s"]]
    for group in sorted(groups, key=lambda group: group.order):
        summary, losses = group.summary(), group.validation_losses
        loss = "" if np.isnan(losses).any() else f"{losses.mean():.3f}"
        if loss and len(losses) > 1:
            loss += f" ± {losses.std():.3f}"
        normalized = normalized_summary(group.game, summary)
        rows.append(
            [
                f"{group.context_length}",
                f"{summary.seeds}",
                format_score(summary),
                format_number(summary.interquartile_mean),
                format_interval(summary),
                "" if normalized is None else format_number(normalized.mean),
                loss,
                f"{group.seconds_per_update:.3g}",
                f"{group.evaluation_steps_per_s:.0f}",
            ]
        )
    return rows


def ablation_figure(groups: Sequence[RunGroup]) -> bytes:
    """Draw score and validation loss over the context length, for groups that differ only in it.

    A point is a seed. The line of the scores is their interquartile mean, with its 95% interval.

    Returns:
        Content of a PNG file.
    """
    groups = sorted(groups, key=lambda group: group.order)
    positions = np.arange(len(groups))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    means = np.array([group.summary().interquartile_mean for group in groups])
    left.plot(positions, means, color="tab:blue", label="interquartile mean, 95% interval")
    for position, group in zip(positions, groups, strict=True):
        if (interval := group.summary().interval) is not None:
            left.plot([position, position], interval, color="tab:blue", linewidth=3, alpha=0.4)
        seed_means = [scores.mean() for scores in group.scores()]
        left.plot([position] * len(seed_means), seed_means, "o", color="tab:blue", markersize=4)
        losses = group.validation_losses
        right.plot([position] * len(losses), losses, "o", color="tab:orange", markersize=4)
    mean_losses = np.array([group.validation_losses.mean() for group in groups])
    if np.isnan(mean_losses).all():
        right.text(0.5, 0.5, "no episodes were held out", ha="center", transform=right.transAxes)
    right.plot(positions, mean_losses, color="tab:orange", label="mean over the seeds")
    random_score = groups[0].random_scores.mean()
    left.axhline(random_score, color="gray", linestyle=":", label=f"random policy ({random_score:.1f})")
    left.set(ylabel=f"score in {groups[0].game.name} (points)")
    right.set(ylabel="validation loss (nats)")
    for axes in (left, right):
        axes.set_xticks(positions, [str(group.context_length) for group in groups])
        axes.set_xlabel("context length K (steps)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=8)
    return to_png(figure)
