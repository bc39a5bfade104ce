"""visualize_saliency.py: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.atari_dt.interpretation.vector_runs import vector_run
from tests.scripts.commands import Refuse, call


def test_saliency_of_a_run_is_written_and_summed_up(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "saliency"
    options = "--max-steps 6 --target-return 3 --explain advantage --occlusion --patch 42 --no-video"
    assert call(monkeypatch, "visualize_saliency.py", run, "--out", out, *options.split()) == 0
    assert {path.name for path in out.iterdir()} == {"saliency.png", "saliency.json", "viewer.html"}
    numbers = json.loads((out / "saliency.json").read_text())
    assert (numbers["steps"], numbers["target_return"], numbers["explained"]) == ([6], 3.0, "the advantage")
    assert '"saliencyMethods": ["gradient \\u00d7 input", "occlusion"]' in (out / "viewer.html").read_text()
    printed = capsys.readouterr().out
    assert "share of the saliency" in printed
    assert f"viewer: {out / 'viewer.html'}" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere --out {tmp}/new", "no run with a checkpoint at {tmp}/nowhere"),
        ("{run} --out {pong}", "{pong} exists already"),
        ("{run} --out {tmp}/new --max-steps 1", "--max-steps must be at least 2"),
        ("{run} --out {tmp}/new --patch 5", "--patch must be a divisor of 84"),
        ("{run} --out {tmp}/new --cache on", "--cache must be 'auto' or 'off'"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("visualize_saliency.py", options, message)


def test_saliency_of_a_model_of_variables_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = vector_run(tmp_path, "variables", ("ball_x", "player_x")), tmp_path / "saliency"
    assert call(monkeypatch, "visualize_saliency.py", run, "--out", out, "--max-steps", 4, "--no-video") == 0
    numbers = json.loads((out / "saliency.json").read_text())
    assert set(numbers["saliency_by_entry"]) == {"ball_x", "player_x"}
    assert sum(numbers["saliency_by_entry"].values()) == pytest.approx(1)
    assert "ball_x" in capsys.readouterr().out
    command = ("visualize_saliency.py", run, "--out", tmp_path / "new", "--patch", 6)
    assert call(monkeypatch, *command) == 1
    assert "--patch has no effect on a model that observes variables" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
