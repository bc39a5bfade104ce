"""The benchmarks: the figures they write, and what they refuse."""

from __future__ import annotations

import importlib
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from atari_dt import hardware
from tests.atari_dt.training.processes import join, run_script, start
from tests.scripts.commands import (
    SCRIPTS,
    Refuse,
    call,
)


def test_the_throughput_benchmark_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    sizes = "--batch-size 2 --context-length 3 --num-steps 20 --updates 1 --rounds 2"
    options = f"{sizes} --device cpu --precisions bf16 fp32 --json {file}"
    process = start(run_script, "benchmarks/benchmark_throughput.py", options.split(), tmp_path / "printed")
    assert join([process]) == [0], (tmp_path / "printed.err").read_text()
    figures = json.loads(file.read_text())
    assert set(figures["project"]) == {"bf16", "fp32"}
    for values in figures["project"].values():
        assert values["contexts_per_s"] == pytest.approx(2 / values["seconds_per_update"])
        assert values["memory_bytes"] > 10**8
        assert 0 < values["mfu"] < 1


@pytest.mark.parametrize(
    ("supported", "options", "measured"),
    [(True, "", {"bf16", "fp32"}), (False, "", {"fp32"}), (False, "--precisions bf16", {"bf16"})],
)
def test_the_throughput_benchmark_leaves_emulated_bfloat16_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    supported: bool,
    options: str,
    measured: set[str],
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    contestants = importlib.import_module("throughput_contestants")
    monkeypatch.setattr(contestants, "Contestant", InstantContestant)
    monkeypatch.setattr(contestants, "time_parts", lambda *_: {"clip and optimizer": 1.0})
    monkeypatch.setattr(hardware, "matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    file = tmp_path / "figures.json"
    arguments = f"--device cpu --batch-size 2 --context-length 3 --num-steps 20 --json {file} {options}"
    assert call(monkeypatch, "benchmarks/benchmark_throughput.py", *arguments.split()) == 0
    assert set(json.loads(file.read_text())["project"]) == measured
    printed = capsys.readouterr().out
    assert ("bf16 is left out" in printed) == (measured == {"fp32"})
    assert ("bf16 in ms" in printed) == ("bf16" in measured)


class InstantContestant(nullcontext["InstantContestant"]):
    """A contestant whose updates take a second each."""

    def __init__(self, *_: object) -> None:
        super().__init__(self)

    def update(self, updates: int) -> float:
        return 1.0

    def memory(self) -> float:
        return 1.0


def test_the_evaluation_benchmark_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    sizes = "--game Pong --num-envs 2 --episodes-per-env 1 --context-length 2 --rounds 1 --max-steps 30"
    options = f"{sizes} --device cpu --attention --fast --json {file}"
    process = start(run_script, "benchmarks/benchmark_evaluation.py", options.split(), tmp_path / "printed")
    assert join([process]) == [0], (tmp_path / "printed.err").read_text()
    figures = json.loads(file.read_text())["figures"]
    assert list(figures) == ["2", "2, attention", "2, 8 targets", "2, fast", "2, cached"]
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
