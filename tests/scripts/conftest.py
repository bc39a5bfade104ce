"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from ale_py import roms

from atari_dt.config import ModelConfig
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data.testing import write_random_store
from tests.conftest import DATA
from tests.scripts.commands import Refuse, call


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of an untrained model, beside its store."""
    path = tmp_path_factory.mktemp("runs") / "run"
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16), num_actions=4, max_timestep=100)
    model.dataset = DatasetInfo.from_store(write_random_store(path.parent / "store", [5, 6]))
    model.save_pretrained(path / "checkpoints" / "update-00000007")
    return path


@pytest.fixture
def refuse(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """A function that checks that a command refuses its options with one sentence, and writes nothing.

    Options and message may name the paths ``{tmp}``, ``{run}``, ``{store}``, ``{pong}``, ``{pong_rom}`` and ``{log}``.
    """
    pong = tmp_path / "pong"
    write_random_store(pong, [4], game="Pong")
    paths = {"tmp": tmp_path, "run": run, "store": run.parent / "store", "pong": pong, "log": DATA / "dopamine_log"}
    paths["pong_rom"] = Path(str(roms.get_rom_path("pong")))

    def check(script: str, options: str, message: str) -> None:
        assert call(monkeypatch, script, *(option.format(**paths) for option in options.split())) == 1
        lines = capsys.readouterr().err.splitlines()
        bars = ("training", "reading", "downloading", "evaluating")
        errors = [line for line in lines if line and not line.startswith(bars)]
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        assert message.format(**paths) in errors[0]
        assert list(tmp_path.iterdir()) == [pong]

    return check
