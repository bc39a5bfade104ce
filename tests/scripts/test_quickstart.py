"""quickstart.py: what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

import atari_dt.collection.scripted
import atari_dt.experiments.sweep
import atari_dt.training
from atari_dt.config import ModelConfig, TrainingConfig, describe_differences
from atari_dt.experiments.run_config import RunConfig
from atari_dt.games.catalogue import Game
from atari_dt.recipes import INGREDIENTS
from atari_dt.training import read_training_run
from atari_dt.training.training_run import TrainingRun
from replay_data import InputError, TrajectoryStore
from replay_data.storage.locks import lock_directory
from replay_data.testing import write_random_store
from tests.scripts.commands import SCRIPTS, call


def assert_compared_with_like(printed: str, monkeypatch: pytest.MonkeyPatch, run: TrainingRun) -> None:
    """Check that the suggested behavior cloning and ablation train like the quickstart."""
    trained: dict[str, tuple[ModelConfig, TrainingConfig]] = {}

    def train(store: TrajectoryStore, out: Path, model: ModelConfig, training: TrainingConfig, resume: bool) -> None:
        assert model.method == "bc"
        trained["cloning"] = dataclasses.replace(model, conditioning="return"), training

    def run_sweep(runs: Mapping[str, RunConfig], *_: object) -> None:
        for name, config in runs.items():
            assert isinstance(config.model, ModelConfig)
            trained[name] = config.model, config.training

    with monkeypatch.context() as patch:
        patch.setattr(atari_dt.training, "train", train)
        patch.setattr(atari_dt.experiments.sweep, "run_sweep_and_report", run_sweep)
        for script in ("train.py", "ablate_context_length.py"):
            (options,) = re.findall(rf"scripts/{script} (.*)", printed.replace("\\\n", ""))
            assert call(patch, script, *shlex.split(options)) == 0
    for name in ("cloning", "K10-seed0"):
        model, training = trained[name]
        assert model == run.model
        # The ablation holds episodes out, and warms up for as many updates as with K = 30.
        ignored = (
            "epochs",
            "seed",
            *(("validation_fraction", "validation_seed", "warmup_tokens") if name != "cloning" else ()),
        )
        assert describe_differences(run.training.to_json(), training.to_json(), ignore=ignored) == ""


def test_quickstart_reports_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, printed = tmp_path / "quickstart", ""
    killed = out / ".data.partial-0123abcd"  # what a quickstart leaves that is killed while it plays
    killed.mkdir(parents=True)
    (killed / "frames.npy").write_bytes(bytes(1000))
    for seed, recipe in ((5, "--recipe paper"), (6, "")):  # the second call keeps what the first made
        options = f"--num-steps 300 --updates 5 --episodes 2 --max-steps 40 --seed {seed} {recipe}".split()
        assert call(monkeypatch, "quickstart.py", "--out", out, *options) == 0
        (out / "notes.txt").write_text("mine")
        results = json.loads((out / "results.json").read_text())
        store = TrajectoryStore.open(out / "data")
        assert store.metadata.source.details["seed"] == seed
        assert results["game"] == "Breakout"
        (dataset,) = results["datasets"]
        assert dataset["steps"] == len(store) >= 300
        assert dataset["episodes"] == store.num_episodes
        assert dataset["max_return"] == store.episode_returns.max()
        assert dataset["mean_return"] == pytest.approx(store.episode_returns.mean())
        assert [summary["return_multiple"] for summary in results["summary"]] == [0, 0.25, 0.5, 1, 2]
        for summary in results["summary"]:
            assert summary["target_return"] == summary["return_multiple"] * store.episode_returns.max()
            assert summary["score"]["points"]["episodes"] == 2
        assert 0 < results["train_seconds"] < results["total_seconds"]
        assert 0 <= results["random"]["score"]["points"]["mean"] < 10
        assert (out / "evaluation" / "1x-best.mp4").stat().st_size > 1000
        assert "target return" in (out / "attention" / "viewer.html").read_text(encoding="utf-8")
        assert json.loads((out / "attention" / "attention.json").read_text())["seed"] == seed
        assert not killed.exists()
        printed += (output := capsys.readouterr().out)
        assert_compared_with_like(output, monkeypatch, read_training_run(out / "run"))
    assert (out / "quickstart.png").read_bytes().startswith(b"\x89PNG")
    assert printed.count(f"a quickstart was killed while it made the data in {out}; this one begins anew") == 1
    assert f"the output of the previous quickstart is now in {out}.1" in printed
    earlier = tmp_path / "quickstart.1"
    assert (earlier / "notes.txt").read_text() == "mine"
    assert TrajectoryStore.open(earlier / "data").metadata.source.details["seed"] == 5
    assert "random policy" in printed
    assert "What to try next" in printed


@pytest.mark.parametrize(("recipe", "updates"), [("paper", 3000), ("fast", 800)])
def test_the_recipe_decides_how_the_quickstart_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, updates: int
) -> None:
    trained: list[tuple[ModelConfig, TrainingConfig]] = []

    def collect(game: Game, num_steps: int, out: Path, **_: object) -> TrajectoryStore:
        return write_random_store(out, [40] * 5)

    def train(store: TrajectoryStore, out: Path, model: ModelConfig, training: TrainingConfig) -> None:
        trained.append((model, training))
        raise InputError("that will do")

    monkeypatch.setattr(atari_dt.collection.scripted, "collect", collect)
    monkeypatch.setattr(atari_dt.training, "train", train)
    assert call(monkeypatch, "quickstart.py", "--out", tmp_path / "new", "--recipe", recipe) == 1
    ((model, training),) = trained
    assert training.max_updates == updates
    if recipe == "paper":
        assert model == ModelConfig(context_length=10, num_layers=3, dropout=0.0)
        assert training == TrainingConfig(epochs=10**6, max_updates=3000, batch_size=32, final_tokens=960_000, seed=0)
    for ingredient in INGREDIENTS.values() if recipe == "fast" else ():
        assert vars(model).items() >= ingredient.model.items()
        assert vars(training).items() >= ingredient.training.items()


@pytest.mark.parametrize("unfinished", ["data/metadata.json", ".data.partial-0123abcd/frames.npy"])
def test_quickstart_keeps_what_an_unfinished_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unfinished: str
) -> None:
    out = tmp_path / "quickstart"
    for name in (unfinished, "notes.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))  # ends it early
    assert call(monkeypatch, "quickstart.py", "--out", out) == 1
    printed = capsys.readouterr()
    assert "MB free" in printed.err
    assert f"the output of a quickstart that did not finish is now in {out}.1" in printed.out
    assert (tmp_path / "quickstart.1" / "notes.txt").read_text() == "mine"
    assert not out.exists()


@pytest.mark.parametrize("has_data", [True, False])
def test_quickstart_says_what_an_interrupted_one_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_data: bool
) -> None:
    """The advice of training, to continue with --resume, would not work."""
    out, output_directory = tmp_path / "quickstart", runpy.run_path(str(SCRIPTS / "quickstart.py"))["_output_directory"]

    def work() -> None:
        if has_data:
            (out / "data").mkdir()
            (out / "data" / "metadata.json").write_text("{}")
        raise KeyboardInterrupt("continue from it with --resume")

    with pytest.raises(KeyboardInterrupt) as interruption, output_directory(out):
        work()
    if not has_data:
        assert str(interruption.value) == "nothing was kept"
        assert not out.exists()
        return
    begins_anew = "the same command keeps it under another name and begins anew"
    assert str(interruption.value) == f"its output so far is in {out}; {begins_anew}"
    with output_directory(out):
        assert list(out.iterdir()) == []
    assert f"is now in {out}.1" in capsys.readouterr().out


def test_quickstart_leaves_a_running_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text("{}")
    with lock_directory(tmp_path):
        assert call(monkeypatch, "quickstart.py", "--out", tmp_path) == 1
    assert f"another command is doing a quickstart in {tmp_path}" in capsys.readouterr().err
    assert (tmp_path / "data" / "metadata.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "is not the output of a quickstart"),
        ("--max-steps 0", "--max-steps must be between 1 and 27000, not 0"),
        ("--max-steps 9", "--max-steps must be at least 10, the context length"),
        ("--updates 0", "--updates must be at least 1, not 0"),
        ("--episodes 0", "--episodes must be at least 1, not 0"),
        ("--seed -1", "--seed must be between 0"),
        ("--num-steps 31", "--num-steps must be at least 32"),
    ],
)
def test_quickstart_refuses_before_it_touches_anything(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    assert call(monkeypatch, "quickstart.py", "--out", tmp_path, *options.split()) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "data" / "thesis.tex").read_text() == "years of work"
