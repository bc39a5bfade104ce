"""The benchmark of recipes: when a run first reaches a mark, what the report compares, and the whole command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atari_dt.config import ModelConfig
from atari_dt.experiments.launchers import LocalLauncher
from atari_dt.experiments.run import execute_run
from atari_dt.experiments.run_config import RunConfig
from atari_dt.training.learner import flops_per_window
from atari_dt.training.training_run import Hardware, read_training_run
from replay_data.testing import write_random_store
from tests.scripts.commands import SCRIPTS, Refuse, call

SMALL = (
    *("--context-length", 2, "--num-layers", 1, "--batch-size", 4, "--validation-fraction", 0.2),
    *("--validation-every", 2, "--episodes", 1, "--max-steps", 8, "--threads", 1),
    *("--precision", "fp32", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The modules beside the benchmark's script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS / "benchmarks")
        runs, report = map(importlib.import_module, ("time_to_score_runs", "time_to_score_report"))
    return SimpleNamespace(**{**vars(runs), **vars(report)})


def make_run(benchmark: Any, recipe: str, seed: int, losses: list[float], update_seconds: float, score: float) -> Any:
    """Return a run of 10 updates between two losses and 2 TFLOP an update, evaluated at its end."""
    points = [
        benchmark.Point(update, update * update_seconds, loss)
        for update, loss in zip((10, 20, 30), losses, strict=False)
    ]
    end = dataclasses.replace(points[-1], value=score)
    scores = {1.0: (score - 1, score + 1), 0.0: (0.0, 0.5)}
    return benchmark.TimedRun(recipe, seed, 2 * 10**12, tuple(points), 0.5, (end,), scores)


@given(st.lists(st.floats(0, 2) | st.sampled_from([0.5, 1.0]), min_size=1), st.floats(0, 2) | st.just(1.0))
def test_a_mark_is_reached_at_the_first_point_at_or_beyond_it(benchmark: Any, values: list[float], mark: float) -> None:
    points = tuple(benchmark.Point(update, update / 2, value) for update, value in enumerate(values, start=1))
    run = benchmark.TimedRun("paper:9", 7, 1, points, 0.5, points, {1.0: (0.0,)})
    for metric, sign in (("loss", 1), ("score", -1)):
        # The running minimum (of a score: maximum) is sorted, so a binary search finds where it passes the mark.
        best = np.minimum.accumulate(sign * np.array(values))
        index = int(np.searchsorted(-best, -sign * mark))
        expected = points[index] if index < len(points) else None
        assert benchmark.first_reached(run, benchmark.Mark("", metric, {7: mark, 8: 0.0})) == expected


def test_the_report_compares_recipes_within_a_seed(benchmark: Any) -> None:
    runs = [
        make_run(benchmark, "paper:30", 0, [1.2, 1.0, 0.8], 4.0, 20),
        make_run(benchmark, "fast:20", 0, [0.9, 0.7], 3.0, 30),
        make_run(benchmark, "paper:30", 1, [1.2, 1.0, 0.9], 4.0, 22),
        make_run(benchmark, "fast:20", 1, [0.9, 0.85], 3.0, 32),
        make_run(benchmark, "paper:30", 2, [1.2, 0.6, 0.6], 4.0, 24),
        make_run(benchmark, "fast:20", 2, [0.9, 0.7], 3.0, 34),
    ]
    marks = benchmark.make_marks(runs, [1.1, 0.1], [31])
    machine = benchmark.Machine(Hardware("abacus", 4, None), 2, "float32", "auto", {"torch": "2.13.0"})
    content = benchmark.to_json(runs, marks, machine)
    baseline, easy, hard, score = content["marks"]
    assert baseline["values"] == {"0": 0.8, "1": 0.9, "2": 0.6}
    fast, paper = baseline["reached"]["fast:20"], baseline["reached"]["paper:30"]
    assert fast["seeds"]["0"] == {"update": 20, "seconds": 60, "flops": 40 * 10**12, "value": 0.7}
    assert fast["seeds"]["1"]["seconds"] == 30
    assert fast["seeds"]["2"] is None
    assert [point["seconds"] for point in paper["seeds"].values()] == [120, 120, 80]
    assert fast["speedups"] == [2, 4]
    assert easy["reached"]["fast:20"]["speedups"] == [80 / 30] * 3
    assert hard["reached"]["paper:30"] == {"seeds": {"0": None, "1": None, "2": None}, "speedups": []}
    assert [point and point["value"] for point in score["reached"]["fast:20"]["seeds"].values()] == [None, 32, 34]

    tables = benchmark.report(runs, marks)
    rows = tables.split("until the final validation loss of paper:30\n")[1].splitlines()[1:3]
    missing = "not reached in 1 of 3"
    assert [re.split(" {2,}", row.strip()) for row in rows] == [
        [
            "paper:30",
            "27 (30, 30, 20)",
            "106.7 (120.0, 120.0, 80.0)",
            "53.3 (60.0, 60.0, 40.0)",
            "1.0 (1.0 to 1.0)",
        ],
        [
            "fast:20",
            f"{missing} (20, 10, not reached)",
            f"{missing} (60.0, 30.0, not reached)",
            f"{missing} (40.0, 20.0, not reached)",
            "3.0 (2.0 to 4.0) in 2 of 3",
        ],
    ]
    last = tables.split("until the validation loss 0.1\n")[1].splitlines()[2].split()
    assert last == ["fast:20", *("not", "reached") * 3]

    lines = benchmark.leaderboard_lines(runs, marks[1], machine)
    header, rule, _, line = (row.removeprefix("| ").removesuffix(" |").split(" | ") for row in lines)
    fields = dict(zip(header, line, strict=True))
    assert len(header) == len(rule)
    assert (SCRIPTS.parent / "docs" / "leaderboard.md").read_text().count("\n".join(lines[:2])) == 2
    assert fields["seconds"] == "30.0 (30.0, 30.0, 30.0)"
    assert fields["score at 1x"] == "32.0 (30.0, 32.0, 34.0)"
    assert fields["hardware"] == "2 of 4 cores, abacus, float32, torch 2.13.0"


def test_the_command_measures_recipes_and_skips_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def run_in_this_process(launcher: LocalLauncher, directory: Path, config: RunConfig) -> int:
        started.append(directory.name)
        execute_run(directory)
        return 0

    monkeypatch.setattr(LocalLauncher, "run", run_in_this_process)
    store = write_random_store(tmp_path / "store", [20] * 6, largest_reward=1)
    out, file = tmp_path / "out", tmp_path / "figures.json"
    arguments = ["--data", store.path, "--out", out, "--json", file, "--updates", 5, "--seeds", 3, *SMALL]
    arguments += ["--loss-marks", 0.001, 100, "--score-marks", -1000, "--score-every", 4, "--recipes", "paper"]
    assert call(monkeypatch, "benchmarks/time_to_score.py", *arguments) == 0
    names = ["paper-5-seed3", "paper+encoder_norm-4-seed3"]
    assert started == names[:1]
    first = json.loads(file.read_text())["runs"]
    capsys.readouterr()
    assert call(monkeypatch, "benchmarks/time_to_score.py", *arguments, "paper+encoder_norm:4") == 0
    assert started == names
    content = json.loads(file.read_text())
    for run, name, updates, scored in zip(content["runs"], names, ([2, 4, 5], [2, 4]), ([4, 5], [4]), strict=True):
        lines = [json.loads(line) for line in (out / name / "training" / "metrics.jsonl").read_text().splitlines()]
        expected = [[line["update"], line["seconds"], line["validation_loss"]] for line in lines]
        assert [list(point.values()) for point in run["losses"]] == expected
        assert [point["update"] for point in run["losses"]] == updates
        result = json.loads((out / name / "result.json").read_text())
        assert [target["scores"] for target in result["targets"]] == list(run["scores"].values())
        assert [point["update"] for point in run["mean_scores"]] == scored
        assert run["mean_scores"][-1]["value"] == np.mean(result["targets"][0]["scores"])
        assert len(list((out / name / "training" / "checkpoints").iterdir())) == 1
        config = read_training_run(out / name / "training")
        assert isinstance(config.model, ModelConfig)
        assert config.model.encoder_norm == ("encoder_norm" in name)
        assert config.training.final_tokens == updates[-1] * 4 * 2
    assert content["runs"][1]["flops_per_update"] == 4 * flops_per_window(config.model, store.num_actions)
    assert [mark["metric"] for mark in content["marks"]] == ["loss", "loss", "loss", "score"]
    assert content["marks"][1]["reached"]["paper:5"]["seeds"] == {"3": None}
    assert content["marks"][2]["reached"]["paper:5"]["seeds"]["3"]["update"] == 2
    assert content["marks"][3]["reached"]["paper:5"]["seeds"]["3"]["update"] == 4
    printed = capsys.readouterr().out
    assert "not reached" in printed
    assert printed.count("| paper:5 | ") == 1

    assert content["runs"][:1] == first
    assert call(monkeypatch, "benchmarks/time_to_score.py", *arguments, "--batch-size", 5) == 1
    assert "was started with other settings: batch_size (was 4, is 5)" in capsys.readouterr().err
    costs = json.loads((out / names[1] / "costs.json").read_text())
    costs["hardware"]["cpu"] = "abacus"
    (out / names[1] / "costs.json").write_text(json.dumps(costs))
    assert call(monkeypatch, "benchmarks/time_to_score.py", *arguments, "paper+encoder_norm:4") == 1
    assert "so their times cannot be compared" in capsys.readouterr().err
    shutil.rmtree(store.path)
    write_random_store(store.path, [21] * 6, largest_reward=1)
    assert call(monkeypatch, "benchmarks/time_to_score.py", *arguments) == 1
    assert f"have changed since {out / names[0]} trained on them" in capsys.readouterr().err
    assert started == names


def test_failed_runs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(launcher: LocalLauncher, directory: Path, config: RunConfig) -> int:
        (directory / "log.txt").write_text(f"error: the dog ate {directory.name}\n")
        return 1

    monkeypatch.setattr(LocalLauncher, "run", fail)
    store = write_random_store(tmp_path / "store", [20] * 6, largest_reward=1)
    arguments = ["--data", store.path, "--out", tmp_path / "out", "--updates", 5, "--seeds", 0, 1, *SMALL]
    assert call(monkeypatch, "benchmarks/time_to_score.py", *arguments, "--recipes", "paper") == 1
    assert "2 of 2 runs failed: paper-5-seed0 (the dog ate paper-5-seed0); paper-5-seed1 (the dog ate" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--recipes paper fast:0", "--recipes has 'fast:0', which must end in a positive number of updates"),
        ("--recipes paper paper:9 --updates 9", "the same recipe with the same number of updates twice"),
        ("--recipes paper+luck", "there is no ingredient 'luck'"),
        ("--seeds 1 1", "--seeds must have at least one value, and none twice"),
        ("--validation-every 10 --score-every 25", "must be 0 or a multiple of --validation-every (10), not 25"),
        ("--validation-fraction 0", "--validation-fraction must be greater than 0 and less than 1, not 0.0"),
        ("--data {tmp}/nowhere", "{tmp}/nowhere"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("benchmarks/time_to_score.py", f"--out {{tmp}}/out {options}", message)
