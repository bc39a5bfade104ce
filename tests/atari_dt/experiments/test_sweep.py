"""Sweeps against themselves undisturbed: killed, resumed, side by side, and with a run that cannot succeed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.ablation import ablation_runs
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep import describe_failure, run_sweep
from replay_data import InputError, TrajectoryStore
from replay_data.storage.locks import lock_directory

ROOT = Path(__file__).parents[3]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
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


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of two nodes with a CPU each on this machine; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Sockets are made under the directory, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch, ExitStack() as nodes:
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={scratch}")
        for number, options in enumerate((head, (f"--address=127.0.0.1:{port}",))):
            log = Path(scratch) / f"{number}.txt"
            node = subprocess.Popen(
                ["ray", "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", *options],
                env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PATH": PATH},
                stdout=nodes.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
            )
            nodes.callback(node.wait, 60)
            nodes.callback(node.terminate)
            while "Ray runtime started" not in log.read_text():
                assert node.poll() is None, log.read_text()
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"


def results(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("*/result.json")}


def test_killed_interrupted_two_at_once_and_on_a_cluster_it_finds_the_same(
    undisturbed: Path, base: RunConfig, tmp_path: Path
) -> None:
    """The command as a person calls it, killed, interrupted, and called again, now with two nodes of a Ray cluster."""
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
        "data": base.data,
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    lists = ["--context-lengths", *map(str, LENGTHS), "--seeds", *map(str, SEEDS), "--out", str(tmp_path / "sweep")]
    command = [sys.executable, "scripts/ablate_context_length.py", *words, *lists]

    def lines() -> dict[Path, list[str]]:
        return {path: path.read_text().splitlines() for path in tmp_path.glob("sweep/*/training/metrics.jsonl")}

    before: dict[Path, list[str]] = {}
    for enough, number in ((3, signal.SIGKILL), (10, signal.SIGINT)):  # of 2 runs × 8 lines
        process = subprocess.Popen(
            [*command, "--jobs", "2"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which shells ignore in the background
        )
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
            assert (
                errors.splitlines()[-1]
                == "error: interrupted; 0 of 2 runs are finished; the same command resumes the sweep"
            )
        for path in before:
            while True:  # until its process has ended too
                with suppress(BlockingIOError), lock_directory(path.parent):
                    break
                assert time.monotonic() < deadline
    with cluster() as address:
        done = subprocess.run(
            [*command, "--ray-address", address], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "sweep") == results(undisturbed)
    after = lines()
    for path, those in before.items():
        assert after[path][: len(those) - 1] == those[:-1]  # with their speeds: they were not made again
    assert len(results(undisturbed)) == 2

    table = [line.split() for line in done.stdout.splitlines()[2:4]]
    for row, length in zip(table, LENGTHS, strict=True):
        found = [json.loads(results(undisturbed)[f"K{length}-seed{seed}"]) for seed in SEEDS]
        assert {each["config"]["training"]["final_tokens"] for each in found} == {40 * 8 * length}
        assert {each["config"]["training"]["warmup_tokens"] for each in found} == {8 * 2 * length}
        assert row[:3] == [str(length), "1", f"{np.mean(found[0]['targets'][0]['scores']):.1f}"]
        assert f"{found[0]['curve'][-1]['validation_loss']:.3f}" in row
        assert [point["update"] for point in found[0]["curve"]] == list(range(5, 41, 5))


def test_only_what_a_run_says_last_is_its_failure() -> None:
    assert describe_failure("loading\nerror: the disk is full\nwarning: leaked\n", 1) == "the disk is full"
    trace = "Traceback\nRuntimeError: CUDA error\nCompile with X\n"
    assert describe_failure(trace, 1) == "RuntimeError: CUDA error"
    assert describe_failure("odd\n", 3) == "odd"
    assert describe_failure("", 3) == "it ended with status 3"
    assert describe_failure("", -9) == "signal 9 (Killed) ended it; is the memory full?"
    assert describe_failure("", -11) == "signal 11 (Segmentation fault) ended it"


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
        InputError, match=r"costs.json cannot be read .*; remove .*result.json to evaluate the run again"
    ):
        read_groups(tmp_path, runs, right)

    other = dataclasses.replace(poisoned, training=dataclasses.replace(poisoned.training, learning_rate=0.1))
    with pytest.raises(InputError, match=r"poisoned was started with other settings: learning_rate \(was 1e\+30, is 0"):
        run_sweep({"poisoned": other}, tmp_path, show_progress=False)
    with pytest.raises(InputError, match="`jobs` must be at least 1"):
        run_sweep(runs, tmp_path, jobs=0)
    with pytest.raises(
        InputError, match=r"no Ray cluster answers at 127\.0\.0\.1:1; start its head node with ray start"
    ):
        run_sweep(runs, tmp_path, ray_address="127.0.0.1:1")
