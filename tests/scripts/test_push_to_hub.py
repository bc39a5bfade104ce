"""push_to_hub.py: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atari_dt.methods import load_model
from atari_dt.model import DecisionTransformer, ReportedEvaluation
from atari_dt.model.q_network import QNetwork
from tests.atari_dt.q_networks import CONFIGS, use_small_layers
from tests.scripts.commands import (
    Refuse,
    call,
)


def test_a_run_is_shared_with_its_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "evaluation" / "scores.json", tmp_path / "shared"
    options = ("--episodes", 2, "--max-steps", 9, "--no-videos", "--out", file.parent)
    assert call(monkeypatch, "evaluate.py", run, *options) == 0
    assert call(monkeypatch, "push_to_hub.py", run, "--repo-id", "a/b", "--scores", file, "--out", out) == 0
    model = DecisionTransformer.from_pretrained(out)
    evaluations = json.loads(file.read_text())["runs"][0]["evaluations"]
    assert model.evaluations == tuple(map(ReportedEvaluation.from_json, evaluations))
    assert f"its card is {out / 'README.md'}" in capsys.readouterr().out
    scores = json.loads(file.read_text())
    for name, value, message in (
        ("game", "Pong", "holds scores in Pong, but the model plays Breakout"),
        ("method", "cql", "holds scores of CQL, but the model is one of DT"),
        ("runs", [{"evaluations": [{"scores": []}]}], "holds no scores"),
        ("runs", 2 * scores["runs"], "holds scores of 2 runs"),
    ):
        file.write_text(json.dumps({**scores, name: value}))
        command = ("push_to_hub.py", run, "--repo-id", "a/b", "--scores", file, "--out", tmp_path / "other")
        assert call(monkeypatch, *command) == 1
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [file.parent, out]


def test_a_value_model_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_layers(monkeypatch.setattr)
    QNetwork(CONFIGS["rem"], num_actions=4).save_pretrained(tmp_path / "run")
    assert call(monkeypatch, "push_to_hub.py", tmp_path / "run", "--repo-id", "a/b", "--out", tmp_path / "out") == 0
    assert load_model(tmp_path / "out").config == CONFIGS["rem"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere --repo-id a/b", "no run with a checkpoint at {tmp}/nowhere"),
        ("{run} --repo-id a/b --scores {tmp}/no.json --out {tmp}/new", "{tmp}/no.json holds no scores"),
        ("{run} --repo-id a/b --out {store}", "{store} exists already"),
        ("{run} --repo-id a/b/c/d", "'a/b/c/d' cannot be written to the Hugging Face Hub"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("push_to_hub.py", options, message)
