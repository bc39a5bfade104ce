"""Vectorized Atari environments, stepped by ALE's C++ threads where possible."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from atari_dt.environment.config import EnvironmentConfig, Frames
from atari_dt.environment.python_env import PythonVectorEnv
from atari_dt.games.catalogue import Game
from replay_data import InputError


class VectorEnv(Protocol):
    """N games at once; the arguments and results are those of `AleVectorEnv`."""

    game: Game
    num_envs: int
    action_meanings: list[str]

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every game."""

    def restart(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some games."""

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Play one step in every game."""


def make_vector_env(game: Game, num_envs: int, config: EnvironmentConfig) -> VectorEnv:
    """Return N games: in C++ where that can play what the config asks for, in Python otherwise."""
    if config == EnvironmentConfig(config.sticky_actions, config.max_frames):
        return AleVectorEnv(game, num_envs, config)
    return PythonVectorEnv(game, num_envs, config)


class AleVectorEnv:
    """N games at once through ALE's vector environment.

    Args:
        game: what is played.
        num_envs: N.
        config: how.
        autoreset: a game that ends starts its next episode in the same step, and is shown as that begins (Gymnasium's
            `SAME_STEP`); the emulator's randomness goes on from where it is, which costs nothing, while a new seed
            costs a tenth of a second.

    Attributes:
        lives: int32 ``[N]``, those left after the last step; 0 in a game that has none.
        game_over: bool ``[N]``, where the last step ended the game itself, and not the time limit.
    """

    def __init__(self, game: Game, num_envs: int, config: EnvironmentConfig, autoreset: bool = False):
        if num_envs < 1:
            raise InputError(f"at least 1 game must be played at once, not {num_envs}")
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
        """Start an episode in every game.

        Args:
            seeds: ``[N]``, each in ``[0, 2**31)``; the same seed and actions give the same episode.

        Returns:
            The first states, uint8 ``[N, 4, 84, 84]``, oldest frame first, zeros before the episode's first frame.
        """
        states, info = self._env.reset(seed=seeds)
        self.lives = info["lives"]
        return states

    def restart(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some games and leave the others as they are.

        Args:
            indices: ``[M]``, ascending; the games'.
            seeds: ``[M]``.

        Returns:
            The states of all games, uint8 ``[N, 4, 84, 84]``.
        """
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[indices] = True
        states, info = self._env.reset(seed=seeds, options={"reset_mask": mask})
        self.lives = info["lives"]
        return states

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Play one step in every game.

        Without autoreset, a game whose episode ended must be given a new one with `restart`.

        Args:
            actions: int64 ``[N]``.

        Returns:
            ``(states, rewards, ended)``: uint8 ``[N, 4, 84, 84]``; the games' own points, float32 ``[N]``; bool
            ``[N]``, true where the game is over or was cut off.
        """
        states, rewards, self.terminated, truncated, info = self._env.step(actions)
        self.lives = info["lives"]
        return states, rewards.astype(np.float32), self.terminated | truncated
