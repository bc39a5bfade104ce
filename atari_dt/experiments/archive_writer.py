"""Write the archive of a sweep, or of several sweeps together."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from atari_dt.experiments.ablation import read_ablation
from atari_dt.experiments.ablation_times import read_update_times
from atari_dt.experiments.archive import MAX_METRICS_LINES, ArchivedRun, SweepArchive, read_archive
from atari_dt.experiments.curves import read_run_metrics
from atari_dt.experiments.report import COMMANDS_FILE
from atari_dt.experiments.run_config import read_run_config
from atari_dt.experiments.run_result import read_costs, read_failure, read_result
from atari_dt.rendering.study_file import strip_paths
from atari_dt.training.metrics import MetricsLine
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.regular_files import MAX_JSON_BYTES, read_regular_file

_METRICS_DIGITS = 4  # significant ones; a figure is less than 1,000 pixels wide
_LAST_METRICS = ("update", "tokens", "learning_rate", "seconds")  # all others are means
_LEFT_OUT_METRICS = ("validation_loss", "validation_accuracy")  # the result has them


def write_archive(sweeps: Sequence[Path], path: Path) -> None:
    """Write the archive of a sweep, or of several; the same files give the same bytes.

    Args:
        sweeps: Directories of the sweeps, or their archives, which are files that end in ``.json``. If runs of several
            sweeps have the same name, such as those of one command with different settings, all runs get the name of
            their sweep in front of their own.
        path: Path of the archive; its parents are created, and an older archive is replaced.

    Raises:
        InputError: If a directory has no runs, a file of a run or an archive cannot be read, ``path`` does not end in
            ``.json``, or the sweeps cannot be merged.
        OSError: If the archive cannot be written.
    """
    if path.suffix != ".json":
        raise InputError(f"`archive` must end in .json, as in docs/data/sweep.json, not be {path}")
    named_archives = [_read_named_archive(sweep) for sweep in sweeps]
    archive = named_archives[0][1] if len(named_archives) == 1 else _merge(named_archives)
    _check_data_names(archive.runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, _format_json(_strip_content(archive.to_json())))


def is_archive(sweep: Path) -> bool:
    """Return whether a path is that of a sweep's archive, and not of its directory."""
    return sweep.suffix == ".json" and not sweep.is_dir()


def _read_named_archive(sweep: Path) -> tuple[str, SweepArchive]:
    """Return the name and the content of a sweep's directory or archive."""
    if is_archive(sweep):
        return sweep.stem, read_archive(sweep)
    return sweep.resolve().name, read_sweep(sweep)


def _merge(named_archives: Sequence[tuple[str, SweepArchive]]) -> SweepArchive:
    """Return one archive with the runs and commands of several, which come with the names of their sweeps."""
    for name, archive in named_archives:
        if archive.ablation is not None:
            raise InputError(f"{name} is an ablation at equal budgets, whose tables are its own; archive it apart")
    repeated = max(Counter(run.name for _, archive in named_archives for run in archive.runs).values()) > 1
    runs = [
        dataclasses.replace(run, name=f"{name}-{run.name}" if repeated else run.name)
        for name, archive in named_archives
        for run in archive.runs
    ]
    return SweepArchive(tuple(runs), tuple(command for _, archive in named_archives for command in archive.commands))


def _check_data_names(runs: Sequence[ArchivedRun]) -> None:
    """Check that no two datasets of an archive have the same name."""
    digests: dict[str, tuple[str, Path]] = {}
    for run in runs:
        if run.result is not None:
            name, data, digest = strip_paths(str(run.config.data)), run.config.data, run.result.data_digest
            known, other = digests.setdefault(name, (digest, data))
            if known != digest:
                raise InputError(
                    f"the data of {run.name}, {data}, would have the same name as {other}, which other runs use; "
                    "archive these runs apart"
                )


def read_sweep(out: Path) -> SweepArchive:
    """Return the archive of a sweep, with the paths and commands as they are.

    Raises:
        InputError: If the directory has no runs, or a file of a run cannot be read.
    """
    names = sorted(path.parent.name for path in out.glob("*/experiment.json"))
    if not names:
        raise InputError(f"{out} has no runs; choose the directory of a sweep")
    runs = tuple(_read_run(out / name) for name in names)
    commands = out / COMMANDS_FILE
    text = read_regular_file(commands, MAX_JSON_BYTES).decode(errors="replace") if commands.exists() else ""
    return SweepArchive(runs, tuple(text.splitlines()), read_ablation(out), read_update_times(out))


def _read_run(directory: Path) -> ArchivedRun:
    config, lines = read_run_config(directory), read_run_metrics(directory)
    if not (directory / "result.json").exists():
        return ArchivedRun(directory.name, config, failure=read_failure(directory), metrics=thin_metrics(lines))
    result, costs = read_result(directory), read_costs(directory)
    if costs.training_seconds is None and lines:  # older costs lack what the metrics say
        costs = dataclasses.replace(costs, training_seconds=lines[-1].seconds)
    return ArchivedRun(directory.name, config, result, costs, metrics=thin_metrics(lines))


def thin_metrics(lines: Sequence[MetricsLine]) -> tuple[MetricsLine, ...]:
    """Return metrics in at most `MAX_METRICS_LINES` lines, each with the means of successive lines.

    A value is the mean over the updates since the line before, as in `MetricsLine`; update, tokens, learning rate and
    seconds are those of the last update. Floats are rounded to four digits. The losses and accuracies of validations
    are left out.
    """
    num_lines = min(MAX_METRICS_LINES, len(lines))
    bounds = [index * len(lines) // num_lines for index in range(num_lines + 1)] if lines else []
    previous, thinned = 0, []
    for start, stop in pairwise(bounds):
        merged, weights = lines[start:stop], []
        for line in merged:
            weights.append(max(1, line.update - previous))
            previous = line.update
        values: dict[str, Any] = {}
        for field in dataclasses.fields(MetricsLine):
            items = [getattr(line, field.name) for line in merged]
            if field.name in _LAST_METRICS:
                values[field.name] = items[-1]
            elif field.name not in _LEFT_OUT_METRICS and None not in items:
                total = sum(item * weight for item, weight in zip(items, weights, strict=True))
                values[field.name] = total / sum(weights)
        thinned.append(MetricsLine(**{name: _round(value) for name, value in values.items()}))
    return tuple(thinned)


def _round(value: Any) -> Any:
    """Return a value with fewer digits if it is a float."""
    return float(f"{value:.{_METRICS_DIGITS}g}") if isinstance(value, float) else value


def _strip_content(content: Any) -> Any:
    """Return JSON content without absolute paths, and with floats that are integers as integers, which are shorter."""
    if isinstance(content, Mapping):
        return {name: _strip_content(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strip_content(value) for value in content]
    if isinstance(content, float) and content.is_integer() and abs(content) < 2**53:
        return int(content)
    return strip_paths(content) if isinstance(content, str) else content


def _format_json(content: Mapping[str, Any]) -> str:
    """Return a JSON object with a line for each field, and for each item of its lists, for readable differences."""

    def format_value(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    fields = [
        f"{format_value(name)}:"
        + ("[\n" + ",\n".join(map(format_value, value)) + "\n]" if isinstance(value, list) else format_value(value))
        for name, value in content.items()
    ]
    return "{\n" + ",\n".join(fields) + "\n}\n"
