"""The archive of a sweep: the same report, exact scores, thin metrics, no machine paths, and nothing hostile."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atari_dt.config import ModelConfig
from atari_dt.experiments.ablation import Ablation
from atari_dt.experiments.ablation_times import UpdateTime, UpdateTimes
from atari_dt.experiments.archive import (
    MAX_METRICS_LINES,
    SweepArchive,
    read_archive,
)
from atari_dt.experiments.archive_writer import read_sweep, thin_metrics, write_archive
from atari_dt.experiments.report import COMMANDS_FILE, make_report
from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import RunFailure, read_costs, read_result
from atari_dt.rendering.study_file import strip_paths
from atari_dt.training.metrics import MetricsLine
from atari_dt.training.training_run import Hardware
from replay_data import InputError
from tests.atari_dt.experiments.finished_runs import finish_run

DATA = Path("data/breakout")
SCORES = [0.1 + 0.2, 1 / 3, 7.0]


def metrics_line(update: int, loss: float, **values: float) -> MetricsLine:
    return MetricsLine(update, 10 * update, 1e-3 / update, loss, 0.5, 1.0, 10.0, seconds=update / 8, **values)


def write_metrics(directory: Path, lines: list[MetricsLine]) -> None:
    content = "".join(json.dumps(line.to_json()) + "\n" for line in lines)
    (directory / "training" / "metrics.jsonl").write_text(content)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The directory of a sweep with three finished runs, a failed one and one that has not finished."""
    out = tmp_path / "sweep"
    base = RunConfig(DATA)
    training = dataclasses.replace(base.training, seed=1)
    cloning = dataclasses.replace(base, model=ModelConfig(conditioning="none"))
    finish_run(out, "DT-seed0", base, [(1, 6, SCORES)], updates=30, earlier=[(20, [[2.0, 0.5]])])
    finish_run(out, "DT-seed1", dataclasses.replace(base, training=training), [(1, 6, [2.5])], index=1, updates=30)
    finish_run(out, "BC-seed0", cloning, [(None, None, [1.25])], index=2, updates=30)
    for name in ("DT-seed0", "DT-seed1", "BC-seed0"):
        write_metrics(out / name, [metrics_line(update, update / 8) for update in range(3, 31, 3)])
        costs = dataclasses.replace(read_costs(out / name), training_seconds=100 / 3, flops_per_update=10**9)
        (out / name / "costs.json").write_text(json.dumps(costs.to_json()))
    for seed in (2, 3):
        config = dataclasses.replace(base, training=dataclasses.replace(training, seed=seed))
        (out / f"DT-seed{seed}").mkdir()
        (out / f"DT-seed{seed}" / "experiment.json").write_text(json.dumps(config.to_json()))
    failure = RunFailure("/home/ann/data/breakout/frames.npy: Input/output error; check the path")
    (out / "DT-seed3" / "failure.json").write_text(json.dumps(failure.to_json()))
    (out / COMMANDS_FILE).write_text("python scripts/reproduce_benchmark.py --data data --out=/home/ann/runs/x\n")
    return out


@pytest.fixture
def content(sweep: Path, tmp_path: Path) -> Any:
    """The JSON content of the archive."""
    write_archive([sweep], tmp_path / "archive.json")
    return json.loads((tmp_path / "archive.json").read_text())


def test_an_archive_makes_the_same_report(sweep: Path, tmp_path: Path) -> None:
    path = tmp_path / "docs" / "data" / "archive.json"
    write_archive([sweep], path)
    archive = read_archive(path)
    report = make_report(sweep)
    tables = archive.tables()
    assert tables["scores"] == report.rows["scores"]
    assert [row[:2] for row in tables["scores"][1:3]] == [["Breakout", "DT"], ["Breakout", "BC"]]
    failed = next(row for row in report.rows["runs"] if row[0] == "DT-seed3")
    failed[1] = "failed: breakout/frames.npy: Input/output error; check the path"
    assert tables == report.rows
    figures = archive.figures()
    assert set(figures) == set(report.figures) == {"benchmark", "curves"}
    assert figures["curves"] == report.figures["curves"]()  # of the metrics, which the tables do not show

    before = path.read_bytes()
    write_archive([sweep], path)
    assert path.read_bytes() == before


def test_an_archive_keeps_results_exactly(sweep: Path, tmp_path: Path) -> None:
    write_archive([sweep], tmp_path / "archive.json")
    archive = read_archive(tmp_path / "archive.json")
    assert [run.name for run in archive.runs] == ["BC-seed0", "DT-seed0", "DT-seed1", "DT-seed2", "DT-seed3"]
    for name in ("BC-seed0", "DT-seed0", "DT-seed1"):
        run = archive.find_run(name)
        assert (run.result, run.costs) == (read_result(sweep / name), read_costs(sweep / name))
    result = archive.find_run("DT-seed0").result
    assert result is not None
    assert list(result.targets[0].scores) == SCORES
    assert (archive.find_run("DT-seed2").result, archive.find_run("DT-seed2").failure) == (None, None)
    with pytest.raises(InputError, match="has no run DT; choose one of BC-seed0, DT-seed0"):
        archive.find_run("DT")


def test_older_costs_get_the_seconds_of_the_metrics(tmp_path: Path) -> None:
    finish_run(tmp_path, "a", RunConfig(DATA), [(1, 6, SCORES)])
    write_metrics(tmp_path / "a", [metrics_line(update, 1.0) for update in (3, 30)])
    (run,) = read_sweep(tmp_path).runs
    assert run.costs == dataclasses.replace(read_costs(tmp_path / "a"), training_seconds=30 / 8)


def test_files_of_an_ablation_are_kept(sweep: Path, tmp_path: Path) -> None:
    ablation = Ablation(10, 30, {"updates": ("DT-seed0",), "seconds": ("DT-seed0", "DT-seed1")})
    hardware = Hardware("abacus", 2, None)
    times = UpdateTimes(
        ModelConfig(), 32, 1, "float32", hardware, (UpdateTime(10, 0.1234567, 0.1), UpdateTime(5, 1, 2))
    )
    (sweep / "ablation.json").write_text(json.dumps(ablation.to_json()))
    (sweep / "update_times.json").write_text(json.dumps(times.to_json()))
    write_archive([sweep], tmp_path / "archive.json")
    archive = read_archive(tmp_path / "archive.json")
    assert (archive.ablation, archive.update_times) == (ablation, times)
    archive.write(tmp_path / "unpacked")
    write_archive([tmp_path / "unpacked"], tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "archive.json").read_bytes()


def test_no_machine_path_is_archived(sweep: Path, tmp_path: Path) -> None:
    for name in ("DT-seed0", "DT-seed1", "BC-seed0"):
        for file in ("experiment.json", "result.json"):
            text = (sweep / name / file).read_text().replace(str(DATA), "/home/ann/some/data/breakout")
            (sweep / name / file).write_text(text)
    write_archive([sweep], tmp_path / "archive.json")
    text = (tmp_path / "archive.json").read_text()
    assert "ann/" not in text
    assert "/home" not in text
    assert read_archive(tmp_path / "archive.json").find_run("DT-seed0").config.data == DATA
    assert read_archive(tmp_path / "archive.json").commands == (
        "python scripts/reproduce_benchmark.py --data data --out=runs/x",
    )


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("/home/ann/data", "data"),
        ("/home/ann --data=//home//ann/x/y/z", "~ --data=y/z"),
        ("PYTHONPATH=/a/b/c:/home/ann/x", "PYTHONPATH=b/c:x"),
        ("/data/breakout/123", "breakout/123"),
        ("--out /mnt/disk/runs/a-1.5 --jobs 2", "--out runs/a-1.5 --jobs 2"),
        ("'/mnt/x/y z'", "'x/y z'"),
        ("two at 512.5 steps/s, 1/2; https://example.org/a/b and data/x, ../y, ~/z", None),
    ],
)
def test_absolute_paths_are_stripped(text: str, stripped: str | None) -> None:
    assert strip_paths(text) == (text if stripped is None else stripped)


def test_thin_metrics_are_means_over_the_updates_since_the_line_before() -> None:
    rng = np.random.default_rng(0)
    updates = np.cumsum(rng.integers(1, 9, size=95)).tolist()
    values = rng.normal(size=95)
    lines = [
        metrics_line(update, value, validation_loss=1.0, validation_accuracy=0.5)
        for update, value in zip(updates, values.tolist(), strict=True)
    ]
    of_each_update = np.repeat(values, np.diff(updates, prepend=0))
    thin = thin_metrics(lines)
    assert len(thin) == MAX_METRICS_LINES
    assert thin[-1].update == updates[-1]
    start = 0
    for line in thin:
        assert line.loss == pytest.approx(of_each_update[start : line.update].mean(), rel=6e-4)
        assert line.tokens == 10 * line.update
        assert (line.learning_rate, line.seconds) == pytest.approx((1e-3 / line.update, line.update / 8), rel=6e-4)
        assert line.validation_loss is line.td_loss is None
        start = line.update
    assert [line.loss for line in thin_metrics(lines[:40])] == pytest.approx(values[:40], rel=6e-4)
    assert thin_metrics([]) == ()


def test_metrics_are_rounded_to_what_a_figure_shows(sweep: Path, tmp_path: Path) -> None:
    write_metrics(sweep / "DT-seed0", [metrics_line(update, 100 / update) for update in (3, 6, 123_457)])
    write_archive([sweep], tmp_path / "archive.json")
    lines = read_archive(tmp_path / "archive.json").find_run("DT-seed0").metrics
    assert [(line.update, line.loss) for line in lines] == [(3, 33.33), (6, 16.67), (123_457, 0.00081)]


def test_sweeps_are_archived_together(tmp_path: Path) -> None:
    path, path_of = tmp_path / "archive.json", {scale: tmp_path / f"scale-{scale}" for scale in (1, 10)}
    for scale, out in path_of.items():
        config = RunConfig(DATA, ModelConfig(return_scale=scale))
        finish_run(out, "DT-seed0", config, [(1, 6, [float(scale)])], updates=30)
        (out / COMMANDS_FILE).write_text(f"python scripts/reproduce_benchmark.py --return-scale {scale}\n")
    finish_run(tmp_path / "other", "BC-seed0", RunConfig(DATA, ModelConfig(conditioning="none")), [(None, None, [4.0])])
    write_archive([*path_of.values()], path)
    archive = read_archive(path)
    assert [run.name for run in archive.runs] == ["scale-1-DT-seed0", "scale-10-DT-seed0"]
    assert [command[-14:] for command in archive.commands] == ["return-scale 1", "eturn-scale 10"]
    scores = [(row[1], row[5]) for row in archive.tables()["scores"][1:3]]
    assert scores == [("DT, return_scale = 1.0", "1.0"), ("DT, return_scale = 10.0", "10.0")]

    write_archive([path_of[10], tmp_path / "other"], path)
    assert [run.name for run in read_archive(path).runs] == ["DT-seed0", "BC-seed0"]
    before = path.read_bytes()
    with pytest.raises(InputError, match="2 runs have the name scale-1-DT-seed0"):
        write_archive([path_of[1], path_of[1]], path)
    (path_of[1] / "ablation.json").write_text(json.dumps(Ablation(10, 30, {"updates": ("DT-seed0",)}).to_json()))
    with pytest.raises(InputError, match="scale-1 is an ablation at equal budgets"):
        write_archive([path_of[1], tmp_path / "other"], path)
    assert path.read_bytes() == before


def test_sweeps_are_added_to_an_archive(tmp_path: Path) -> None:
    """What was archived need not be on the machine any more."""
    for name, model in (("dt", ModelConfig()), ("bc-0.5", ModelConfig(conditioning="none"))):
        config = RunConfig(Path(f"/{name}/data/breakout"), model)
        finish_run(tmp_path / name, f"{name}-seed0", config, [(None, None, [4.0])], updates=30)
        (tmp_path / name / COMMANDS_FILE).write_text(f"python scripts/reproduce_benchmark.py --methods {name}\n")
    together, added = tmp_path / "together.json", tmp_path / "archive.json"
    write_archive([tmp_path / "dt", tmp_path / "bc-0.5"], together)
    write_archive([tmp_path / "dt"], added)
    shutil.rmtree(tmp_path / "dt")
    write_archive([added, tmp_path / "bc-0.5"], added)
    assert added.read_bytes() == together.read_bytes()

    write_archive([added, together], tmp_path / "twice.json")
    names = [run.name for run in read_archive(tmp_path / "twice.json").runs]
    assert names == [f"{sweep}-{run}-seed0" for sweep in ("archive", "together") for run in ("dt", "bc-0.5")]
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.json"):
        write_archive([tmp_path / "broken.json", tmp_path / "bc-0.5"], added)
    assert added.read_bytes() == together.read_bytes()


def test_two_stores_of_one_name_are_not_confused(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    for index, place in enumerate("ab"):
        name = f"run{index}"
        finish_run(out, name, RunConfig(Path(f"/{place}/data/breakout")), [(1, 6, [1.0])])
        if index:
            result = json.loads((out / name / "result.json").read_text())
            (out / name / "result.json").write_text(json.dumps(result | {"data_digest": "z" * 64}))
    with pytest.raises(InputError, match="run1, /b/data/breakout, would have the same name as /a/data/breakout"):
        write_archive([out], tmp_path / "archive.json")
    with pytest.raises(InputError, match=r"`archive` must end in \.json"):
        write_archive([out], tmp_path / "archive")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


_WITHOUT_UPDATES = {"context_length": 10, "max_updates": None, "runs": {"states": ["DT-seed0"]}}


def _change(content: Any, **values: Any) -> Any:
    return content | values


def _change_run(content: Any, **values: Any) -> Any:
    return content | {"runs": [content["runs"][1] | values, *content["runs"][2:]]}


def _inflate(content: Any) -> Any:
    """Return an archive of 1 MB whose runs would have 50 MB."""
    dataset = copy.deepcopy(content["datasets"][0])
    dataset["data_source"]["details"] = {"x": "y" * 1_000_000}
    runs = [content["runs"][1] | {"name": f"run{index}"} for index in range(50)]
    return content | {"datasets": [dataset], "runs": runs}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: [], "a list is where an object should be"),
        (lambda content: _change(content, type="heads"), "its type is 'heads', not 'sweep'"),
        (lambda content: _change(content, format_version=2), "format version 2 is newer"),
        (lambda content: _change(content, runs=[]), "has no runs"),
        (lambda content: _change(content, runs=content["runs"] * 2), "2 runs have the name BC-seed0"),
        (lambda content: _change(content, datasets=[]), "has no dataset 0"),
        (lambda content: _change(content, commands=[7]), "not of type str"),
        (lambda content: _change(content, ablation=[]), "a list is where an object should be"),
        (lambda content: _change(content, ablation=_WITHOUT_UPDATES), "max_updates is missing"),
        (lambda content: _change_run(content, name="../x"), "cannot have the name '../x'"),
        (lambda content: _change_run(content, name="x" * 101), "cannot have the name"),
        (lambda content: _change_run(content, name=".."), "cannot have the name"),
        (lambda content: _change_run(content, name="commands.txt"), "cannot have the name"),
        (lambda content: _change_run(content, costs=None), "TypeError"),
        (lambda content: _change_run(content, result=None), "has costs only"),
        (lambda content: _change_run(content, metrics={"update": [1] * 50_000}), "KeyError: 'tokens'"),
        (lambda content: _change_run(content, metrics={"update": [1], "loss": []}), "shorter"),
        (_inflate, "implausibly large"),
    ],
)
def test_a_damaged_archive_is_named(content: Any, tmp_path: Path, damage: Callable[[Any], Any], message: str) -> None:
    path = tmp_path / "archive.json"
    path.write_text(json.dumps(damage(content)))
    with pytest.raises(InputError) as caught:
        read_archive(path)
    assert str(caught.value).startswith(f"{path} cannot be read (")
    assert message in str(caught.value)


def test_too_many_lines_of_metrics_are_refused(content: Any) -> None:
    lines = [metrics_line(update, 1.0).to_json() for update in range(1, 50)]
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    with pytest.raises(InputError, match="41 lines of metrics, not at most 40"):
        SweepArchive.from_json(_change_run(content, metrics=columns))
