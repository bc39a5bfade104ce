"""The benchmark of the value-based methods: its figures, d3rlpy's data, and what it refuses."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from replay_data.testing import write_random_store
from tests.scripts.commands import SCRIPTS, Refuse, call

SCRIPT = "benchmarks/benchmark_value_methods.py"


class SteadyContestant(nullcontext["SteadyContestant"]):
    """A contestant whose updates get slower by the round."""

    versions: ClassVar = {"d3rlpy": "2.8.1", "torch": "2.13.0"}

    def __init__(self, seconds: float, *_: object) -> None:
        super().__init__(self)
        self._seconds, self._round = seconds, 0

    def update(self, updates: int) -> float:
        self._round += 1
        return self._seconds * self._round


def test_it_compares_each_method_that_d3rlpy_has_round_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    monkeypatch.setattr(importlib.import_module("throughput_contestants"), "Contestant", partial(SteadyContestant, 0.1))
    peers = importlib.import_module("value_method_contestants")
    monkeypatch.setattr(peers, "D3rlpyContestant", partial(SteadyContestant, 0.25))
    file = tmp_path / "figures.json"
    options = f"--d3rlpy-python python --num-steps 10 --rounds 3 --precisions fp32 --device cpu --json {file}"
    assert call(monkeypatch, SCRIPT, *options.split()) == 0
    figures = json.loads(file.read_text())
    assert figures["peer"] == SteadyContestant.versions
    assert set(figures["methods"]) == {"qrdqn", "cql", "rem"}
    for method in ("qrdqn", "cql"):
        project, peer = figures["methods"][method]["fp32"], figures["methods"][method]["d3rlpy"]
        assert project["updates_per_s"] == pytest.approx(5)
        assert peer["updates_per_s"] == pytest.approx(2)
        assert [project["ratio"], *project["ratio_range"]] == pytest.approx([2.5] * 3)
    assert set(figures["methods"]["rem"]) == {"fp32"}
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["cql,", "fp32", "5.0", "2.50", "times", "(2.50", "to", "2.50)"] in lines


def test_d3rlpy_gets_the_states_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_random_store(tmp_path / "store", [5, 1, 7], repeat_frames=False)
    dataset = SimpleNamespace(Episode=lambda *fields: fields, create_infinite_replay_buffer=lambda episodes: episodes)
    monkeypatch.setitem(sys.modules, "d3rlpy", SimpleNamespace(dataset=dataset))
    monkeypatch.syspath_prepend(SCRIPTS / "benchmarks")
    monkeypatch.delitem(sys.modules, "d3rlpy_contestant", raising=False)
    episodes = importlib.import_module("d3rlpy_contestant").load_episodes(store.path)
    monkeypatch.delitem(sys.modules, "d3rlpy_contestant")
    states, actions, rewards, terminated = zip(*episodes, strict=True)
    assert [len(each) for each in states] == [5, 1, 7]
    np.testing.assert_array_equal(np.concatenate(states), [store.state(step) for step in range(13)])
    np.testing.assert_array_equal(np.concatenate(actions), store.actions[:, None])
    np.testing.assert_array_equal(np.concatenate(rewards), store.rewards[:, None])
    assert terminated == (True, True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rounds 0", "all sizes must be at least 1"),
        ("--methods cql cql", "--methods must hold at least one value, each once"),
        ("--methods rem --d3rlpy-python python", "d3rlpy has none of --methods; leave out --d3rlpy-python"),
        ("--data {tmp}/none", "{tmp}/none"),
        ("--d3rlpy-python {tmp}/none --num-steps 9", "cannot start {tmp}/none: No such file or directory"),
        (f"--d3rlpy-python {sys.executable} --num-steps 9", "ModuleNotFoundError: No module named 'd3rlpy'"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse(SCRIPT, options, message)
