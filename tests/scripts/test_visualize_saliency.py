"""visualize_saliency.py: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
