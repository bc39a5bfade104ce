"""The report of a sweep: ``report.md`` and ``report.html``, made only of the files of its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from atari_dt.experiments.ablation_report import add_ablation
from atari_dt.experiments.benchmark import benchmark_figure, explain_target_columns, has_costs, score_rows, table_1
from atari_dt.experiments.benchmark_preset import describe_evaluation_deviations
from atari_dt.experiments.curves import has_score_curves, loss_figure, read_run_metrics, score_figure
from atari_dt.experiments.method_comparison import add_comparison
from atari_dt.experiments.published_table import describe_publications, explain_published, published_rows
from atari_dt.experiments.results import (
    RunGroup,
    any_outside_dqn_replay,
    describe_datasets,
    describe_time_limits,
    name_data,
    read_groups,
)
from atari_dt.experiments.run_config import RunConfig, read_run_config
from atari_dt.experiments.run_result import RunFailure, read_failure
from atari_dt.games.catalogue import Game
from atari_dt.games.presets import describe_deviations
from atari_dt.rendering.html import ReportDocument
from replay_data import InputError
from replay_data.storage.regular_files import MAX_JSON_BYTES, read_regular_file

COMMANDS_FILE = "commands.txt"
"""File in a sweep's directory with the commands that did its runs, one per line."""


def write_report(out: Path) -> str:
    """Write the report of all runs in a sweep's directory.

    Writes ``report.md`` with its figures in ``figures/``, and the same report as a single file ``report.html``.

    Returns:
        Main tables as text, for a terminal.

    Raises:
        InputError: As `make_report` does.
        OSError: If the report cannot be written.
    """
    report = make_report(out)
    report.write(out)
    return "\n\n".join(report.tables)


def make_report(out: Path) -> ReportDocument:
    """Return the report of all runs in a sweep's directory; its figures are drawn from the same files later.

    Raises:
        InputError: If the directory has no runs, or a file of a run cannot be read.
    """
    names = sorted((path.parent.name for path in out.glob("*/experiment.json")), key=_natural_key)
    runs = {name: read_run_config(out / name) for name in names}
    if not runs:
        raise InputError(f"{out} has no runs; choose the directory of a sweep")
    groups = sorted(read_groups(out, runs), key=_group_key)
    failures = {name: failure for name in runs if (failure := read_failure(out / name)) is not None}
    report = ReportDocument()
    games = list(dict.fromkeys(group.game.name for group in groups))
    report.heading("Sweep" + (f": {', '.join(games)}" if games else ""), 1)
    finished = sum((out / name / "result.json").exists() for name in runs)
    unfinished = len(runs) - finished - len(failures)
    counts = f"{finished} of {len(runs)} runs finished"
    counts += f", {len(failures)} failed" * bool(failures) + f", {unfinished} not finished" * bool(unfinished)
    report.paragraph(f"{counts}.")
    if groups:
        _add_comparisons(report, out, groups)
        _add_scores(report, groups)
        _add_published(report, groups)
        report.heading("Data")
        report.bullets(describe_datasets(groups))
        _add_curves(report, out, groups)
    _add_runs(report, out, runs, groups, failures)
    _add_settings(report, out, runs, groups)
    return report


def _natural_key(name: str) -> list[tuple[str, int]]:
    """Return a key that sorts K5 before K10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _group_key(group: RunGroup) -> tuple[Any, ...]:
    """Return a key that sorts groups by game, and then by method."""
    return group.game.name, *group.order


def _groups_by_method(groups: Sequence[RunGroup]) -> dict[tuple[Game, str], list[RunGroup]]:
    by_method: dict[tuple[Game, str], list[RunGroup]] = {}
    for group in groups:
        by_method.setdefault((group.game, group.method), []).append(group)
    return by_method


def _add_comparisons(report: ReportDocument, out: Path, groups: Sequence[RunGroup]) -> None:
    """Add the tables and figures that compare methods and context lengths, where there is more than one of them."""
    by_method = _groups_by_method(groups)
    paper_groups = [group for group in groups if group.game.paper]
    if len(by_method) > 1:
        report.heading("Benchmark")
        if paper_groups and all(len(members) == 1 for members in by_method.values()):
            if any_outside_dqn_replay(paper_groups):
                note = (
                    "The other columns were obtained with the data listed below and are NOT comparable with the "
                    "published ones."
                )
            else:
                note = "The sections on data and settings show how far the other columns are comparable with them."
            report.table(
                table_1(paper_groups),
                "Gamer-normalized scores of the last checkpoints in percent, mean ± standard deviation of the seeds' "
                "means, as in table 1 of Chen et al. 2021. The table of scores below has the numbers of updates. The "
                "published scores were obtained with 500,000 steps of the DQN-replay dataset. "
                f"{note}{describe_time_limits(paper_groups)} {explain_target_columns(paper_groups)} "
                f"{name_data(paper_groups)}",
                main=True,
            )
        report.figure("benchmark", "Scores of each method", partial(benchmark_figure, groups))
        report.paragraph(
            "Points are the mean scores of the seeds. Dashes are interquartile means over all episodes, and bars their "
            f"95% intervals. {name_data(groups)}"
        )
        add_comparison(report, groups)
    for members in by_method.values():
        add_ablation(report, out, members)


def _add_scores(report: ReportDocument, groups: Sequence[RunGroup]) -> None:
    report.heading("Scores")
    best_note = ""
    if has_score_curves(groups):
        best_note = (
            " Best score: largest mean of the seeds among the evaluated checkpoints, picked by these same scores; it "
            "favors methods of which more checkpoints were evaluated."
        )
    cost_note = ""
    if has_costs(groups):
        cost_note = (
            " Minutes of training: wall-clock time of all updates of a run, without validation and evaluation; it "
            "depends on the hardware and on what else ran on it. TFLOP of training: 10^12 floating-point operations of "
            "the forward and backward passes of all updates of a run. Both are means over the seeds; empty cells are "
            "unknown."
        )
    report.table(
        score_rows(groups),
        f"{_explain_methods(groups)} Target return: in parentheses as a multiple of the dataset's largest return, or "
        "as a percentile of its episode returns. Score: in points, mean ± standard deviation of the seeds' means. IQM: "
        "interquartile mean over all episodes, with its 95% interval. Normalized %: mean score in percent of the way "
        "from a random policy to a human player, with the paper's random and gamer scores where it has the game, and "
        "otherwise with those of the table of 57 games. Updates: updates of the last checkpoint, which has this score."
        f"{best_note}{cost_note}{describe_time_limits(groups)} {name_data(groups)}",
        main=len(_groups_by_method(groups)) > 1 or not report.tables,
    )


def _explain_methods(groups: Sequence[RunGroup]) -> str:
    """Return what the labels of the methods stand for."""
    configs = {group.config.model.label: group.config.model for group in groups}
    sentences = [f"{label}: {config.title.removesuffix(f' ({label})')}." for label, config in configs.items()]
    for group in groups:
        percent = group.config.training.top_percent
        if (name := f"{percent:g}%BC") in group.method:
            sentences.append(f"{name}: behavior cloning of the best episodes that make up {percent:g}% of the steps.")
    observed = {group.config.model.observation for group in groups}
    if "ram" in observed:
        sentences.append("On RAM: the model observes the 128 bytes of the emulator's RAM instead of frames.")
    if "variables" in observed:
        sentences.append("On variables: the model observes named bytes of the emulator's RAM instead of frames.")
    return " ".join(dict.fromkeys(sentences))


def _add_published(report: ReportDocument, groups: Sequence[RunGroup]) -> None:
    """Add the table of final and best scores beside published ones, where there are any of the same methods."""
    rows = published_rows(groups)
    if len(rows) > 1:
        report.heading("Final and best scores beside published ones")
        report.table(rows, explain_published(groups))
        report.bullets(describe_publications(groups))


def _add_curves(report: ReportDocument, out: Path, groups: Sequence[RunGroup]) -> None:
    """Add the figures of scores and losses over updates."""
    report.heading("Learning curves")
    if has_score_curves(groups):
        report.figure("scores", "Scores over updates", partial(score_figure, groups))
        report.paragraph(
            "Points are the mean scores of the seeds, lines their means. The same seeds of the emulator were played "
            f"with each evaluated checkpoint.{describe_time_limits(groups)} {name_data(groups)}"
        )
    report.figure("curves", "Training and validation loss over updates", partial(loss_figure, out, groups))
    losses = dict.fromkeys(group.config.model.loss_name for group in groups)
    note = ""
    if len(losses) > 1:
        note = (
            f"Losses of different kinds are not comparable: {', '.join(losses)}. TD losses are drawn without CQL's "
            "conservative term. "
        )
    report.paragraph(note + name_data(groups))


def _add_runs(
    report: ReportDocument,
    out: Path,
    runs: Mapping[str, RunConfig],
    groups: Sequence[RunGroup],
    failures: Mapping[str, RunFailure],
) -> None:
    """Add the table of runs: state, updates, speed and hardware."""
    costs = {name: costs for group in groups for name, costs in zip(group.names, group.costs, strict=True)}
    rows = [["run", "state", "updates", "s/update", "evaluation steps/s", "hardware"]]
    for name, config in runs.items():
        if name in failures:
            rows.append([name, f"failed: {failures[name].reason}", "", "", "", ""])
        elif name not in costs:
            duplicate = (out / name / "result.json").exists()
            rows.append([name, "finished, the same as another run" if duplicate else "not finished", "", "", "", ""])
        else:
            metrics = read_run_metrics(out / name)
            hardware = costs[name].hardware
            threads = f"{config.threads} thread{'s' * (config.threads > 1)}"
            device = hardware.gpu or f"{hardware.cpu}, {threads}"
            rows.append(
                [
                    *(name, "finished", f"{metrics[-1].update:,}" if metrics else ""),
                    *(f"{costs[name].seconds_per_update:.3g}", f"{costs[name].evaluation_steps_per_s:.0f}"),
                    f"{device}, {costs[name].dtype}",
                ]
            )
    report.heading("Runs")
    report.table(rows)


def _add_settings(report: ReportDocument, out: Path, runs: Mapping[str, RunConfig], groups: Sequence[RunGroup]) -> None:
    """Add what reproduces the runs: commands, settings and versions."""
    report.heading("Commands")
    commands = out / COMMANDS_FILE
    report.code(
        read_regular_file(commands, MAX_JSON_BYTES).decode(errors="replace").strip()
        if commands.exists()
        else "python -m atari_dt.experiments.run RUN"
    )
    report.heading("Settings")
    report.table(_settings_rows(runs))
    if groups:
        report.paragraph("Settings of the finished runs that differ from the paper's:")
        report.bullets(_describe_deviations(groups))
    versions = {
        ", ".join(f"{name} {version}" for name, version in costs.versions.items())
        for group in groups
        for costs in group.costs
    }
    if versions:
        report.heading("Versions")
        report.bullets(sorted(versions))


def _describe_deviations(groups: Sequence[RunGroup]) -> list[str]:
    """Return the settings that differ from the paper's, for each game, and for each of its methods if they differ."""
    methods: dict[str, dict[str, dict[str, None]]] = {}
    for group in groups:
        game, config = group.game, group.config
        deviations = [
            describe_deviations(game.name, config.model, config.training),
            describe_evaluation_deviations(game, config.evaluation, config.model.conditioned),
        ]
        described = ", ".join(filter(None, deviations)) or "none"
        methods.setdefault(game.name, {}).setdefault(described, {})[group.method] = None
    return [
        f"{', '.join([name, *labels] if len(by_settings) > 1 else [name])}: {described}"
        for name, by_settings in methods.items()
        for described, labels in by_settings.items()
    ]


def _settings_rows(runs: Mapping[str, RunConfig]) -> list[list[str]]:
    """Return a table of every setting; where the runs differ, with a row for each value and the runs that have it."""
    rows = [["setting", "value", "runs"]]
    names_by_value: dict[str, dict[str, list[str]]] = {}
    for name, config in runs.items():
        for setting, value in config.flat().items():
            names_by_value.setdefault(setting, {}).setdefault(json.dumps(value), []).append(name)
    for setting, by_value in names_by_value.items():
        for value, names in by_value.items():
            rows.append([setting, value, _name_runs(names, runs)])
    for previous, row in reversed(list(pairwise(rows))):
        if row[0] == previous[0]:
            row[0] = ""
    return rows


def _name_runs(names: Sequence[str], runs: Mapping[str, RunConfig]) -> str:
    """Return the names of runs, or what they have in common: "all", or "all" with the labels of their methods."""
    if len(names) == len(runs):
        return "all"
    labels = dict.fromkeys(runs[name].model.label for name in names)
    if len(names) == sum(config.model.label in labels for config in runs.values()):
        return f"all {', '.join(labels)}"
    return ", ".join(names)
