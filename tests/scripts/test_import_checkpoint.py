"""import_checkpoint.py: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from atari_dt.model import DecisionTransformer
from tests.conftest import DATA
from tests.scripts.commands import (
    Refuse,
    call,
)


def test_a_checkpoint_of_the_original_code_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = DATA / "original_model" / "dt_small.pth", tmp_path / "original"
    assert call(monkeypatch, "import_checkpoint.py", path, "--game", "Pong", "--max-return", 20, "--out", out) == 1
    assert "has 4 actions, but Pong has 6; set --game to" in capsys.readouterr().err
    assert call(monkeypatch, "import_checkpoint.py", path, "--game", "Breakout", "--max-return", 40, "--out", out) == 0
    command = capsys.readouterr().out.split("python scripts/")[1].split()
    assert call(monkeypatch, *command, "--episodes", 2, "--max-steps", 30, "--no-videos", "--out", tmp_path / "e") == 0
    (evaluation,) = json.loads((tmp_path / "e" / "scores.json").read_text())["runs"][0]["evaluations"]
    assert evaluation["target_return"] == 40
    ours, theirs = DecisionTransformer.from_pretrained(out), DecisionTransformer.from_original_checkpoint(path)
    assert ours.config == theirs.config
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    unknown = tmp_path / "unknown"
    assert call(monkeypatch, "import_checkpoint.py", path, "--game", "Breakout", "--out", unknown) == 0
    assert "--target-returns" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate.py", unknown) == 1
    assert "does not know its dataset's largest return" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate.py", unknown, "--target-returns", 5, "--episodes", 1, "--max-steps", 9) == 0


@pytest.mark.parametrize(
    ("game", "num_actions", "options", "following"),
    [
        ("Qbert", 6, "", ["--target-returns", "2500"]),
        ("Skiing", 3, "", ["--target-returns", "R"]),
        ("Skiing", 3, "--max-return -30", ["--return-multiples", "1"]),
        ("Breakout", 4, "--method bc", []),
    ],
)
def test_the_suggested_command_has_the_path_and_a_target_of_the_game(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    game: str,
    num_actions: int,
    options: str,
    following: list[str],
) -> None:
    weights = torch.load(DATA / "original_model" / "dt_small.pth", weights_only=True)
    weights["action_embeddings.0.weight"] = torch.zeros(num_actions, weights["action_embeddings.0.weight"].shape[1])
    weights["head.weight"] = torch.zeros(num_actions, weights["head.weight"].shape[1])
    if "bc" in options:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("ret_emb")}
    torch.save(weights, tmp_path / "a.pth")
    out = tmp_path / "it's q dir"
    arguments = [tmp_path / "a.pth", "--game", game, *options.split(), "--out", out]
    assert call(monkeypatch, "import_checkpoint.py", *arguments) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[0].partition("next: ")[2])
    assert command == ["python", "scripts/evaluate.py", str(out), *following]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere.pth --game Pong --max-return 20 --out {tmp}/new", "no checkpoint at {tmp}/nowhere.pth"),
        (
            "{store}/metadata.json --game Pong --max-return 20 --out {tmp}/new",
            "holds no state dict of the original network",
        ),
        ("x --game Pong --max-return 1e39 --out {tmp}/new", "--max-return must be a finite number of magnitude 3.4e38"),
        (
            "x --game Pong --max-return nan --out {tmp}/new",
            "--max-return must be a finite number of magnitude 3.4e38 at most, not nan",
        ),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("import_checkpoint.py", options, message)
