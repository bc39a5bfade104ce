"""The options of commands that choose what a model observes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import pytest

import atari_dt.collection.scripted
import atari_dt.experiments.sweep
import atari_dt.training
from atari_dt.config import FRAME_SETTINGS, ModelConfig, TrainingConfig
from atari_dt.evaluation import load_policy
from atari_dt.experiments.run_config import RunConfig
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.recipes import INGREDIENTS
from replay_data import InputError, TrajectoryStore
from replay_data.observation import RAM
from replay_data.testing import write_random_store
from tests.scripts.commands import call

Start: TypeAlias = Callable[[str, str], list[tuple[ModelConfig, TrainingConfig]]]

SMALL = "--num-layers 1 --context-length 2 --batch-size 4"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the stores of two games that have RAM, and a third that has none."""
    path = tmp_path_factory.mktemp("stores")
    for game in ("Breakout", "Alien"):
        write_random_store(path / game.lower(), [75] * 20, game=game, repeat_frames=True, ram=True)
    write_random_store(path / "pong", [60] * 5, game="Pong", repeat_frames=True)
    return path


@pytest.fixture
def start(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A function that calls a command on Breakout, and returns the configs of the runs that it starts."""
    started: list[tuple[ModelConfig, TrainingConfig]] = []

    def train(store: TrajectoryStore, out: Path, model: ModelConfig, training: TrainingConfig, *_: Any) -> None:
        started.append((model, training))

    def run_sweep(runs: Mapping[str, RunConfig], *_: Any) -> None:
        for each in runs.values():
            assert isinstance(each.model, ModelConfig)
            started.append((each.model, each.training))

    monkeypatch.setattr(atari_dt.training, "train", train)
    monkeypatch.setattr(atari_dt.experiments.sweep, "run_sweep_and_report", run_sweep)

    def call_command(script: str, options: str) -> list[tuple[ModelConfig, TrainingConfig]]:
        path = stores if script == "reproduce_benchmark.py" else stores / "breakout"
        games = ["--games", "Breakout"] if script == "reproduce_benchmark.py" else []
        started.clear()
        assert call(monkeypatch, script, "--data", path, "--out", tmp_path / "run", *games, *options.split()) == 0
        return list(started)

    return call_command


@pytest.mark.parametrize("script", ["train.py", "ablate_context_length.py", "reproduce_benchmark.py"])
def test_the_fast_recipe_on_vectors_leaves_out_the_ingredients_of_convolutions(start: Start, script: str) -> None:
    runs = start(script, "--recipe fast --observation variables --variables ball_x player_x --predict state return")
    assert runs
    for model, training in runs:
        assert (model.observation, model.variables) == ("variables", ("ball_x", "player_x"))
        assert model.predict == ("state", "return")
        for ingredient in INGREDIENTS.values():
            for name, value in ingredient.model.items():
                assert getattr(model, name) == (getattr(ModelConfig, name) if name in FRAME_SETTINGS else value)
            assert vars(training).items() >= ingredient.training.items()
    assert all(model.encoder_channels == (16, 32, 64) for model, _ in start(script, "--recipe fast"))


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("train.py", "--data {pong} --observation ram", "the store at {pong} has no RAM; "),
        ("train.py", "--data {pong} --observation ram", "scripts/collect_replay.py, --ram"),
        ("train.py", "--data {pong} --observation ram", "or set --observation to frames"),
        ("ablate_context_length.py", "--data {pong} --observation variables", "the store at {pong} has no RAM; "),
        ("reproduce_benchmark.py", "--data {all} --games Pong --observation ram --preset quick", "{pong} has no RAM; "),
        (
            "reproduce_benchmark.py",
            "--data {tmp}/new --games Pong --data-from q_learning --observation ram",
            "data from q_learning has no RAM; set --data-from to scripted, or --observation to frames",
        ),
        (
            "reproduce_benchmark.py",
            "--data {tmp}/new --games Alien --data-from jat --observation variables",
            "there is no table of variables for Alien, only for",
        ),
        ("train.py", "--data {alien} --observation variables", "there is no table of variables for Alien, only for"),
        ("ablate_context_length.py", "--data {alien} --observation variables", "there is no table of variables for"),
        (
            "train.py",
            "--data {breakout} --observation variables --variables ball_x paddle",
            "Breakout has no variable 'paddle'; --variables may be ball_x, ball_y, player_x, ",
        ),
        (
            "train.py",
            "--data {breakout} --observation variables --variables ball_x ball_x",
            "--variables names a variable twice; name each of them once",
        ),
        (
            "train.py",
            "--data {breakout} --variables ball_x",
            "--variables has no effect on --observation frames; leave it out, or set --observation to variables",
        ),
        (
            "train.py",
            "--data {breakout} --observation ram --frame-differences",
            "--frame-differences has no effect on --observation ram; leave it out",
        ),
        (
            "train.py",
            "--data {breakout} --predict state",
            "--predict state needs --observation ram or variables; frames are not predicted",
        ),
        (
            "train.py",
            "--data {breakout} --observation ram --state-loss-weight 2",
            "--state-loss-weight has no effect without --predict state; leave it out",
        ),
        (
            "reproduce_benchmark.py",
            "--data {all} --games Breakout --methods cql --observation ram",
            "--observation is an option of bc, dt, and --methods has none of them",
        ),
    ],
)
def test_bad_input_gets_one_sentence(
    stores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    options: str,
    message: str,
) -> None:
    paths: dict[str, Path] = {"tmp": tmp_path, "all": stores, **{path.name: path for path in stores.iterdir()}}
    sizes = "" if script == "reproduce_benchmark.py" else SMALL
    if script == "ablate_context_length.py":
        sizes = sizes.replace("--context-length 2", "--context-lengths 2")
    arguments = f"{options.format(**paths)} {sizes}".split()
    assert call(monkeypatch, script, "--out", tmp_path / "new", *arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("training")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message.format(**paths) in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def runs(stores: Path) -> dict[str, Path]:
    """Runs with a checkpoint of an untrained model: one observes frames, one RAM."""
    paths = {}
    for observation in ("frames", "ram"):
        config: Any = {"observation": observation}
        spec = {"observation": RAM} if observation == "ram" else {}
        model = DecisionTransformer(ModelConfig(2, 1, 2, 16, **config), num_actions=4, max_timestep=100, **spec)
        model.dataset = DatasetInfo.from_store(TrajectoryStore.open(stores / "breakout"))
        paths[observation] = stores.parent / f"{stores.name}-{observation}"
        model.save_pretrained(paths[observation] / "checkpoints" / "update-00000007")
    return paths


def test_runs_of_different_observations_are_not_evaluated_together(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "evaluate.py", *runs.values()) == 1
    assert capsys.readouterr().err == (
        "error: these runs differ in observation; evaluate runs together only if they differ in nothing but their "
        "seed\n"
    )


def test_a_model_of_ram_plays_ram(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--episodes 1 --max-steps 5 --target-returns 1 --no-videos --out {tmp_path / 'scores'}".split()
    assert call(monkeypatch, "evaluate.py", runs["ram"], *options) == 0
    assert "played: " in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "scores" / "scores.json").read_text())["runs"]
    assert result


class StandInEnvs(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Two environments that know their action space, but not the meanings of the actions."""

    num_envs = 2
    single_action_space = gymnasium.spaces.Discrete(4)


def test_other_observations_than_a_models_own_are_refused(runs: dict[str, Path]) -> None:
    """A model of frames cannot play RAM, nor the reverse."""
    observations = {"frames": np.zeros((2, 4, 84, 84), np.uint8), "ram": np.zeros((2, 128), np.uint8)}
    shapes = {"frames": r"\(2, 4, 84, 84\)", "ram": r"\(2, 128\)"}
    for name, other in (("frames", "ram"), ("ram", "frames")):
        policy = load_policy(runs[name], target_return=1.0)
        policy.reset(StandInEnvs())
        assert policy.act(observations[name], np.zeros(2), np.zeros(2, dtype=bool)).shape == (2,)
        message = f"must be uint8 {shapes[name]} for a model that observes {name}, not uint8 {shapes[other]}"
        with pytest.raises(ValueError, match=message):
            policy.act(observations[other], np.zeros(2), np.zeros(2, dtype=bool))


@pytest.mark.parametrize("observation", ["frames", "ram"])
def test_the_quickstart_observes_what_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observation: str
) -> None:
    trained: list[tuple[ModelConfig, TrainingConfig, Path]] = []

    def collect(game: Any, num_steps: int, out: Path, **_: Any) -> TrajectoryStore:
        return write_random_store(out, [40] * 5, repeat_frames=True, ram=True)

    def train(store: TrajectoryStore, out: Path, model: ModelConfig, training: TrainingConfig) -> None:
        trained.append((model, training, out))
        raise InputError("that will do")

    monkeypatch.setattr(atari_dt.collection.scripted, "collect", collect)
    monkeypatch.setattr(atari_dt.training, "train", train)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "quickstart.py", "--observation", observation) == 1
    ((model, training, out),) = trained
    assert (model.observation, model.context_length, model.num_layers) == (observation, 10, 3)
    assert (training.max_updates, training.batch_size) == (800, 32)
    assert out == Path("runs/quickstart" if observation == "frames" else "runs/quickstart-ram") / "run"
