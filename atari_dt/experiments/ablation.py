"""The ablation of the context length: its runs, and what they have in common: updates, states or seconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.ablation_times import FILE_NAME as TIMES_FILE
from atari_dt.experiments.ablation_times import find_update_times
from atari_dt.experiments.run_config import RunConfig, schedule_for_max_updates
from replay_data import InputError, TrajectoryStore
from replay_data.json_fields import read_versioned_dataclass
from replay_data.storage.regular_files import read_json_as

Budget = Literal["updates", "states", "seconds"]

BUDGETS: tuple[Budget, ...] = get_args(Budget)
"""The budgets, in the order of tables and figures."""

FILE_NAME = "ablation.json"
"""File in a sweep's directory that lists the runs of each budget."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Ablation:
    """The content of ``ablation.json``.

    Attributes:
        context_length: Context length K of the reference, in steps. A run of this length has the same number of updates
            under each budget.
        max_updates: Number of updates of the reference; None for a number of epochs.
        runs: Names of the runs under each budget.
    """

    context_length: int
    max_updates: int | None
    runs: Mapping[Budget, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.runs) - set(BUDGETS):
            raise ValueError(f"there is no budget {min(unknown)[:80]!r}")
        if self.max_updates is None and set(self.runs) - {"updates"}:
            raise ValueError("max_updates is missing")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: Any) -> Ablation:
        """Read a JSON object that `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If the content is malformed.
        """
        return read_versioned_dataclass(content, cls, FORMAT_VERSION)

    def merge(self, other: Ablation) -> Ablation:
        """Return an ablation with the runs of both."""
        budgets = [budget for budget in BUDGETS if budget in self.runs or budget in other.runs]
        names = {budget: (*self.runs.get(budget, ()), *other.runs.get(budget, ())) for budget in budgets}
        return dataclasses.replace(self, runs={budget: tuple(dict.fromkeys(names[budget])) for budget in budgets})


def read_ablation(out: Path) -> Ablation | None:
    """Read the ``ablation.json`` of a sweep's directory; return None if there is none.

    Raises:
        InputError: If the file cannot be read.
    """
    if not (path := out / FILE_NAME).exists():
        return None
    return read_json_as(path, Ablation.from_json, "remove the file, and start the ablation again")


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


def plan_ablation(
    store: TrajectoryStore,
    base: RunConfig,
    context_lengths: Sequence[int],
    seeds: Sequence[int],
    budgets: Sequence[Budget],
    out: Path,
    show_progress: bool = True,
) -> tuple[dict[str, RunConfig], dict[str, str]]:
    """Return the runs of an ablation, and what to write beside them.

    With the budget ``updates``, all runs make as many updates as the reference. With ``states``, they see as many
    states, those in the padding of contexts included: a run of context length K makes max_updates · K_ref / K updates.
    With ``seconds``, they train for as long as the reference, by the times of updates on this machine, which are
    measured unless ``out`` has them. Runs that budgets share are done once.

    Args:
        store: Data of the runs.
        base: Settings that the runs share, with the context length and the number of updates of the reference.
        context_lengths: Context lengths K, in steps.
        seeds: Training seeds.
        budgets: What the runs have in common; each budget compares a run of every context length and seed.
        out: Directory of the sweep. It may contain an earlier part of it. Nothing is written.
        show_progress: Whether to show a progress bar while times are measured.

    Returns:
        Configs of the runs by name, and contents of files in ``out`` by name: ``ablation.json`` and, with the budget
        ``seconds``, ``update_times.json``.

    Raises:
        InputError: If there is no budget, one has no number of updates, or ``out`` is of another reference or lacks its
            times; or as in `ablation_runs` and `find_update_times`.
    """
    ablation_runs(base, context_lengths, seeds)  # checks the arguments before anything is measured
    assert isinstance(base.model, ModelConfig)
    reference_length, reference_updates = base.model.context_length, base.training.max_updates
    ablation = Ablation(reference_length, reference_updates)
    saved = read_ablation(out) or ablation
    if dataclasses.replace(saved, runs={}) != ablation:
        raise InputError(
            f"the runs in {out} have {_describe_reference(saved)} as their reference, not "
            f"{_describe_reference(ablation)}; use the same, or choose another `out`"
        )
    runs: dict[str, RunConfig] = {}
    names: dict[Budget, tuple[str, ...]] = {}
    files: dict[str, str] = {}
    for budget in BUDGETS:
        if budget not in budgets:
            continue
        updates = None
        if budget != "updates":
            if reference_updates is None:
                raise InputError(
                    f"`equal` {budget} needs `max_updates`, the number of updates of a run with K = {reference_length}"
                )
            if budget == "states":
                updates = {
                    length: equal_states(length, reference_length, reference_updates) for length in context_lengths
                }
            else:
                if "seconds" in saved.runs and not (out / TIMES_FILE).exists():
                    raise InputError(f"{out} lacks its {TIMES_FILE}; restore the file, or choose another `out`")
                times = find_update_times(store, base, context_lengths, out, show_progress)
                updates = {length: times.equal_updates(length, reference_updates) for length in context_lengths}
                files[TIMES_FILE] = _format_json(times.to_json())
        of_budget = ablation_runs(base, context_lengths, seeds, updates)
        names[budget] = tuple(of_budget)
        runs |= of_budget
    if not runs:
        raise InputError(f"`equal` must name at least one of {', '.join(BUDGETS)}")
    files[FILE_NAME] = _format_json(saved.merge(dataclasses.replace(ablation, runs=names)).to_json())
    return runs, files


def equal_states(context_length: int, reference_length: int, reference_updates: int) -> int:
    """Return the number of updates that see as many states as a number of updates of the reference; at least 1."""
    return max(1, round(reference_updates * reference_length / context_length))


def _describe_reference(ablation: Ablation) -> str:
    updates = "" if ablation.max_updates is None else f" and {ablation.max_updates:,} updates"
    return f"K = {ablation.context_length}{updates}"


def _format_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
