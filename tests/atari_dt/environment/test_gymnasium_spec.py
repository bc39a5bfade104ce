"""The environment that Gymnasium makes of a specification is this project's own."""

from __future__ import annotations

import json
import warnings
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from ale_py.registration import register_v5_envs
from gymnasium.envs.registration import EnvSpec

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.gymnasium_spec import gymnasium_spec
from atari_dt.environment.python_env import AleEnv
from atari_dt.games.catalogue import find_game, list_games


def make(game: str, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(EnvSpec.from_json(gymnasium_spec(find_game(game), **settings)))


@pytest.mark.parametrize("max_pooled", [True, False])
def test_gymnasium_makes_the_same_environment(max_pooled: bool) -> None:
    env = make("Breakout", sticky_actions=0.25, max_frames=160, max_pooled=max_pooled)
    seed = next(seed for seed in range(99) if emulator_seed(seed) >= 0)
    ours = AleEnv(find_game("Breakout"), EnvironmentConfig(sticky_actions=0.25, max_frames=160), emulator_seed(seed))
    state, _ = env.reset(seed=seed)
    frames = [np.zeros((84, 84), np.uint8)] * 3
    rng = np.random.default_rng(0)
    while True:
        gray = cv2.cvtColor(ours.screen, cv2.COLOR_RGB2GRAY)
        newest = ours.frame if max_pooled else cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA)
        frames.append(np.asarray(newest, np.uint8))
        if ours.done:  # it does not observe the frame after its end
            break
        assert np.array_equal(state, frames[-4:])
        action = int(rng.integers(ours.num_actions))
        state, reward, terminated, truncated, _ = env.step(action)
        assert (reward, terminated or truncated) == ours.step(action)
    assert truncated
    assert not terminated
    assert len(frames) == 3 + 40 + 1


def emulator_seed(seed: int) -> int:
    """Return the emulator's seed for a seed of ALE's Gymnasium environment."""
    return int(np.int32(np.random.SeedSequence(seed).generate_state(2)[1]))


def test_a_single_frame_has_a_channel_axis() -> None:
    assert make("Breakout", sticky_actions=0, num_stacked_frames=1).observation_space.shape == (1, 84, 84)


def test_every_game_has_the_name_that_ale_registers() -> None:
    register_v5_envs()
    for game in list_games():
        spec = json.loads(gymnasium_spec(game, sticky_actions=0.25))
        registered = gymnasium.spec(spec["id"])
        assert registered.entry_point == spec["entry_point"]
        assert registered.kwargs["game"] == spec["kwargs"]["game"]
