"""The ablation of the context length: its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.run_config import RunConfig, schedule_for_max_updates
from replay_data import InputError


def ablation_runs(
    base: RunConfig, context_lengths: Sequence[int], seeds: Sequence[int], updates: Mapping[int, int] | None = None
) -> dict[str, RunConfig]:
    """Return a run for every context length and seed, by name.

    With `TrainingConfig.max_updates`, the learning rate of each run ends its cosine at the run's last update (see
    `schedule_for_max_updates`) and warms up over the same fraction of the run as in ``base``. Otherwise the schedule is
    that of ``base``. Runs with another number of updates than ``base`` have it in their names, and as many checkpoints
    and lines of metrics.

    Args:
        base: Settings that the runs share, with the context length of the reference.
        context_lengths: Context lengths K, in steps.
        seeds: Training seeds; the evaluation seed is the same in all runs.
        updates: Number of updates of the runs of each context length, if ``base`` limits them; by default as many as
            in ``base``.

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
        training, name = base.training, f"K{length}"
        if training.max_updates is not None:
            num_updates = training.max_updates if updates is None else updates[length]
            name += f"-updates{num_updates}" * (num_updates != training.max_updates)
            training = _train_for(training, base.model.context_length, length, num_updates)
        for seed in seeds:
            config = dataclasses.replace(base, model=model, training=dataclasses.replace(training, seed=seed))
            runs[f"{name}-seed{seed}"] = config
    return runs


def _train_for(training: TrainingConfig, reference_length: int, length: int, num_updates: int) -> TrainingConfig:
    """Return the training of a run of another length, with its schedule and its intervals in proportion.

    Args:
        training: Config of the reference, with `max_updates`.
        reference_length: Context length of the reference, in steps.
        length: Context length of the run, in steps.
        num_updates: Number of updates of the run.
    """
    reference_updates = training.max_updates
    assert reference_updates is not None
    training = schedule_for_max_updates(dataclasses.replace(training, max_updates=num_updates), length)
    if training.schedule == "cosine":
        tokens, reference_tokens = num_updates * length, reference_updates * reference_length
        warmup = max(1, training.warmup_tokens * tokens // reference_tokens)
        training = dataclasses.replace(training, warmup_tokens=warmup)
    # Rounded up, so that the last update does not follow another checkpoint at once.
    intervals = {name: getattr(training, name) for name in ("checkpoint_every", "log_every")}
    scaled = {name: -(-interval * num_updates // reference_updates) for name, interval in intervals.items()}
    return dataclasses.replace(training, **scaled)
