"""States of RAM and the RAM beside frames, compared with the emulator used directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt
import pytest
from ale_py import roms

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv, make_autoreset_env, make_vector_env
from atari_dt.evaluation.evaluator import evaluate_policy
from atari_dt.games.catalogue import find_game
from atari_dt.policies.epsilon_greedy import RandomPolicy
from replay_data.observation import RAM, ObservationSpec, variables_spec


def make_emulator(game: str, seed: int, sticky_actions: float) -> Any:
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", sticky_actions)
    ale.setInt("random_seed", seed)
    ale.loadROM(Path(str(roms.get_rom_path(game))))
    return ale


def play_step(ale: Any, action: int) -> None:
    for _ in range(4):
        ale.act(ale.getMinimalActionSet()[action])
        if ale.game_over():
            return


class SeeingPolicy(RandomPolicy):
    """A uniform-random policy that keeps the states and actions of each episode, in the order of their starts."""

    def __init__(self, num_envs: int, num_actions: int):
        super().__init__(num_envs, num_actions)
        self.episodes: list[list[npt.NDArray[np.uint8]]] = []
        self._episode_of_env = dict[int, int]()

    def start(self, env_indices: Any, target_returns: Any, seeds: Any) -> None:
        super().start(env_indices, target_returns, seeds)
        for env_index in env_indices.tolist():
            self._episode_of_env[env_index] = len(self.episodes)
            self.episodes.append([])

    def act(self, env_indices: Any, states: Any, rewards: Any) -> Any:
        for env_index, state in zip(env_indices.tolist(), states, strict=True):
            self.episodes[self._episode_of_env[env_index]].append(state)
        return super().act(env_indices, states, rewards)


@pytest.mark.parametrize(
    ("game", "config", "observation", "addresses"),
    [
        ("Breakout", EnvironmentConfig.with_max_steps(70), RAM, range(128)),
        (
            "Pong",
            EnvironmentConfig.with_max_steps(40, sticky_actions=0.0, noop_max=29, second_reset=True),
            variables_spec(("ball_y", "player_y", "enemy_y"), (54, 51, 50)),
            [54, 51, 50],
        ),
    ],
)
def test_evaluated_states_are_the_emulators_ram(
    game: str, config: EnvironmentConfig, observation: ObservationSpec, addresses: Any
) -> None:
    """Five episodes in two environments, with no-ops, a second reset and time limits."""
    played = find_game(game)
    env = make_vector_env(played, 2, config, observation)
    policy = SeeingPolicy(2, len(env.action_meanings))
    (result,) = evaluate_policy(policy, env, [0.0], 5, True, seed=3, show_progress=False)
    assert len(policy.episodes) == 5
    assert result.lengths.max() == config.max_frames // 4
    for states, seed, episode in zip(policy.episodes, result.emulator_seeds, result.episodes, strict=True):
        ale = make_emulator(played.rom, int(seed), config.sticky_actions)
        noop_rng = np.random.default_rng([int(seed), 1])

        def reset(ale: Any = ale, noop_rng: np.random.Generator = noop_rng) -> Any:
            ale.reset_game()
            for _ in range(int(noop_rng.integers(config.noop_max + 1)) if config.noop_max else 0):
                ale.act(0)
            return ale.getRAM()

        first_ram = reset()
        if config.second_reset:
            reset()
        expected = [first_ram]
        for action in episode.actions[:-1]:
            play_step(ale, int(action))
            expected.append(ale.getRAM())
        assert np.array_equal(np.stack(states), np.stack(expected)[:, list(addresses)])


@pytest.mark.parametrize(("name", "max_steps", "num_steps"), [("Breakout", 140, 290), ("MsPacman", 40, 90)])
def test_environments_with_ram_step_like_those_of_ale(name: str, max_steps: int, num_steps: int) -> None:
    """The same states, rewards, ends and lives across several episodes, and the RAM of the emulator."""
    game, config, seeds = find_game(name), EnvironmentConfig.with_max_steps(max_steps), np.array([3, 4])
    envs = [make_autoreset_env(game, 2, config, ram) for ram in (False, True)]
    assert isinstance(envs[0], AleVectorEnv)
    assert envs[0].ram is None
    emulators = [make_emulator(game.rom, int(seed), config.sticky_actions) for seed in seeds]
    for ale in emulators:
        ale.reset_game()
    rng, num_truncated, num_terminated = np.random.default_rng(0), 0, 0
    assert np.array_equal(envs[0].reset(seeds), envs[1].reset(seeds))
    assert np.array_equal(envs[0].lives, envs[1].lives)
    for _ in range(num_steps):
        assert envs[1].ram is not None
        assert np.array_equal(envs[1].ram, [ale.getRAM() for ale in emulators])
        actions = rng.integers(len(envs[0].action_meanings), size=2)
        results = [(*env.step(actions), env.terminated, env.lives) for env in envs]
        assert all(np.array_equal(*pair) for pair in zip(*results, strict=True))
        for ale, action, done in zip(emulators, actions, results[0][2], strict=True):
            play_step(ale, int(action))
            if done:
                num_terminated, num_truncated = num_terminated + ale.game_over(), num_truncated + (not ale.game_over())
                ale.reset_game()
    assert num_truncated >= 2
    assert num_terminated >= (1 if name == "Breakout" else 0)
