"""The benchmarks: the figures they write, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.commands import (
    SCRIPTS,
    Refuse,
)


def test_the_throughput_benchmark_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = [
        "--batch-size",
        "2",
        "--context-length",
        "3",
        "--num-steps",
        "20",
        "--updates",
        "1",
        "--rounds",
        "2",
        "--device",
        "cpu",
    ]
    command = [sys.executable, str(SCRIPTS / "benchmarks" / "benchmark_throughput.py"), *options, "--json", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())
    assert set(figures["project"]) == {"bf16", "fp32"}
    for values in figures["project"].values():
        assert values["contexts_per_s"] == pytest.approx(2 / values["seconds_per_update"])
        assert values["memory_bytes"] > 10**8
        assert 0 < values["mfu"] < 1


def test_the_evaluation_benchmark_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = "--game Pong --num-envs 2 --episodes-per-env 1 --context-length 2 --rounds 1 --max-steps 30 --device cpu"
    command = [
        sys.executable,
        str(SCRIPTS / "benchmarks" / "benchmark_evaluation.py"),
        *options.split(),
        "--attention",
        "--json",
        str(file),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())["figures"]
    assert list(figures) == ["2", "2, attention", "2, 8 targets"]
    for values in figures.values():
        assert values["steps_per_s"] > 0
        parts = [values[part] for part in ("emulator", "encoder", "transformer", "rest")]
        assert sum(parts) == pytest.approx(1)
        assert min(parts) > 0


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("benchmarks/benchmark_throughput.py", "--original {tmp}", "{tmp} is not a checkout of the original code"),
        ("benchmarks/benchmark_throughput.py", "--batch-size 0", "all sizes must be at least 1"),
        ("benchmarks/benchmark_evaluation.py", "--original {tmp}", "{tmp} is not a checkout of the original code"),
        ("benchmarks/benchmark_evaluation.py", "--rounds 0", "all sizes must be at least 1"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, script: str, options: str, message: str) -> None:
    refuse(script, options, message)
