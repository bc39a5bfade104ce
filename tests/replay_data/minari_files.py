"""Minari datasets for tests: written by Minari's own collector, or file by file."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ale_py
import cv2
import gymnasium
import h5py
import minari
import numpy as np
import numpy.typing as npt
import pytest

from atari_dt.games.catalogue import bundled_rom, find_game
from replay_data.episode import Episode

gymnasium.register_envs(ale_py)

SEEDS = (1, 4)  # which give the emulator seeds that are not negative

SPEC = {
    "id": "ALE/Breakout-v5",
    "entry_point": "ale_py.env:AtariEnv",
    "kwargs": {"game": "breakout", "frameskip": 4, "repeat_action_probability": 0.25, "full_action_space": False},
    "additional_wrappers": [],
}


def collect(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    dataset_id: str,
    env: gymnasium.Env[Any, Any],
    num_steps: int,
    num_episodes: int = 1,
    **options: Any,
) -> list[list[int]]:
    """Play an episode with each of the first `SEEDS` in Minari's DataCollector, and write its dataset.

    Returns:
        The actions of each episode.
    """
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    _replace_jax(monkeypatch)
    rng = np.random.default_rng(1)
    actions = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collector = minari.DataCollector(env, **options)
        for seed in SEEDS[:num_episodes]:
            collector.reset(seed=seed)
            actions.append(rng.integers(0, 4, size=num_steps).tolist())
            for action in actions[-1]:
                collector.step(action)
        collector.create_dataset(dataset_id, algorithm_name="random", author="Nobody")
        collector.close()
        del collector  # which leaves directories to the garbage collector, with a warning
    return actions


def _replace_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the one function of JAX, a large package, that the collector needs."""

    def tree_map(function: Any, tree: Any, *rest: Any) -> Any:
        if isinstance(tree, dict):
            return {name: tree_map(function, item, *(each[name] for each in rest)) for name, item in tree.items()}
        return function(tree, *rest)

    jax, tree_util = ModuleType("jax"), ModuleType("jax.tree_util")
    tree_util.tree_map = tree_map  # type: ignore[attr-defined]
    jax.tree_util = tree_util  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setitem(sys.modules, "jax.tree_util", tree_util)


def emulator_seed(seed: int) -> int:
    """Return the emulator's seed for a seed of ALE's Gymnasium environment."""
    return int(np.int32(np.random.SeedSequence(seed).generate_state(2)[1]))


def gray_screens(game: str, seed: int, actions: list[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the emulator's gray screen before each action of four frames, scaled."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0)
    ale.setInt("random_seed", emulator_seed(seed))
    ale.loadROM(bundled_rom(find_game(game)))
    ale.reset_game()
    for action in actions:
        yield np.asarray(cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_AREA), np.uint8)
        for _ in range(4):
            ale.act(ale.getMinimalActionSet()[action])


def write_dataset(path: Path, episodes: Mapping[str, Mapping[str, Any]], spec: Any = SPEC, **metadata: Any) -> Path:
    """Write the files of a dataset as they are given; a value of None leaves a field of the metadata out."""
    data = path / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for name, arrays in episodes.items():
            group = file.create_group(name)
            for key, values in arrays.items():
                group.create_dataset(key, data=values)
    content = {
        "total_episodes": len(episodes),
        "data_format": "hdf5",
        "action_space": json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": 4}),
        "env_spec": None if spec is None else json.dumps(spec),
        **metadata,
    }
    content = {name: value for name, value in content.items() if value is not None}
    (data / "metadata.json").write_text(json.dumps(content))
    return path


def arrays_of(episode: Episode, observations: Any) -> dict[str, Any]:
    """Return the arrays of an episode with these observations."""
    ends = np.zeros((2, len(episode)), dtype=np.bool_)
    ends[0 if episode.terminated else 1, -1] = True
    rewards = episode.rewards if episode.raw_rewards is None else episode.raw_rewards
    return {
        "observations": observations,
        "actions": episode.actions.astype(np.int64),
        "rewards": rewards.astype(np.float64),
        "terminations": ends[0],
        "truncations": ends[1],
    }
