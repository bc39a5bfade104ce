"""visualize_attention.py: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replay_data import TrajectoryStore
from tests.atari_dt.interpretation.vector_runs import vector_run
from tests.scripts.commands import (
    Refuse,
    assert_failed_write_leaves_nothing,
    call,
)


def test_what_a_run_attends_to_is_written_and_summed_up(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "attention"
    options = "--episodes 2 --return-multiple 0.5 --max-steps 20 --seed 4 --step 3"
    protocol = "--protocol original --sticky-actions 0.1"
    command = ("visualize_attention.py", run, "--out", out, *options.split(), *protocol.split())
    assert call(monkeypatch, *map(str, command)) == 0
    names = {"attention.png", "attention_distance.png", "attention.mp4", "attention.json", "viewer.html"}
    assert {path.name for path in out.iterdir()} == names
    numbers = json.loads((out / "attention.json").read_text())
    assert numbers["target_return"] == 0.5 * TrajectoryStore.open(run.parent / "store").metadata.max_return
    assert numbers["steps"] == [20, 20]
    conditions = "sticky actions 0.1, frames bilinear, noop max 29, second reset True, window timestep current"
    page = (out / "viewer.html").read_text(encoding="utf-8")
    assert f"{conditions}, reward units raw, integer returns True, seed 4" in page
    printed = capsys.readouterr().out
    assert "uniform attention" in printed
    assert f"viewer: {out / 'viewer.html'}" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere --out {tmp}/new", "no run with a checkpoint at {tmp}/nowhere"),
        ("{run} --out {pong}", "{pong} exists already"),
        ("{run} --out {tmp}/new --episodes 0", "--episodes must be at least 1, not 0"),
        ("{run} --out {tmp}/new --max-steps 1", "--max-steps must be at least 2"),
        ("{run} --out {tmp}/new --return-multiple nan", "target returns must be finite numbers"),
        ("{run} --out {tmp}/new --device tpu", "no device 'tpu'"),
        ("{run} --out {tmp}/new --patch 5", "--patch must be a divisor of 84"),
        ("{run} --out {tmp}/new --layer last", "--layer must be mean, rollout or a number from 1"),
        (
            "{run} --out {tmp}/new --max-steps 9 --layer 2",
            "--layer must be at most 1, the model's number of layers, not 2",
        ),
        ("{run} --out {tmp}/new --max-steps 9 --step 9", "--step must be between 0 and 8"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("visualize_attention.py", options, message)


def test_a_failed_write_leaves_nothing(run: Path, tmp_path: Path) -> None:
    assert_failed_write_leaves_nothing(
        "visualize_attention.py", "{store}/../run --max-steps 100 --out {tmp}/new", run, tmp_path
    )


def test_attention_of_a_model_of_ram_names_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = vector_run(tmp_path, "ram"), tmp_path / "attention"
    assert call(monkeypatch, "visualize_attention.py", run, "--out", out, "--max-steps", 4, "--no-video") == 0
    assert len(json.loads((out / "attention.json").read_text())["saliency_by_entry"]) == 128
    assert '"RAM 99 (ball_x)"' in (out / "viewer.html").read_text(encoding="utf-8")
    assert "share of the saliency" in capsys.readouterr().out
