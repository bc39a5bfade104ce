"""Precision: where the hardware lacks instructions for bfloat16."""

from __future__ import annotations

import platform

import pytest
import torch

from atari_dt.collection.pqn import PQNPlayer, recorded_settings
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_precision, set_up_compute
from atari_dt.player_config import PQNConfig

CPU = torch.device("cpu")


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("without_bfloat16")
def test_emulated_bfloat16_is_warned_of_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert set_up_compute("cpu", "bf16", "off").dtype == torch.bfloat16
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("warning: the CPU here emulates bfloat16")
    for words in ("27 s", "1.9 s in float32", "precision to auto or fp32"):
        assert words in line


@pytest.mark.usefixtures("without_bfloat16")
def test_a_player_that_learns_warns_once(capsys: pytest.CaptureFixture[str]) -> None:
    config = PQNConfig(num_envs=2, steps_per_update=4, minibatch_size=8, precision="bf16", device="cpu")
    PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 100, config, seed=0)
    assert recorded_settings(config)["precision"] == "bf16"
    assert capsys.readouterr().err.count("emulates bfloat16") == 1


@pytest.mark.usefixtures("without_bfloat16")
@pytest.mark.parametrize(("precision", "local_rank"), [("auto", 0), ("fp32", 0), ("bf16", 1)])
def test_float32_and_other_processes_do_not_warn(
    capsys: pytest.CaptureFixture[str], precision: str, local_rank: int
) -> None:
    assert set_up_compute("cpu", precision, "off", local_rank).dtype == find_precision(precision, CPU)
    assert find_precision("auto", CPU) == torch.float32
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("supported", "machine"), [(True, "x86_64"), (False, "arm64")])
def test_hardware_that_may_have_the_instructions_is_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], supported: bool, machine: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert set_up_compute("cpu", "bf16", "off").dtype == torch.bfloat16
    assert capsys.readouterr().err == ""
