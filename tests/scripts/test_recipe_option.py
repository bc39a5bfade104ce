"""The option of train.py, reproduce_benchmark.py and ablate_context_length.py that chooses the recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import atari_dt.experiments.sweep
import atari_dt.training
from atari_dt import recipes
from atari_dt.config import TrainingConfig
from atari_dt.experiments.run_config import RunConfig
from atari_dt.games.catalogue import find_game
from atari_dt.games.presets import PRESETS
from atari_dt.method_config import MethodConfig, ValueConfig
from atari_dt.recipes import Ingredient
from replay_data import TrajectoryStore
from replay_data.testing import write_random_store
from tests.scripts.commands import call

Configs: TypeAlias = Mapping[str, tuple[Any, TrainingConfig]]
"""Configs of runs, by the name of the run."""

Start: TypeAlias = Callable[..., Configs]

LEARNING: dict[str, dict[str, Any]] = {
    "model": {"dropout": 0.25},
    "training": {"learning_rate": 0.5, "weight_decay": 0.0},
}
COMMANDS = ["train.py", "reproduce_benchmark.py", "ablate_context_length.py"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A function that calls a command with a game and options, and returns the configs of the runs that it starts."""
    started: dict[str, tuple[MethodConfig, TrainingConfig]] = {}

    def train(store: TrajectoryStore, out: Path, model: MethodConfig, training: TrainingConfig, resume: bool) -> None:
        started[out.name] = model, training

    def run_sweep(runs: Mapping[str, RunConfig], *_: Any) -> None:
        for name, run in runs.items():
            started[name] = run.model, run.training

    monkeypatch.setattr(atari_dt.training, "train", train)
    monkeypatch.setattr(atari_dt.experiments.sweep, "run_sweep_and_report", run_sweep)

    def call_command(script: str, options: str, game: str = "Breakout") -> Configs:
        data = tmp_path / "data" / game
        if not data.exists():
            write_random_store(data, [75] * 20, game=game, repeat_frames=True)
        path = data.parent if script == "reproduce_benchmark.py" else data
        games = ["--games", game] if script == "reproduce_benchmark.py" else []
        started.clear()
        assert call(monkeypatch, script, "--data", path, "--out", tmp_path / "run", *games, *options.split()) == 0
        return dict(started)

    return call_command


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fast recipe consist of `LEARNING`."""
    monkeypatch.setattr(recipes, "INGREDIENTS", {"learning": Ingredient(LEARNING["model"], LEARNING["training"])})


@pytest.mark.parametrize("options", ["", "--recipe paper"])
@pytest.mark.parametrize("game", PRESETS)
def test_the_default_is_the_papers_recipe(start: Start, game: str, options: str) -> None:
    preset = PRESETS[game]
    assert start("train.py", options, find_game(game).name) == {"run": (preset.model, preset.training)}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("script", COMMANDS)
def test_the_default_of_a_sweep_is_the_papers_recipe(start: Start, script: str) -> None:
    for model, training in start(script, "").values():
        assert (model.dropout, training.learning_rate, training.weight_decay) == (0.1, 6e-4, 0.1)
    assert start(script, "") == start(script, "--recipe paper")


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("script", COMMANDS)
def test_given_options_override_the_recipe(start: Start, script: str) -> None:
    runs = start(script, "--recipe fast")
    assert {(model.dropout, training.learning_rate, training.weight_decay) for model, training in runs.values()} == {
        (0.25, 0.5, 0.0)
    }
    runs = start(script, "--recipe fast --learning-rate 0.125 --weight-decay 0.1 --num-heads 4")
    for model, training in runs.values():
        assert (model.dropout, model.num_heads) == (0.25, 4)
        assert (training.learning_rate, training.weight_decay) == (0.125, 0.1)  # 0.1 is the value of `paper`


@pytest.mark.usefixtures("fast")
def test_a_sweep_gives_each_method_the_recipe_of_its_own(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = {"rare": Ingredient({"target_update_every": 7}, {"learning_rate": 0.25, "adam_eps": 0.5})}
    monkeypatch.setattr(recipes, "VALUE_INGREDIENTS", learning)
    options = "--preset quick --seeds 1 --methods dt cql rem --value-training.adam-eps 0.75"
    for recipe, target_update_every, rates in (("paper", 2000, (6e-4, 5e-5)), ("fast", 7, (0.5, 0.25))):
        runs = start("reproduce_benchmark.py", f"--recipe {recipe} {options}")
        for name in ("CQL", "REM"):
            model, training = runs[f"Breakout-{name}-seed1"]
            assert isinstance(model, ValueConfig)
            assert model.target_update_every == target_update_every
            assert (training.learning_rate, training.adam_eps, training.max_updates) == (rates[1], 0.75, 20_000)
        assert runs["Breakout-DT-seed1"][1].learning_rate == rates[0]


@pytest.mark.usefixtures("fast")
def test_preset_and_recipe_compose_for_every_method(start: Start) -> None:
    runs = start("reproduce_benchmark.py", "--preset quick --recipe fast --seeds 1 --dropout 0.5")
    assert set(runs) == {"Breakout-DT-seed1", "Breakout-BC-seed1", "Breakout-10BC-seed1"}
    for name, (model, training) in runs.items():
        assert (model.num_layers, model.context_length, training.batch_size, training.max_updates) == (3, 10, 32, 2000)
        assert (model.dropout, training.learning_rate, training.weight_decay) == (0.5, 0.5, 0.0)
        assert model.conditioning == ("return" if "-DT-" in name else "none")
        assert training.top_percent == (10 if "-10BC-" in name else 100)


@pytest.mark.parametrize(
    ("method", "ingredients"),
    [(name, recipes.INGREDIENTS) for name in ("dt", "bc")]
    + [(name, recipes.VALUE_INGREDIENTS) for name in ("qrdqn", "cql", "rem")],
)
def test_every_ingredient_is_in_the_fast_recipe(
    start: Start, method: str, ingredients: Mapping[str, Ingredient]
) -> None:
    ((model, training),) = start("train.py", f"--recipe fast --method {method}").values()
    assert model.method == method
    for ingredient in ingredients.values():
        assert {name: getattr(model, name) for name in ingredient.model} == dict(ingredient.model)
        assert {name: getattr(training, name) for name in ingredient.training} == dict(ingredient.training)
