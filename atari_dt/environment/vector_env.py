"""Vectorized Atari environments, stepped by ALE's C++ threads where possible."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from atari_dt.environment.config import EnvironmentConfig, Frames, States
from atari_dt.environment.python_env import PythonVectorEnv
from atari_dt.games.catalogue import Game
from replay_data import InputError
from replay_data.observation import FRAMES, ObservationSpec


class VectorEnv(Protocol):
    """N environments of one game that step together; `AleVectorEnv` documents the arguments and results.

    States are uint8 ``[N, *state_shape]`` of the observation: stacked frames ``[N, 4, 84, 84]``, RAM ``[N, 128]``, or V
    variables ``[N, V]``.

    Attributes:
        game: The game.
        num_envs: N.
        action_meanings: Name of each action index.
    """

    game: Game
    num_envs: int
    action_meanings: list[str]

    def reset(self, seeds: npt.NDArray[np.int64]) -> States:
        """Start an episode in every environment."""

    def restart(self, env_indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> States:
        """Start a new episode in some environments."""

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[States, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Step every environment."""


def make_vector_env(
    game: Game, num_envs: int, config: EnvironmentConfig, observation: ObservationSpec = FRAMES
) -> VectorEnv:
    """Return N environments: an `AleVectorEnv` if it supports config and observation, otherwise a `PythonVectorEnv`.

    Args:
        game: The game.
        num_envs: N.
        config: Settings of the environments.
        observation: What a state consists of.
    """
    if not observation.is_vector and config == EnvironmentConfig(config.sticky_actions, config.max_frames):
        return AleVectorEnv(game, num_envs, config)
    return PythonVectorEnv(game, num_envs, config, observation)


class AutoresetVectorEnv(VectorEnv, Protocol):
    """Environments of stacked frames that start their next episodes by themselves, for recordings.

    Attributes:
        lives: int32 ``[N]``, lives left after the last step; 0 in a game without lives.
        terminated: bool ``[N]``, true where the last step ended the game itself, false where the time limit truncated
            the episode.
    """

    lives: npt.NDArray[np.int32]
    terminated: npt.NDArray[np.bool_]

    @property
    def ram(self) -> npt.NDArray[np.uint8] | None:
        """RAM at the moment of the newest frames, uint8 ``[N, 128]``; None where the environments do not show it."""


def make_autoreset_env(game: Game, num_envs: int, config: EnvironmentConfig, ram: bool) -> AutoresetVectorEnv:
    """Return N environments that start their next episodes by themselves, with the same frames with or without RAM.

    Args:
        game: The game.
        num_envs: N.
        config: Settings of the environments.
        ram: Whether they show their RAM; they are then stepped in Python, at half the speed.
    """
    env_class = PythonVectorEnv if ram else AleVectorEnv
    return env_class(game, num_envs, config, autoreset=True)


class AleVectorEnv:
    """N environments stepped by ALE's C++ threads.

    This class supports the settings ``sticky_actions`` and ``max_frames`` and ignores the others.

    Args:
        game: The game.
        num_envs: N.
        config: Settings of the environments.
        autoreset: Whether an environment that is done starts its next episode in the same step and returns the first
            observation of that episode (Gymnasium's ``SAME_STEP``). The emulator keeps its random state, which costs
            nothing, while `restart` with a new seed costs a tenth of a second.

    Attributes:
        game: The game.
        num_envs: N.
        action_meanings: Name of each action index.
        lives: int32 ``[N]``, lives left after the last step; 0 in a game without lives.
        terminated: bool ``[N]``, true where the last step ended the game itself, false where the time limit truncated
            the episode.
        ram: None, because ALE's threads do not show the RAM.

    Raises:
        InputError: If ``num_envs`` is less than 1.
    """

    ram: None = None

    def __init__(self, game: Game, num_envs: int, config: EnvironmentConfig, autoreset: bool = False):
        if num_envs < 1:
            raise InputError(f"`num_envs` must be at least 1, not {num_envs}")
        self.game = game
        self.num_envs = num_envs
        self.lives: npt.NDArray[np.int32] = np.zeros(num_envs, dtype=np.int32)
        self.terminated: npt.NDArray[np.bool_] = np.zeros(num_envs, dtype=np.bool_)
        self._env = AtariVectorEnv(
            game.rom,
            num_envs,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.sticky_actions,
            noop_max=0,
            use_fire_reset=False,
            reward_clipping=False,
            autoreset_mode=AutoresetMode.SAME_STEP if autoreset else AutoresetMode.NEXT_STEP,
        )
        self.action_meanings = [action.name for action in self._env.ale.get_action_set()]

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every environment.

        Args:
            seeds: ``[N]``, each in ``[0, 2**31)``; the same seed and actions give the same episode.

        Returns:
            The first states, uint8 ``[N, 4, 84, 84]``, oldest frame first, with zeros before the first frame.
        """
        states, info = self._env.reset(seed=seeds)
        self.lives = info["lives"]
        return states

    def restart(self, env_indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some environments and leave the others unchanged.

        Args:
            env_indices: ``[M]``, ascending; the environments to restart.
            seeds: ``[M]``, their seeds.

        Returns:
            The states of all environments, uint8 ``[N, 4, 84, 84]``.
        """
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[env_indices] = True
        states, info = self._env.reset(seed=seeds, options={"reset_mask": mask})
        self.lives = info["lives"]
        return states

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Step every environment.

        Without autoreset, call `restart` for an environment that is done before the next step.

        Args:
            actions: int64 ``[N]``, action indices.

        Returns:
            ``(states, rewards, done)``: uint8 ``[N, 4, 84, 84]``; unclipped rewards in the game's points, float32
            ``[N]``; bool ``[N]``, true where the episode was terminated or truncated.
        """
        states, rewards, self.terminated, truncated, info = self._env.step(actions)
        self.lives = info["lives"]
        return states, rewards.astype(np.float32), self.terminated | truncated
