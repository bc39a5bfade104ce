"""Sweeps against themselves undisturbed: killed, resumed, side by side, and with a run that cannot succeed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.ablation import ablation_cells, ablation_runs
from atari_dt.experiments.run import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep import run_sweep
from replay_data import InputError, TrajectoryStore

ROOT = Path(__file__).parents[2]
LENGTHS, SEEDS = (1, 3), (1,)


@pytest.fixture(scope="module")
def base(readable_store: TrajectoryStore) -> RunConfig:
    model = ModelConfig(num_layers=1, num_heads=1, embed_dim=8, dropout=0.1)
    training = TrainingConfig(
        batch_size=8,
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


def test_killed_twice_and_two_at_once_it_finds_the_same(undisturbed: Path, base: RunConfig, tmp_path: Path) -> None:
    """The command as a person calls it, killed when some run has so many updates, and called again."""
    model, training = base.model, base.training
    options = {
        **{name: getattr(model, name) for name in ("num_layers", "num_heads", "embed_dim", "dropout")},
        **{
            name: getattr(training, name)
            for name in ("batch_size", "max_updates", "checkpoint_every", "log_every", "precision", "device")
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

    def at_work() -> int:
        return sum(path.read_text().count("\n") for path in tmp_path.glob("sweep/*/training/metrics.jsonl"))

    for lines in (3, 10):  # of 2 runs × 8 lines
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while at_work() < lines and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
        process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "sweep") == results(undisturbed)
    assert len(results(undisturbed)) == 2
    assert (tmp_path / "sweep" / "figure.png").read_bytes()[1:4] == b"PNG"

    table = [line.split() for line in (tmp_path / "sweep" / "table.txt").read_text().splitlines()[1:]]
    for row, length in zip(table, LENGTHS, strict=True):
        found = [json.loads(results(undisturbed)[f"K{length}-seed{seed}"]) for seed in SEEDS]
        assert {each["config"]["training"]["final_tokens"] for each in found} == {40 * 8 * length}
        means = [np.mean(each["targets"][0]["scores"]) for each in found]
        losses = [each["curve"][-1]["validation_loss"] for each in found]
        assert row[:3] == [str(length), "1", f"{np.mean(means):.1f}"]
        assert f"{np.mean(losses):.3f} ± {np.std(losses):.3f}" in " ".join(row)


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
    assert [cell.context_length for cell in ablation_cells(tmp_path, runs, readable_store.digest)] == [1]
    with pytest.raises(InputError, match="K1-seed1 was trained on other data"):
        ablation_cells(tmp_path, runs, store.digest)
    (tmp_path / "K1-seed1" / "costs.json").write_text("{")
    with pytest.raises(
        InputError, match=r"costs.json cannot be read; remove .*result.json, and the run is evaluated anew"
    ):
        ablation_cells(tmp_path, runs, readable_store.digest)

    other = dataclasses.replace(poisoned, training=dataclasses.replace(poisoned.training, learning_rate=0.1))
    with pytest.raises(InputError, match=r"poisoned was begun with other settings: learning_rate \(1e\+30 there, 0"):
        run_sweep({"poisoned": other}, tmp_path, show_progress=False)
    with pytest.raises(InputError, match="jobs must be at least 1"):
        run_sweep(runs, tmp_path, jobs=0)
