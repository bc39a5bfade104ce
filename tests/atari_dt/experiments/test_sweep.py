"""Sweeps: killed, interrupted, resumed on a Ray cluster, and with a run that fails."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import atari_dt.experiments.run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments import run_process, sweep
from atari_dt.experiments.ablation import ablation_runs
from atari_dt.experiments.launchers import RayLauncher
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig, read_run_config
from atari_dt.experiments.run_result import RunResult, read_result
from atari_dt.experiments.sweep import describe_failure, run_sweep
from atari_dt.method_config import CQLConfig
from replay_data import InputError, TrajectoryStore
from replay_data.storage.locks import lock_directory
from tests.atari_dt.experiments.ray_cluster import start_cluster
from tests.atari_dt.experiments.warm_processes import WarmPopen

ROOT = Path(__file__).parents[3]
LENGTHS, SEEDS = (1, 3), (1,)
UPDATES, UPDATES_PER_LINE = 16, 2
TIMEOUT = 120  # seconds


@pytest.fixture(scope="module")
def base(readable_store: TrajectoryStore) -> RunConfig:
    model = ModelConfig(num_layers=1, num_heads=1, embed_dim=8, dropout=0.1)
    training = TrainingConfig(
        batch_size=8,
        warmup_tokens=8 * 2 * 30,  # two updates
        max_updates=UPDATES,
        checkpoint_every=UPDATES_PER_LINE,
        log_every=UPDATES_PER_LINE,
        precision="fp32",
        device="cpu",
        validation_fraction=0.2,
        validation_seed=0,
    )
    return RunConfig(
        readable_store.path, model, training, EvaluationConfig(episodes=2, max_steps=15, evaluated_checkpoints=2)
    )


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the same runs, done one after the other in this process."""
    out = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    for name, config in ablation_runs(base, LENGTHS, SEEDS).items():
        (out / name).mkdir(parents=True)
        (out / name / "experiment.json").write_text(json.dumps(config.to_json()))
        atari_dt.experiments.run.execute_run(out / name)
    return out


@pytest.fixture
def cluster() -> Iterator[Callable[[], str]]:
    with start_cluster() as wait_for_address:
        yield wait_for_address


@pytest.fixture
def _warm_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the runs on this machine instead of starting an interpreter for each."""
    warm_subprocess = SimpleNamespace(Popen=WarmPopen, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(run_process, "subprocess", warm_subprocess)


def results(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("*/result.json")}


def metrics_lines(out: Path) -> dict[Path, list[str]]:
    return {path: path.read_text().splitlines() for path in out.glob("*/training/metrics.jsonl")}


def ablation_command(base: RunConfig, out: Path) -> list[str]:
    """Return the command that does the runs of ``ablation_runs(base, LENGTHS, SEEDS)``."""
    names = {
        "model": ("num_layers", "num_heads", "embed_dim", "dropout"),
        "training": (
            *("batch_size", "warmup_tokens", "max_updates", "checkpoint_every", "log_every", "precision", "device"),
            "validation_fraction",
        ),
        "evaluation": ("episodes", "max_steps", "evaluated_checkpoints"),
    }
    values = {name: getattr(getattr(base, section), name) for section in names for name in names[section]}
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    lists = ["--context-lengths", *map(str, LENGTHS), "--seeds", *map(str, SEEDS)]
    paths = ["--data", str(base.data), "--out", str(out)]
    return [sys.executable, str(ROOT / "scripts" / "ablate_context_length.py"), *words, *lists, *paths]


@pytest.mark.usefixtures("_warm_runs")
def test_a_killed_and_interrupted_sweep_resumed_on_a_cluster_gives_the_same_results(
    cluster: Callable[[], str], undisturbed: Path, base: RunConfig, tmp_path: Path
) -> None:
    """Two runs at once: on this machine, where the command is killed and interrupted, then on two nodes of Ray."""
    out = tmp_path / "sweep"
    command = ablation_command(base, out)
    lines: dict[Path, list[str]] = {}
    for enough, signum in ((3, signal.SIGKILL), (10, signal.SIGINT)):  # of 2 runs × 8 lines
        process = WarmPopen([*command, "--jobs", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + TIMEOUT
        while sum(map(len, lines.values())) < enough:
            lines = metrics_lines(out)
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=TIMEOUT)
        if signum == signal.SIGINT:
            assert process.returncode == 130
            message = "error: interrupted; 0 of 2 runs are finished; the same command resumes the sweep"
            assert errors.splitlines()[-1] == message
        for path in lines:
            while True:  # until the process of the run has ended too
                with suppress(BlockingIOError), lock_directory(path.parent):
                    break
                assert time.monotonic() < deadline
    process = WarmPopen(
        [*command, "--ray-address", cluster()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    table, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert results(out) == results(undisturbed)
    assert len(results(undisturbed)) == 2
    for path, resumed in metrics_lines(out).items():  # lines with their speeds, so they were not written again
        assert resumed[: len(lines[path]) - 1] == lines[path][:-1]
    check_table(table, [read_result(undisturbed / name) for name in sorted(results(undisturbed))])


def check_table(table: str, expected: list[RunResult]) -> None:
    """Check the printed table, and the runs it shows, against the undisturbed results, K = 1 first."""
    rows = [line.split() for line in table.splitlines()[2:4]]
    for row, length, result in zip(rows, LENGTHS, expected, strict=True):
        assert result.config.training.final_tokens == UPDATES * 8 * length
        assert result.config.training.warmup_tokens == 8 * 2 * length
        assert row[:3] == [str(length), "1", f"{np.mean(result.targets[0].scores):.1f}"]
        assert f"{result.curve[-1].validation_loss:.3f}" in row
        assert (result.updates, [each.update for each in result.earlier]) == (UPDATES, [UPDATES - UPDATES_PER_LINE])
        assert [point.update for point in result.curve] == list(range(UPDATES_PER_LINE, UPDATES + 1, UPDATES_PER_LINE))


def test_the_error_message_of_a_run_is_the_reason_of_its_failure() -> None:
    assert describe_failure("loading\nerror: the disk is full\nwarning: leaked\n", 1) == "the disk is full"
    trace = "Traceback\nRuntimeError: CUDA error\nCompile with X\n"
    assert describe_failure(trace, 1) == "RuntimeError: CUDA error"
    assert describe_failure("odd\n", 3) == "odd"
    assert describe_failure("", 3) == "it ended with status 3"
    assert describe_failure("", -9) == "signal 9 (Killed) ended it; is the memory full?"
    assert describe_failure("", -11) == "signal 11 (Segmentation fault) ended it"


@pytest.mark.usefixtures("_warm_runs")
def test_a_run_that_fails_is_named_and_stops_no_other(
    base: RunConfig, undisturbed: Path, tmp_path: Path, store: TrajectoryStore, readable_store: TrajectoryStore
) -> None:
    training = dataclasses.replace(
        base.training, learning_rate=1e30, schedule="constant", warmup_tokens=TrainingConfig.warmup_tokens, seed=1
    )
    poisoned = dataclasses.replace(base, model=CQLConfig(num_quantiles=2), training=training)
    shutil.copytree(undisturbed / "K1-seed1", tmp_path / "K1-seed1")
    (tmp_path / "K1-seed1" / "result.json").unlink()  # trained, to be evaluated again
    runs = ablation_runs(base, [1], [1]) | {"poisoned": poisoned}
    failures = run_sweep(runs, tmp_path, jobs=2, show_progress=False)
    assert list(failures) == ["poisoned"]
    assert "no longer finite" in failures["poisoned"]
    assert results(tmp_path)["K1-seed1"] == results(undisturbed)["K1-seed1"]
    log = (tmp_path / "poisoned" / "log.txt").stat()
    assert run_sweep(runs, tmp_path, jobs=2, show_progress=False) == failures  # not retried
    assert (tmp_path / "poisoned" / "log.txt").stat() == log
    assert run_sweep(runs, tmp_path, jobs=2, retry_failed=True, show_progress=False) == failures  # retried
    assert (tmp_path / "poisoned" / "log.txt").stat() != log
    with pytest.raises(InputError, match=r"conservative Q-learning \(CQL\) has no context length to ablate"):
        ablation_runs(poisoned, [1], [1])
    runs = ablation_runs(base, [1, 2], [1])
    right, wrong = ({base.data: each.digest} for each in (readable_store, store))
    assert [group.names for group in read_groups(tmp_path, runs, right)] == [("K1-seed1",)]
    with pytest.raises(InputError, match="K1-seed1 was trained on other data"):
        read_groups(tmp_path, runs, wrong)
    (tmp_path / "K1-seed1" / "costs.json").write_text("{")
    with pytest.raises(
        InputError, match=r"costs.json cannot be read .*; remove .*result.json to evaluate the run again"
    ):
        read_groups(tmp_path, runs, right)


def test_a_sweep_resumes_with_another_arithmetic(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is finished keeps its config, and one that is not gets the new one.

    Where the CPU lacks instructions for bfloat16, the sweep warns itself: what its runs print is only in their logs.
    """
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sweep, "_launch_all", lambda *_: None)
    training = dataclasses.replace(base.training, precision="bf16", device="auto", compile="off")
    changed = dataclasses.replace(base, training=training, threads=base.threads + 1)
    for name in ("finished", "failed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.json").write_text(json.dumps(base.to_json()))
    (tmp_path / "finished" / "result.json").write_text("{}")
    (tmp_path / "failed" / "failure.json").write_text('{"reason": "no bfloat16"}')
    runs = {"finished": changed, "failed": changed}
    assert run_sweep(runs, tmp_path, retry_failed=True, show_progress=False) == {}
    assert read_run_config(tmp_path / "finished") == base
    assert read_run_config(tmp_path / "failed") == changed
    assert capsys.readouterr().err.count("emulates bfloat16") == (0 if torch.cuda.is_available() else 1)


def test_settings_that_cannot_work_are_refused(base: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "experiment.json").write_text(json.dumps(base.to_json()))
    other = dataclasses.replace(base, training=dataclasses.replace(base.training, learning_rate=0.1))
    with pytest.raises(InputError, match=r"a was started with other settings: learning_rate \(was 0\.0006, is 0\.1\)"):
        run_sweep({"a": other}, tmp_path, show_progress=False)
    with pytest.raises(InputError, match="`jobs` must be at least 1"):
        run_sweep({"a": base}, tmp_path, jobs=0)
    with pytest.raises(
        InputError, match=r"no Ray cluster answers at 127\.0\.0\.1:1; start its head node with ray start"
    ):
        run_sweep({"a": base}, tmp_path / "new" / "out", ray_address="127.0.0.1:1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_missing_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"install it on every node with: pip install ray$"):
        RayLauncher("auto")


def test_a_thread_can_connect_to_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets signal handlers in the main thread only, and so does Ray."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **_: None, nodes=list))
    launchers: list[RayLauncher] = []
    thread = threading.Thread(target=lambda: launchers.append(RayLauncher("auto")))
    thread.start()
    thread.join()
    assert len(launchers) == 1
