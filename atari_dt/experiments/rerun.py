"""Do a run of an archived sweep again, and compare its result with the archived one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atari_dt.evaluation.results import format_origin
from atari_dt.experiments.archive import ArchivedRun
from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import RunCosts, RunResult, TargetResult, read_costs, read_result
from atari_dt.experiments.sweep import run_sweep
from replay_data import InputError, TrajectoryStore


@dataclass(frozen=True)
class Comparison:
    """A part of a result, in the archive and in the rerun.

    Attributes:
        name: What is compared, such as ``"score, update 2000, target return 21 (1×)"``.
        archived: Value in the archive, for a table.
        rerun: Value of the rerun, for a table; empty if it has none.
        same: Whether all numbers are equal, those of each episode included.
    """

    name: str
    archived: str
    rerun: str
    same: bool


def rerun(run: ArchivedRun, data: Path, out: Path, show_progress: bool = True) -> tuple[RunResult, RunCosts]:
    """Do an archived run again, with the same config, number of threads and type of the forward pass.

    Args:
        run: The archived run.
        data: Path of its trajectory store on this machine.
        out: Directory for the run's directory. An interrupted rerun in it is continued, a finished one is read.
        show_progress: Whether to show the updates made on standard error.

    Returns:
        Result and costs of the rerun.

    Raises:
        InputError: If the archived run is not finished, ``data`` is another store, or the rerun fails.
        OSError: If a file cannot be written.
        KeyboardInterrupt: On Ctrl-C; another call continues.
    """
    if run.result is None or run.costs is None:
        raise InputError(f"{run.name} is not finished in the archive, so it has no result to compare with")
    digest = TrajectoryStore.open(data).digest
    if digest != run.result.data_digest:
        raise InputError(
            f"{data} is not the data of {run.name}: its SHA-256 is {digest}, not {run.result.data_digest}; build the "
            "store with the command that made the archived one"
        )
    config = _config_of_rerun(run.result.config, run.costs, data)
    failures = run_sweep({run.name: config}, out, jobs=1, retry_failed=True, show_progress=show_progress)
    if failures:
        raise InputError(f"the rerun of {run.name} failed: {failures[run.name]}")
    return read_result(out / run.name), read_costs(out / run.name)


def _config_of_rerun(config: RunConfig, costs: RunCosts, data: Path) -> RunConfig:
    """Return the config of a run with the arithmetic that it had, which otherwise depends on the machine."""
    device = "cpu" if costs.hardware.gpu is None else config.training.device
    precision: Literal["bf16", "fp32"] = "bf16" if costs.dtype == "bfloat16" else "fp32"
    training = dataclasses.replace(config.training, device=device, precision=precision)
    return dataclasses.replace(config, data=data, training=training)


def compare_results(archived: RunResult, again: RunResult) -> list[Comparison]:
    """Compare the validation losses and the scores of two results of the same config.

    Older results have no evaluations of earlier checkpoints; only what the archive has is compared.
    """
    comparisons = []
    losses = {point.update: point.validation_loss for point in again.curve}
    for point in archived.curve:
        loss = losses.get(point.update)
        shown, same = "" if loss is None else repr(loss), loss == point.validation_loss
        name = f"validation loss, update {point.update}"
        comparisons.append(Comparison(name, repr(point.validation_loss), shown, same))
    evaluations = {checkpoint.update: checkpoint.targets for checkpoint in again.earlier}
    for checkpoint in archived.earlier:
        comparisons += _compare_targets(checkpoint.update, checkpoint.targets, evaluations.get(checkpoint.update, ()))
    comparisons += _compare_targets(archived.updates, archived.targets, again.targets)
    comparisons.append(_compare_scores("score, random policy", archived.random_scores, again.random_scores))
    return comparisons


def _compare_targets(
    update: int | None, archived: Sequence[TargetResult], again: Sequence[TargetResult]
) -> list[Comparison]:
    """Compare the episodes of a checkpoint under each target return."""
    comparisons = []
    for index, target in enumerate(archived):
        other = again[index] if index < len(again) else None
        name = "score" + ("" if update is None else f", update {update}")
        if target.target_return is not None:
            origin = format_origin(target.return_multiple, target.return_percentile)
            name += f", target return {target.target_return:g}{origin}"
        comparison = _compare_scores(name, target.scores, () if other is None else other.scores)
        comparisons.append(dataclasses.replace(comparison, same=target == other))
    return comparisons


def _compare_scores(name: str, archived: Sequence[float], again: Sequence[float]) -> Comparison:
    return Comparison(name, _format_mean(archived), _format_mean(again), list(archived) == list(again))


def _format_mean(scores: Sequence[float]) -> str:
    return f"{sum(scores) / len(scores):.2f}" if scores else ""


def comparison_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return a table of comparisons, with a header."""
    return [
        ["", "archive", "rerun", ""],
        *([each.name, each.archived, each.rerun, "" if each.same else "differs"] for each in comparisons),
    ]


def explain_differences(archived: RunCosts, again: RunCosts) -> str:
    """Return a clause about why a rerun may differ from the archive: the machine, the packages, or neither."""
    differences = [
        f"{name} {before} then and {after} now"
        for name, before, after in (
            ("CPU", archived.hardware.cpu, again.hardware.cpu),
            ("GPU", archived.hardware.gpu or "none", again.hardware.gpu or "none"),
            *((name, version, again.versions.get(name, "none")) for name, version in archived.versions.items()),
        )
        if before != after
    ]
    if not differences:
        return "hardware and versions have the same names, so another kind of core or changed code is the reason"
    return (
        f"the runs differ in {', '.join(differences)}: on another kind of CPU or with other versions, sums are rounded "
        "differently, and from the last digits on, losses, actions and scores may differ"
    )
