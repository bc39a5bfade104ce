"""Sweeps against themselves undisturbed: killed, resumed, side by side, and with a run that cannot succeed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.ablation import ablation_rows, ablation_runs
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep import _reason, run_sweep
from replay_data import InputError, TrajectoryStore
from replay_data.files import locked

ROOT = Path(__file__).parents[2]
LENGTHS, SEEDS = (1, 3), (1,)


@pytest.fixture(scope="module")
def base(readable_store: TrajectoryStore) -> RunConfig:
    model = ModelConfig(num_layers=1, num_heads=1, embed_dim=8, dropout=0.1)
    training = TrainingConfig(
        batch_size=8,
        warmup_tokens=8 * 2 * 30,  # of two updates
        max_updates=40,
        checkpoint_every=5,
        log_every=5,
        precision="fp32",
        device="cpu",
        validation_fraction=0.2,
    )
    return RunConfig(readable_store.path, model, training, EvaluationConfig(episodes=2, max_steps=15))


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    assert run_sweep(ablation_runs(base, LENGTHS, SEEDS), out, jobs=1, show_progress=False) == {}
    return out


def results(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("*/result.json")}


def test_killed_interrupted_and_two_at_once_it_finds_the_same(
    undisturbed: Path, base: RunConfig, tmp_path: Path
) -> None:
    """The command as a person calls it, killed, interrupted, and called again."""
    model, training = base.model, base.training
    options = {
        **{name: getattr(model, name) for name in ("num_layers", "num_heads", "embed_dim", "dropout")},
        **{
            name: getattr(training, name)
            for name in (
                "batch_size",
                "warmup_tokens",
                "max_updates",
                "checkpoint_every",
                "log_every",
                "precision",
                "device",
            )
        },
        "validation_fraction": 0.2,
        "episodes": 2,
        "max_steps": 15,
        "jobs": 2,
        "data": base.data,
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    lists = ["--context-lengths", *map(str, LENGTHS), "--seeds", *map(str, SEEDS), "--out", str(tmp_path / "sweep")]
    command = [sys.executable, "scripts/ablate_context_length.py", *words, *lists]

    def lines() -> dict[Path, list[str]]:
        return {path: path.read_text().splitlines() for path in tmp_path.glob("sweep/*/training/metrics.jsonl")}

    before: dict[Path, list[str]] = {}
    for enough, number in ((3, signal.SIGKILL), (10, signal.SIGINT)):  # of 2 runs × 8 lines
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while sum(len(those) for those in before.values()) < enough:
            before = lines()
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert errors.splitlines()[-1] == "error: interrupted; 0 of 2 runs are finished; the same command goes on"
        for path in before:
            while True:  # until its process has ended too
                with suppress(BlockingIOError), locked(path.parent):
                    break
                assert time.monotonic() < deadline
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "sweep") == results(undisturbed)
    after = lines()
    for path, those in before.items():
        assert after[path][: len(those) - 1] == those[:-1]  # with their speeds: they were not made again
    assert len(results(undisturbed)) == 2
    assert (tmp_path / "sweep" / "figure.png").read_bytes()[1:4] == b"PNG"

    table = [line.split() for line in (tmp_path / "sweep" / "table.txt").read_text().splitlines()[1:]]
    for row, length in zip(table, LENGTHS, strict=True):
        found = [json.loads(results(undisturbed)[f"K{length}-seed{seed}"]) for seed in SEEDS]
        assert {each["config"]["training"]["final_tokens"] for each in found} == {40 * 8 * length}
        assert {each["config"]["training"]["warmup_tokens"] for each in found} == {8 * 2 * length}
        assert row[:3] == [str(length), "1", f"{np.mean(found[0]['targets'][0]['scores']):.1f}"]
        assert f"{found[0]['curve'][-1]['validation_loss']:.3f}" in row
        assert [point["update"] for point in found[0]["curve"]] == list(range(5, 41, 5))


def test_the_table_is_of_the_seeds_of_each_length(tmp_path: Path, base: RunConfig) -> None:
    """Hand-made results of two seeds against sums by hand; the paper's random player has 2 points, its gamer 30."""
    runs = ablation_runs(base, [1, 30], [5, 6])
    scores = {"K1-seed5": [1, 3], "K1-seed6": [5, 7], "K30-seed5": [10, 10], "K30-seed6": [20, 20]}
    for number, name in enumerate(runs):
        (tmp_path / name).mkdir()
        result = {
            "data_digest": "x",
            "dataset": {"game": "Breakout"},
            "targets": [{"scores": [99]}, {"scores": scores[name]}],
            "random_scores": [1, 2],
            "curve": [{"validation_loss": 9.0}, {"validation_loss": 0.1 * number}],
        }
        costs = {"seconds_per_update": number + 1, "evaluation_steps_per_s": 100 * number}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
        (tmp_path / name / "costs.json").write_text(json.dumps(costs))
    rows = ablation_rows(read_groups(tmp_path, runs, {base.data: "x"})[::-1])[1:]
    percent = [f"{100 * (mean - 2) / 28:.1f}" for mean in (4, 15)]
    short = [[*row[:4], *row[5:]] for row in rows]
    assert short[0] == ["1", "2", "4.0 ± 2.0", "4.0", percent[0], "0.050 ± 0.050", "1.5", "50"]
    assert short[1] == ["30", "2", "15.0 ± 5.0", "15.0", percent[1], "0.250 ± 0.050", "3.5", "250"]


def test_only_what_a_run_says_last_is_its_failure() -> None:
    assert _reason("loading\nerror: the disk is full\nwarning: leaked\n", 1) == "the disk is full"
    trace = "Traceback\nRuntimeError: CUDA error\nCompile with X\n"
    assert _reason(trace, 1) == "RuntimeError: CUDA error"
    assert _reason("odd\n", 3) == "odd"
    assert _reason("", 3) == "it ended with status 3"
    assert _reason("", -9) == "it was ended by signal 9, Killed; is memory full?"
    assert _reason("", -11) == "it was ended by signal 11, Segmentation fault"


def test_a_run_that_fails_is_named_and_stops_no_other(
    base: RunConfig, undisturbed: Path, tmp_path: Path, store: TrajectoryStore, readable_store: TrajectoryStore
) -> None:
    poisoned = dataclasses.replace(base, training=dataclasses.replace(base.training, learning_rate=1e30, seed=1))
    shutil.copytree(undisturbed / "K1-seed1", tmp_path / "K1-seed1")
    (tmp_path / "K1-seed1" / "result.json").unlink()  # trained, to be evaluated anew
    runs = ablation_runs(base, [1], [1]) | {"poisoned": poisoned}
    failures = run_sweep(runs, tmp_path, jobs=2, show_progress=False)
    assert list(failures) == ["poisoned"]
    assert "no longer finite" in failures["poisoned"]
    assert results(tmp_path)["K1-seed1"] == results(undisturbed)["K1-seed1"]
    log = (tmp_path / "poisoned" / "log.txt").stat()
    assert run_sweep(runs, tmp_path, jobs=2, show_progress=False) == failures  # it is not tried again
    assert (tmp_path / "poisoned" / "log.txt").stat() == log
    assert run_sweep(runs, tmp_path, jobs=2, retry_failed=True, show_progress=False) == failures  # it is
    assert (tmp_path / "poisoned" / "log.txt").stat() != log
    runs = ablation_runs(base, [1, 2], [1])
    right, wrong = ({base.data: each.digest} for each in (readable_store, store))
    assert [group.names for group in read_groups(tmp_path, runs, right)] == [("K1-seed1",)]
    with pytest.raises(InputError, match="K1-seed1 was trained on other data"):
        read_groups(tmp_path, runs, wrong)
    (tmp_path / "K1-seed1" / "costs.json").write_text("{")
    with pytest.raises(
        InputError, match=r"costs.json cannot be read; remove .*result.json, and the run is evaluated anew"
    ):
        read_groups(tmp_path, runs, right)

    other = dataclasses.replace(poisoned, training=dataclasses.replace(poisoned.training, learning_rate=0.1))
    with pytest.raises(InputError, match=r"poisoned was begun with other settings: learning_rate \(1e\+30 there, 0"):
        run_sweep({"poisoned": other}, tmp_path, show_progress=False)
    with pytest.raises(InputError, match="jobs must be at least 1"):
        run_sweep(runs, tmp_path, jobs=0)
