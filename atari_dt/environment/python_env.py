"""Atari environments stepped in Python, with access to the emulator's RAM and screen.

They support every setting of `EnvironmentConfig` and return frame for frame what `AleVectorEnv` returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt

from atari_dt.environment.config import FRAME_SKIP, EnvironmentConfig, Frames
from atari_dt.games.catalogue import Game, bundled_rom
from replay_data import InputError
from replay_data.opencv import cv2


def action_meanings(game: Game, config: EnvironmentConfig | None = None) -> list[str]:
    """Return the names of a game's minimal action set, in the order of the action indices.

    Args:
        game: The game.
        config: Settings of the environment, which may replace the ROM; by default the bundled ROM.
    """
    return [action.name for action in _make_emulator(game, config or EnvironmentConfig(), 0).getMinimalActionSet()]


class PythonVectorEnv:
    """N environments stepped one after another in Python; the interface is that of `AleVectorEnv`.

    Args:
        game: The game.
        num_envs: N.
        config: Settings of the environments.

    Raises:
        InputError: If ``num_envs`` is less than 1.
    """

    def __init__(self, game: Game, num_envs: int, config: EnvironmentConfig):
        if num_envs < 1:
            raise InputError(f"`num_envs` must be at least 1, not {num_envs}")
        self.game = game
        self.num_envs = num_envs
        self._config = config
        self._envs: list[AleEnv] = []
        self._states = np.zeros((num_envs, 4, 84, 84), dtype=np.uint8)
        self.action_meanings = action_meanings(game, config)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every environment; see `AleVectorEnv.reset`."""
        self._envs = [AleEnv(self.game, self._config, int(seed)) for seed in seeds]
        return self._first_states(range(self.num_envs))

    def restart(self, env_indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some environments and leave the others unchanged; see `AleVectorEnv.restart`."""
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._envs[env_index] = AleEnv(self.game, self._config, int(seed))
        return self._first_states(env_indices)

    def _first_states(self, env_indices: Iterable[int]) -> Frames:
        """Return all states after the environments at ``env_indices`` have started, then apply the second reset."""
        for env_index in env_indices:
            self._states[env_index] = 0
            self._states[env_index, 3] = self._envs[env_index].frame
        states = self._states.copy()
        if self._config.second_reset:
            for env_index in env_indices:
                self._envs[env_index].reset()
                self._states[env_index, 3] = self._envs[env_index].frame
        return states

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Step every environment that is not done; see `AleVectorEnv.step`."""
        rewards, done = np.zeros(self.num_envs, dtype=np.float32), np.ones(self.num_envs, dtype=np.bool_)
        self._states[:, :3] = self._states[:, 1:]
        for env_index, env in enumerate(self._envs):
            if not env.done:
                rewards[env_index], done[env_index] = env.step(int(actions[env_index]))
            self._states[env_index, 3] = env.frame
        return self._states.copy(), rewards, done


class AleEnv:
    """One environment stepped in Python, with access to the emulator's RAM and screen.

    Args:
        game: The game.
        config: Settings of the environment.
        seed: Seed of the emulator and of the number of no-ops.

    Attributes:
        num_actions: Size of the game's minimal action set.
        frame: uint8 ``[84, 84]``, the newest observed frame.
        done: Whether the episode was terminated or truncated.
    """

    def __init__(self, game: Game, config: EnvironmentConfig, seed: int):
        self._config = config
        self._ale = _make_emulator(game, config, seed)
        self._actions = self._ale.getMinimalActionSet()
        self.num_actions = len(self._actions)
        self._noops = np.random.default_rng([seed, 1])
        self._screens = np.zeros((2, *self._ale.getScreenDims()), dtype=np.uint8)
        self.reset()

    def reset(self) -> None:
        """Start a new episode; the emulator keeps its random state."""
        self._elapsed = 0
        self.done = False
        self._ale.reset_game()
        if self._config.noop_max:
            for _ in range(self._noops.integers(self._config.noop_max + 1)):
                self._ale.act(0)
                if self._ale.game_over():
                    self._ale.reset_game()
        self._screens[:] = 0
        self._ale.getScreenGrayscale(self._screens[0])
        self.frame: Frames = self._observe()

    @property
    def ram(self) -> npt.NDArray[np.uint8]:
        """The console's RAM, uint8 ``[128]``."""
        return self._ale.getRAM()

    @property
    def screen(self) -> Frames:
        """The RGB screen, uint8 ``[210, 160, 3]``, with more rows in some games."""
        return self._ale.getScreenRGB()

    @property
    def terminated(self) -> bool:
        """Whether the game itself has ended; an episode that is done but not terminated was truncated."""
        return bool(self._ale.game_over())

    def step(self, action: int) -> tuple[float, bool]:
        """Play one step of four emulator frames, and update ``frame``, ``screen`` and ``ram``.

        Args:
            action: Index in the minimal action set.

        Returns:
            ``(reward, done)``: unclipped reward in the game's points, and whether the episode was terminated or
            truncated.
        """
        reward = 0.0
        for remaining in range(FRAME_SKIP, 0, -1):
            reward += self._ale.act(self._actions[action])
            self._elapsed += 1
            self.done = self.terminated or self._elapsed >= self._config.max_frames
            if self.done:
                break  # as in ALE's vector environment, which then keeps the screens captured so far
            if remaining <= 2:
                self._ale.getScreenGrayscale(self._screens[remaining - 1])
        self.frame = self._observe()
        return reward, self.done

    def _observe(self) -> Frames:
        """Return the frame ``[84, 84]`` made of the two captured screens."""
        if self._config.frames == "bilinear":
            frames = [cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR) for screen in self._screens]
            return np.asarray(np.maximum(*frames), dtype=np.uint8)
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        return np.asarray(cv2.resize(self._screens[0], (84, 84), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _make_emulator(game: Game, config: EnvironmentConfig, seed: int) -> Any:
    """Return an ALE emulator with the game's ROM loaded."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", config.sticky_actions)
    ale.setInt("random_seed", seed)
    ale.loadROM(config.rom.path if config.rom else bundled_rom(game))
    return ale
