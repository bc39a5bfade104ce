"""The archive of a sweep: everything that its report needs, in one small JSON file.

The directory of a sweep holds checkpoints and logs, which are too large for a repository. Its archive holds the
commands, and the config, result, costs, failure and training metrics of each run. Scores and validation losses are
exact, metrics have at most `MAX_METRICS_LINES` lines per run, and absolute paths are shortened.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atari_dt.experiments.ablation import FILE_NAME as ABLATION_FILE
from atari_dt.experiments.ablation import Ablation
from atari_dt.experiments.ablation_times import FILE_NAME as TIMES_FILE
from atari_dt.experiments.ablation_times import UpdateTimes
from atari_dt.experiments.report import COMMANDS_FILE, make_report
from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import RunCosts, RunFailure, RunResult
from atari_dt.rendering.study_file import check_type
from atari_dt.training.metrics import FILE_NAME as METRICS_FILE
from atari_dt.training.metrics import MetricsLine
from replay_data import InputError
from replay_data.json_fields import omit_none, read_field, read_format_version, read_list, read_object
from replay_data.storage.regular_files import MAX_JSON_BYTES, read_json_as

TYPE = "sweep"
"""Value of the field ``type`` of an archive."""

FORMAT_VERSION = 1

MAX_METRICS_LINES = 40
"""Largest number of lines of training metrics of a run: a figure shows no more."""

_DATA_FIELDS = ("data_digest", "dataset", "data_source")  # of a result: equal in most runs of a sweep
_OTHER_FILES = (COMMANDS_FILE, ABLATION_FILE, TIMES_FILE)


@dataclass(frozen=True)
class ArchivedRun:
    """A run of a sweep.

    Attributes:
        name: Name of the run's directory.
        config: Config of the run.
        result: Result of the run; None if it is not finished.
        costs: Costs of the run; None if it is not finished.
        failure: Why the run failed; None if it has not failed.
        metrics: Metrics of the training, as `thin_metrics` returns them.
    """

    name: str
    config: RunConfig
    result: RunResult | None = None
    costs: RunCosts | None = None
    failure: RunFailure | None = None
    metrics: tuple[MetricsLine, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w%+=@-][\w%+=@. -]{0,99}", self.name, re.ASCII) or self.name in _OTHER_FILES:
            raise InputError(f"a run cannot have the name {self.name[:100]!r}; rename its directory")
        if (self.result is None) != (self.costs is None):
            raise InputError(f"{self.name} has {'costs' if self.result is None else 'a result'} only; run it again")
        if (num_lines := len(self.metrics)) > MAX_METRICS_LINES:
            raise InputError(f"{self.name} has {num_lines} lines of metrics, not at most {MAX_METRICS_LINES}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        result = None if self.result is None else self.result.to_json()
        if result is not None and self.result is not None and self.result.config == self.config:
            del result["config"]
        content = {
            "name": self.name,
            "config": self.config.to_json(),
            "result": result,
            "costs": None if self.costs is None else self.costs.to_json(),
            "failure": None if self.failure is None else self.failure.to_json(),
            "metrics": _metrics_to_json(self.metrics),
        }
        return {name: value for name, value in content.items() if value}

    @classmethod
    def from_json(cls, content: Any) -> ArchivedRun:
        """Read a JSON object that `to_json` returned.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        config, result = read_object(content["config"]), content.get("result")
        return cls(
            name=read_field(content, "name", str),
            config=RunConfig.from_json(config),
            result=None if result is None else RunResult.from_json({"config": config, **read_object(result)}),
            costs=RunCosts.from_json(content["costs"]) if "costs" in content else None,
            failure=RunFailure.from_json(content["failure"]) if "failure" in content else None,
            metrics=_metrics_from_json(content.get("metrics", {})),
        )

    def write(self, directory: Path) -> None:
        """Write the files of the run's directory that a report reads."""
        files = {"experiment": self.config, "result": self.result, "costs": self.costs, "failure": self.failure}
        (directory / "training").mkdir(parents=True)
        for name, content in files.items():
            if content is not None:
                (directory / f"{name}.json").write_text(json.dumps(content.to_json()))
        lines = [json.dumps(line.to_json()) + "\n" for line in self.metrics]
        (directory / "training" / METRICS_FILE).write_text("".join(lines))


@dataclass(frozen=True)
class SweepArchive:
    """The content of an archive, which is a `Study` of ``docs/results.md``.

    Attributes:
        runs: Runs, at least one.
        commands: Commands that did the runs, one per line.
        ablation: Content of ``ablation.json``; None if the sweep has no such file.
        update_times: Content of ``update_times.json``; None if the sweep has no such file.
    """

    runs: tuple[ArchivedRun, ...]
    commands: tuple[str, ...] = ()
    ablation: Ablation | None = None
    update_times: UpdateTimes | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("the archive has no runs")
        name, count = Counter(run.name for run in self.runs).most_common(1)[0]
        if count > 1:
            raise InputError(f"{count} runs have the name {name}")

    def find_run(self, name: str) -> ArchivedRun:
        """Return the run of a name.

        Raises:
            InputError: If there is none.
        """
        runs = {run.name: run for run in self.runs}
        if name not in runs:
            more = f" and {len(runs) - 20} more" if len(runs) > 20 else ""
            raise InputError(f"the archive has no run {name[:100]}; choose one of {', '.join([*runs][:20])}{more}")
        return runs[name]

    def tables(self) -> dict[str, list[list[str]]]:
        """Return the tables of the sweep's report, by section; see `Study`."""
        with self._unpacked() as out:
            return make_report(out).rows

    def figures(self) -> dict[str, bytes]:
        """Return the figures of the sweep's report, by name; see `Study`."""
        with self._unpacked() as out:
            return {name: draw() for name, draw in make_report(out).figures.items()}

    @contextmanager
    def _unpacked(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as directory:
            self.write(Path(directory))
            yield Path(directory)

    def write(self, out: Path) -> None:
        """Write the files of the sweep's directory that a report reads."""
        out.mkdir(exist_ok=True)
        (out / COMMANDS_FILE).write_text("".join(f"{command}\n" for command in self.commands))
        for name, content in ((ABLATION_FILE, self.ablation), (TIMES_FILE, self.update_times)):
            if content is not None:
                (out / name).write_text(json.dumps(content.to_json()))
        for run in self.runs:
            run.write(out / run.name)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        runs, datasets = [run.to_json() for run in self.runs], list[dict[str, Any]]()
        for run in runs:
            if "result" in run:
                dataset = {name: run["result"].pop(name) for name in _DATA_FIELDS}
                if dataset not in datasets:
                    datasets.append(dataset)
                run["result"]["dataset"] = datasets.index(dataset)
        content = {
            "type": TYPE,
            "format_version": FORMAT_VERSION,
            "commands": list(self.commands),
            "ablation": None if self.ablation is None else self.ablation.to_json(),
            "update_times": None if self.update_times is None else self.update_times.to_json(),
            "datasets": datasets,
            "runs": runs,
        }
        return omit_none(content, "ablation", "update_times")

    @classmethod
    def from_json(cls, content: Any) -> SweepArchive:
        """Read a JSON object that `to_json` returned.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        check_type(content, TYPE)
        datasets = [{name: read_object(each)[name] for name in _DATA_FIELDS} for each in content["datasets"]]
        if max((len(json.dumps(each)) for each in datasets), default=0) * len(content["runs"]) > MAX_JSON_BYTES:
            raise ValueError("its datasets are implausibly large")  # each run gets a copy
        runs = []
        for run in content["runs"]:
            if (result := read_object(run).get("result")) is not None:
                index = read_field(result, "dataset", int)
                if not 0 <= index < len(datasets):
                    raise ValueError(f"it has no dataset {index}")
                run = {**run, "result": {**result, **datasets[index]}}
            runs.append(ArchivedRun.from_json(run))
        return cls(
            runs=tuple(runs),
            commands=read_list(content, "commands", str),
            ablation=Ablation.from_json(content["ablation"]) if "ablation" in content else None,
            update_times=UpdateTimes.from_json(content["update_times"]) if "update_times" in content else None,
        )


def read_study(content: Any) -> SweepArchive:
    """Read the content of an archive; a `StudyReader`."""
    return SweepArchive.from_json(content)


def read_archive(path: Path) -> SweepArchive:
    """Read the archive of a sweep.

    Raises:
        InputError: If the file cannot be read.
    """
    return read_json_as(path, SweepArchive.from_json, "make it again with scripts/write_report.py")


def _metrics_to_json(lines: Sequence[MetricsLine]) -> dict[str, list[float | None]]:
    """Return a list of values for each field that any line has."""
    columns = {field.name: [getattr(line, field.name) for line in lines] for field in dataclasses.fields(MetricsLine)}
    return {name: values for name, values in columns.items() if set(values) - {None}}


def _metrics_from_json(content: Any) -> tuple[MetricsLine, ...]:
    columns = {name: values[: MAX_METRICS_LINES + 1] for name, values in read_object(content).items()}
    rows = zip(*columns.values(), strict=True)
    return tuple(MetricsLine.from_json(dict(zip(columns, row, strict=True))) for row in rows)
