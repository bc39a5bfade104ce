"""evaluate.py: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from ale_py import roms
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atari_dt.config import ModelConfig
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.protocol import PROTOCOLS
from replay_data import TrajectoryStore
from tests.atari_dt.q_networks import CONFIGS, use_small_layers
from tests.scripts.commands import (
    Refuse,
    assert_failed_write_leaves_nothing,
    call,
)


def test_evaluate_writes_everything_it_found(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    targets = ("--return-multiples", "0.5", "2", "--target-returns", "-7.5")
    options = ("--episodes", "3", "--num-envs", "4", "--max-steps", "50", "--seed", "1")
    # Two seeds of one run; this module's is both.
    assert call(monkeypatch, "evaluate.py", run, run, *targets, *options, "--out", out) == 0
    result = json.loads((out / "scores.json").read_text())
    assert result["game"] == "Breakout"
    assert [each["run"] for each in result["runs"]] == 2 * [str(run / "checkpoints" / "update-00000007")]
    largest = TrajectoryStore.open(run.parent / "store").metadata.max_return
    for evaluations in (each["evaluations"] for each in result["runs"]):
        for multiple, evaluation in zip((0.5, 2, None), evaluations, strict=True):
            assert evaluation["return_multiple"] == multiple
            assert evaluation["target_return"] == (-7.5 if multiple is None else multiple * largest)
            assert len(evaluation["scores"]) == 3
            mean = sum(evaluation["scores"]) / 3
            variance = sum((score - mean) ** 2 for score in evaluation["scores"]) / 3
            assert evaluation["mean_score"] == pytest.approx(mean)
            assert evaluation["std_score"] == pytest.approx(variance**0.5)
    points = result["summary"][0]["score"]["points"]
    scores = 2 * result["runs"][0]["evaluations"][0]["scores"]
    assert (points["seeds"], points["episodes"]) == (2, 6)
    assert points["mean"] == pytest.approx(sum(scores) / 6)
    normalized = result["summary"][0]["score"]["normalized_as_in_the_paper"]
    assert normalized["mean"] == pytest.approx(100 * (sum(scores) / 6 - 2) / 28)
    assert result["protocol"]["sticky_actions"] == 0.25
    rom = roms.get_rom_path("breakout")
    assert rom is not None
    assert result["rom_sha256"] == hashlib.sha256(rom.read_bytes()).hexdigest()
    printed = capsys.readouterr().out
    for name in ("(0.5×)", "-7.5", "random policy", "dataset, best", "Chen et al. 2021, 3 seeds", "played: "):
        assert name in printed
    assert list(tmp_path.iterdir()) == [out]
    files = {path.name for path in out.iterdir()}
    assert {"scores.json", "target_returns.png", "scores.png", "2x-best.mp4", "target--7.5-worst.mp4"} <= files
    events = EventAccumulator(str(out), size_guidance={"images": 0})
    events.Reload()
    assert events.Scalars("evaluation/mean_score/0.5x")[0].step == 7
    assert {"evaluation/target_returns", "evaluation/scores", "evaluation/2x-best"} <= set(events.Tags()["images"])
    assert events.Images("evaluation/2x-best")[0].encoded_image_string.startswith(b"GIF89a")
    assert "evaluation/scores/2x" in events.Tags()["histograms"]


def test_the_original_protocol_and_a_rom_file_play(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rom = roms.get_rom_path("breakout")
    assert rom is not None
    changed = bytearray(rom.read_bytes())
    changed[5] ^= 1  # no ROM that ALE knows
    (tmp_path / "old.rom").write_bytes(changed)
    options = "--episodes 2 --max-steps 20 --return-multiples 1 --protocol original --sticky-actions 0.5 --no-videos"
    command = ("evaluate.py", run, *options.split(), "--rom", tmp_path / "old.rom", "--out", tmp_path / "out")
    assert call(monkeypatch, *map(str, command)) == 0
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert result["rom_sha256"] == hashlib.sha256(changed).hexdigest()
    assert result["protocol"] == {
        "sticky_actions": 0.5,
        "frames": "bilinear",
        "noop_max": 29,
        "second_reset": True,
        "window_timestep": "current",
        "reward_units": "raw",
        "integer_returns": True,
        "cache": "off",
    }
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_behavior_cloning_is_evaluated_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16, conditioning="none"), num_actions=4, max_timestep=100)
    model.dataset = DatasetInfo.from_store(TrajectoryStore.open(run.parent / "store"))
    model.save_pretrained(tmp_path / "cloning")
    options = ("--episodes", 2, "--max-steps", 9, "--out", tmp_path / "evaluation")
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", *options) == 0
    (evaluation,) = json.loads((tmp_path / "evaluation" / "scores.json").read_text())["runs"][0]["evaluations"]
    assert evaluation["target_return"] is evaluation["return_multiple"] is None
    assert len(evaluation["scores"]) == 2
    assert "none (BC)" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", "--return-multiples", 1) == 1
    assert "behavior cloning has no target return" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", run) == 1
    assert "these runs differ in method; evaluate" in capsys.readouterr().err
    other = DecisionTransformer(dataclasses.replace(model.config, context_length=3), num_actions=4, max_timestep=100)
    other.dataset = dataclasses.replace(model.dataset, sticky_actions=0.125)
    other.save_pretrained(tmp_path / "other")
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", tmp_path / "other") == 1
    assert "these runs differ in sticky_actions, context_length; evaluate" in capsys.readouterr().err


def test_value_models_are_evaluated_under_both_protocols(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_layers(monkeypatch.setattr)
    model = QNetwork(CONFIGS["cql"], num_actions=4)
    model.dataset = DatasetInfo.from_store(TrajectoryStore.open(run.parent / "store"))
    checkpoint, out = tmp_path / "cql" / "checkpoints" / "update-00001200", tmp_path / "evaluation"
    model.save_pretrained(checkpoint)
    small = ("--episodes", 2, "--max-steps", 9, "--device", "cpu")
    assert call(monkeypatch, "evaluate.py", tmp_path / "cql", *small, "--protocol", "original", "--out", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "none (CQL)",
        "Chen et al. 2021 61.1",
        "d3rlpy-benchmarks, 10 seeds 22.0 ± 2.1",
        "CQL after 1,200 updates",
    ):
        assert text in printed
    scores = json.loads((out / "scores.json").read_text())
    assert scores["method"] == "cql"
    assert scores["protocol"] == dataclasses.asdict(PROTOCOLS["original"])
    assert (scores["runs"][0]["run"], scores["runs"][0]["updates"]) == (str(checkpoint), 1200)
    assert scores["runs"][0]["evaluations"][0]["target_return"] is None
    assert {"cql-best.mp4", "cql-worst.mp4", "target_returns.png", "scores.png"} <= {
        file.name for file in out.iterdir()
    }
    for options, message in (
        (("--target-returns", 5), "conservative Q-learning (CQL) has no target return; leave --return-multiples, "),
        (("--data", run.parent / "store"), "--target-returns and --data out"),
        (("--temperature", 0), "--temperature and --top-k have no effect on CQL"),
        (("--protocol", "original", "--window-timestep", "first"), "--integer-returns have no effect on CQL"),
        (("--cache", "on"), "--cache must be 'auto' or 'off' for this model"),
        ((run,), "these runs differ in method; evaluate"),
    ):
        assert call(monkeypatch, "evaluate.py", tmp_path / "cql", *options, *small) == 1
        assert message in capsys.readouterr().err


def test_data_without_a_positive_return_is_evaluated_at_percentiles(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = DecisionTransformer.from_pretrained(run / "checkpoints" / "update-00000007")
    assert model.dataset is not None
    percentiles = (-4.0,) * 60 + (-2.0,) * 41
    model.dataset = dataclasses.replace(model.dataset, max_return=-2.0, return_percentiles=percentiles)
    model.save_pretrained(tmp_path / "run")
    small = ("--episodes", 1, "--max-steps", 2, "--device", "cpu")
    assert call(monkeypatch, "evaluate.py", tmp_path / "run", *small, "--no-videos", "--out", tmp_path / "out") == 0
    note, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert note.startswith("note: no episode of the data has a positive return, so the default target returns are ")
    assert first.lstrip().startswith("-4.0 (percentile 50)")
    assert second.lstrip().startswith("-2.0 (percentile 100)")
    assert (tmp_path / "out" / "target_returns.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere", "no run with a checkpoint at {tmp}/nowhere"),
        ("{run} --data {pong}", "the model plays Breakout, but the store at {pong} is of Pong"),
        ("{run} --episodes 0", "--episodes must be at least 1, not 0"),
        ("{run} --seed -1", "--seed must be at least 0, not -1"),
        ("{run} --max-steps 30000", "--max-steps must be between 1 and 27000, not 30000"),
        ("{run} --return-multiples nan", "finite"),
        ("{run} --target-returns inf", "finite"),
        ("{run} --target-returns 1 --data {store}", "--data has no effect on --target-returns"),
        ("{run} --temperature -1", "--temperature must be 0 (greedy) or more"),
        ("{run} --top-k 0", "--top-k must be at least 1"),
        ("{run} --noop-max -1", "--noop-max must be between 0 and 1000"),
        ("{run} --sticky-actions 7", "--sticky-actions must be a probability"),
        ("{run} --out {pong}", "{pong} exists already"),
        ("{run} --out {pong}/metadata.json/x", "{pong}/metadata.json/x cannot be written"),
        ("{run} --rom {tmp}/nothing", "{tmp}/nothing cannot be read"),
        ("{run} --rom {pong}/metadata.json", "ALE cannot play {pong}/metadata.json"),
        ("{run} --rom {pong_rom}", "{pong_rom} is a ROM of Pong, not of Breakout"),
        ("", "no run was given"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("evaluate.py", options, message)


def test_a_failed_write_leaves_nothing(run: Path, tmp_path: Path) -> None:
    assert_failed_write_leaves_nothing(
        "evaluate.py", "{store}/../run --return-multiples 1 --max-steps 100 --episodes 2 --out {tmp}/new", run, tmp_path
    )
