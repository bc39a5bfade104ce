"""compare_checkpoints.py: how often two models choose the same action."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atari_dt.model import DecisionTransformer, latest_checkpoint
from tests.scripts.commands import Refuse, call

SCRIPT = "benchmarks/compare_checkpoints.py"


def test_actions_are_compared_at_every_step(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = DecisionTransformer.from_pretrained(latest_checkpoint(run))
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight.roll(1, 0))  # whatever was action 0 is action 1
    model.save_pretrained(tmp_path / "shifted")
    for other, agreed in ((run, 11), (tmp_path / "shifted", 0)):
        options = ("--data", run.parent / "store", "--batch-size", 4)
        assert call(monkeypatch, SCRIPT, run, other, *options) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"same most likely action: {agreed} of 11 contexts ({agreed / 11:.2%})"
        divergence = float(lines[1].split()[-2])
        assert divergence == 0 if other == run else divergence > 0
        assert len(lines) == (2 if other == run else 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{run} {run} --data {store} --num-contexts 0", "--num-contexts must be at least 1, not 0"),
        ("{run} {run} --data {pong}", "differ in game, context length or observation"),
        ("{run} {tmp}/none --data {store}", "no run with a checkpoint at {tmp}/none"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse(SCRIPT, options, message)
