"""The report of a sweep: ``report.md`` and ``report.html``, made from the files of its runs alone."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from atari_dt.experiments.ablation import ablation_figure, ablation_rows
from atari_dt.experiments.benchmark import benchmark_figure, score_rows, table_1
from atari_dt.experiments.results import RunGroup, describe_datasets, group_labels, read_groups, recorded_here
from atari_dt.experiments.run import RunConfig, read_config
from atari_dt.experiments.sweep import COMMANDS, read_failure, run_sweep
from atari_dt.rendering.figures import to_png
from atari_dt.rendering.html import ReportDocument
from replay_data import InputError


@dataclass(frozen=True)
class SweepOptions:
    """Where the runs of a sweep are done."""

    jobs: int | None = None
    """Runs at once; by default as many as fill the cores with their threads, and one on a GPU; on a cluster all."""
    ray_address: str | None = None
    """Do the runs on a Ray cluster, such as 127.0.0.1:6379, whose nodes share the directories DATA and OUT."""
    retry_failed: bool = False
    """Try runs again that failed before."""


def sweep(runs: Mapping[str, RunConfig], out: Path, digests: Mapping[Path, str], options: SweepOptions) -> None:
    """Do all runs, write the report and print its tables.

    Args:
        runs: by name.
        out: directory of the sweep.
        digests: of each run's data.
        options: where they are done.

    Raises:
        InputError: if a run failed, naming each, after all others are done; or as `run_sweep` and `read_groups` say.
        OSError: if something cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call goes on.
    """
    read_groups(out, runs, digests)  # before hours of training
    command = shlex.join(["python", *sys.argv])
    failures = run_sweep(runs, out, **dataclasses.asdict(options), command=command)
    read_groups(out, runs, digests)
    print(write_report(out))
    print(f"report: {out / 'report.html'}")
    if failures:
        named = "; ".join(f"{name} ({reason})" for name, reason in failures.items())
        raise InputError(f"{len(failures)} of {len(runs)} runs failed: {named}; --retry-failed tries them again")


def write_report(out: Path) -> str:
    """Write ``report.md``, the same as one file ``report.html``, and the figures, of all runs in a sweep's directory.

    Returns:
        The tables as text, for a terminal.

    Raises:
        InputError: if there is no run, or one cannot be read.
        OSError: if the report cannot be written.
    """
    names = sorted((path.parent.name for path in out.glob("*/experiment.json")), key=_natural)
    runs = {name: read_config(out / name) for name in names}
    if not runs:
        raise InputError(f"{out} has no runs; give the --out of a sweep")
    groups = sorted(read_groups(out, runs), key=_order)
    report = ReportDocument()
    games = list(dict.fromkeys(group.game.name for group in groups))
    report.heading("Sweep" + (f": {', '.join(games)}" if games else ""), 1)
    failures = {name: reason for name in runs if (reason := read_failure(out / name)) is not None}
    finished = sum((out / name / "result.json").exists() for name in runs)
    unfinished = len(runs) - finished - len(failures)
    counts = f"{finished} of {len(runs)} runs are finished"
    counts += f", {len(failures)} failed" * bool(failures) + f", {unfinished} are not finished" * bool(unfinished)
    report.paragraph(f"{counts}.")
    if groups:
        _found(report, groups)
        report.heading("Learning curves")
        report.figure("curves", "Losses over updates", _curves(out, groups))
    _made(report, out, runs, groups, failures)
    report.write(out)
    return "\n\n".join(report.tables)


def _natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts K5 before K10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _order(group: RunGroup) -> tuple[Any, ...]:
    """DT before BC before %BC, ascending K, as the tables show them."""
    config = group.config
    conditioned = config.model.conditioning == "return"
    return group.game.name, not conditioned, -config.training.top_percent, config.model.context_length


def _found(report: ReportDocument, groups: Sequence[RunGroup]) -> None:
    """Tables and figures of what was found, each where there is something to compare."""
    members: dict[tuple[Any, str], list[RunGroup]] = {}
    for group in groups:
        members.setdefault((group.game, group.method), []).append(group)
    of_paper = [group for group in groups if group.game.paper]
    if len(members) > 1:
        report.heading("Benchmark")
        if of_paper and all(len(its) == 1 for its in members.values()):
            here = (
                "the others are NOT, but of the data below, and not comparable with them"
                if recorded_here(of_paper)
                else "data and settings below say how far the others compare with them"
            )
            report.table(
                table_1(of_paper),
                "Gamer-normalized scores in percent, mean ± standard deviation of the seeds' means, like table 1 of "
                "Chen et al. 2021. The published columns are of 500,000 steps of the DQN-replay dataset; "
                f"{here}.",
                main=True,
            )
        report.figure("benchmark", "Scores of each method", benchmark_figure(groups))
    for (game, method), its in members.items():
        if len({group.context_length for group in its}) == len(its) > 1:
            report.heading(f"Context length: {method} in {game.name}")
            report.table(
                ablation_rows(its),
                "Score in points under the last target return and validation loss in nats, mean ± standard deviation "
                "over the seeds; IQM: interquartile mean over all episodes.",
                main=True,
            )
            name = f"context-length-{game.name}-{method}".replace("%", "").replace(" ", "-")
            report.figure(name, "Score and validation loss over the context length", ablation_figure(its))
    report.heading("Scores")
    report.table(
        score_rows(groups),
        "In points: mean ± standard deviation of the seeds' means; IQM: interquartile mean over all episodes, with its "
        "95% interval. Normalized with the paper's random and gamer scores where it has the game, else with those of "
        "the usual 57 games.",
        main=len(members) > 1 or not report.tables,
    )
    report.heading("Data")
    report.bullets(describe_datasets(groups))


def _curves(out: Path, groups: Sequence[RunGroup]) -> bytes:
    """Draw the losses of all runs over their updates, training and, where episodes were held out, validation."""
    games = list(dict.fromkeys(group.game for group in groups))
    figure = Figure(figsize=(10, 3.5 * len(games)), layout="constrained")
    for (left, right), game in zip(figure.subplots(len(games), 2, squeeze=False), games, strict=True):
        of_game = [group for group in groups if group.game == game]
        for number, (group, label) in enumerate(zip(of_game, group_labels(of_game), strict=True)):
            for name, result in zip(group.names, group.results, strict=True):
                lines = _metrics(out / name)
                left.plot(
                    [line["update"] for line in lines], [line["loss"] for line in lines], color=f"C{number}", alpha=0.6
                )
                curve = result["curve"]
                places, losses = ([line[name] for line in curve] for name in ("update", "validation_loss"))
                right.plot(places, losses, "o-", color=f"C{number}", markersize=3)
            left.plot([], [], color=f"C{number}", label=label)
        left.set(ylabel="training loss (nats)", title=f"{game.name}, training")
        right.set(ylabel="validation loss (nats)", title=f"{game.name}, held-out episodes")
        if not any(len(line.get_xdata()) for line in right.lines):
            right.text(0.5, 0.5, "no episodes were held out", ha="center", transform=right.transAxes)
        left.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            axes.set_xlabel("update")
            axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def _metrics(directory: Path) -> list[dict[str, float]]:
    """The training losses in a run's ``metrics.jsonl``, where that is still there and whole."""
    path = directory / "training" / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{name: float(line[name]) for name in ("update", "loss")} for line in lines]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _made(
    report: ReportDocument,
    out: Path,
    runs: Mapping[str, RunConfig],
    groups: Sequence[RunGroup],
    failures: Mapping[str, str],
) -> None:
    """How it was made: runs, commands, settings, versions."""
    results = {name: result for group in groups for name, result in zip(group.names, group.results, strict=True)}
    rows = [["run", "state", "updates", "s/update", "evaluation steps/s", "hardware"]]
    for name in runs:
        if name in failures:
            rows.append([name, f"failed: {failures[name]}", "", "", "", ""])
        elif name not in results:
            twin = (out / name / "result.json").exists()
            rows.append([name, "finished, the same as another run" if twin else "not finished", "", "", "", ""])
        else:
            costs, lines = results[name]["costs"], _metrics(out / name)
            hardware = costs["hardware"]
            where = hardware["gpu"] or f"{hardware['cpu']}, {runs[name].threads} thread(s)"
            rows.append(
                [
                    *(name, "finished", f"{lines[-1]['update']:,.0f}" if lines else ""),
                    *(f"{costs['seconds_per_update']:.3g}", f"{costs['evaluation_steps_per_s']:.0f}"),
                    f"{where}, {costs['dtype']}",
                ]
            )
    report.heading("Runs")
    report.table(rows)
    report.heading("Commands")
    commands = out / COMMANDS
    report.code(
        commands.read_text(errors="replace").strip() if commands.exists() else "python -m atari_dt.experiments.run RUN"
    )
    report.heading("Settings")
    report.table(_settings(runs))
    versions = {", ".join(f"{k} {v}" for k, v in each["costs"]["versions"].items()) for each in results.values()}
    if versions:
        report.heading("Versions")
        report.bullets(sorted(versions))


def _settings(runs: Mapping[str, RunConfig]) -> list[list[str]]:
    """Every field of the runs' configs; where they differ, each value with the runs that have it."""
    rows = [["setting", "value", "runs"]]
    values: dict[str, dict[str, list[str]]] = {}
    for name, config in runs.items():
        for field, value in config.flat().items():
            values.setdefault(field, {}).setdefault(json.dumps(value), []).append(name)
    for field, by_value in values.items():
        for value, names in by_value.items():
            rows.append([field, value, "all" if len(by_value) == 1 else ", ".join(names)])
    for above, row in reversed(list(pairwise(rows))):
        if row[0] == above[0]:
            row[0] = ""
    return rows
