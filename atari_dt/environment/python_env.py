"""Atari environments stepped from Python, with the emulator's RAM and screen in view."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ale_py
import cv2
import numpy as np
import numpy.typing as npt

from atari_dt.environment.config import FRAME_SKIP, EnvironmentConfig, Frames
from atari_dt.environment.rom import bundled_rom
from atari_dt.games.catalogue import Game
from replay_data import InputError


def action_meanings(game: Game, config: EnvironmentConfig | None = None) -> list[str]:
    """Names of the game's minimal action set, in the order of the action indices; ``config`` can name another ROM."""
    return [action.name for action in _emulator(game, config or EnvironmentConfig(), 0).getMinimalActionSet()]


class PythonVectorEnv:
    """N games at once in Python, one after another in each step; the interface is that of `AleVectorEnv`."""

    def __init__(self, game: Game, num_envs: int, config: EnvironmentConfig):
        if num_envs < 1:
            raise InputError(f"at least 1 game must be played at once, not {num_envs}")
        self.game = game
        self.num_envs = num_envs
        self._config = config
        self._games: list[AleEnv] = []
        self._states = np.zeros((num_envs, 4, 84, 84), dtype=np.uint8)
        self.action_meanings = action_meanings(game, config)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every game; as in `AleVectorEnv`."""
        self._games = [AleEnv(self.game, self._config, int(seed)) for seed in seeds]
        return self._first_states(range(self.num_envs))

    def restart(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some games and leave the others as they are; as in `AleVectorEnv`."""
        for i, seed in zip(indices, seeds, strict=True):
            self._games[i] = AleEnv(self.game, self._config, int(seed))
        return self._first_states(indices)

    def _first_states(self, indices: Iterable[int]) -> Frames:
        for i in indices:
            self._states[i] = 0
            self._states[i, 3] = self._games[i].frame
        shown = self._states.copy()
        if self._config.second_reset:
            for i in indices:
                self._games[i].reset()
                self._states[i, 3] = self._games[i].frame
        return shown

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Play one step in every game; as in `AleVectorEnv`, but a game whose episode ended stands still."""
        rewards, ended = np.zeros(self.num_envs, dtype=np.float32), np.ones(self.num_envs, dtype=np.bool_)
        self._states[:, :3] = self._states[:, 1:]
        for i, game in enumerate(self._games):
            if not game.done:
                rewards[i], ended[i] = game.step(int(actions[i]))
            self._states[i, 3] = game.frame
        return self._states.copy(), rewards, ended


class AleEnv:
    """One game in Python, frame for frame like `AleVectorEnv`, with the emulator's RAM and screen in view.

    Args:
        game: what is played.
        config: how.
        seed: of the emulator and of the number of no-ops.

    Attributes:
        frame: uint8 ``[84, 84]``, what the last step showed.
        ended: whether the game is over or was cut off.
    """

    def __init__(self, game: Game, config: EnvironmentConfig, seed: int):
        self._config = config
        self._ale = _emulator(game, config, seed)
        self._actions = self._ale.getMinimalActionSet()
        self.num_actions = len(self._actions)
        self._noops = np.random.default_rng([seed, 1])
        self._screens = np.zeros((2, *self._ale.getScreenDims()), dtype=np.uint8)
        self.reset()

    def reset(self) -> None:
        """Start over; the emulator's randomness goes on from where it is."""
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
        """The console's memory, uint8 ``[128]``."""
        return self._ale.getRAM()

    @property
    def screen(self) -> Frames:
        """The screen in color, uint8 ``[210, 160, 3]`` (higher in some games)."""
        return self._ale.getScreenRGB()

    @property
    def terminated(self) -> bool:
        """Whether the game itself has ended; otherwise only the time limit can have."""
        return bool(self._ale.game_over())

    def step(self, action: int) -> tuple[float, bool]:
        """Play one step; ``frame``, ``screen`` and ``ram`` then show what came of it.

        Returns:
            ``(reward, ended)``: the game's own points, and whether the game is over or was cut off.
        """
        reward = 0.0
        for remaining in range(FRAME_SKIP, 0, -1):
            reward += self._ale.act(self._actions[action])
            self._elapsed += 1
            self.done = self.terminated or self._elapsed >= self._config.max_frames
            if self.done:
                break  # as in ALE's own: the screens of the last frame are then those captured before
            if remaining <= 2:
                self._ale.getScreenGrayscale(self._screens[remaining - 1])
        self.frame = self._observe()
        return reward, self.done

    def _observe(self) -> Frames:
        if self._config.frames == "bilinear":
            frames = [cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR) for screen in self._screens]
            return np.asarray(np.maximum(*frames), dtype=np.uint8)
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        return np.asarray(cv2.resize(self._screens[0], (84, 84), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _emulator(game: Game, config: EnvironmentConfig, seed: int) -> Any:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", config.sticky_actions)
    ale.setInt("random_seed", seed)
    ale.loadROM(config.rom.path if config.rom else bundled_rom(game))
    return ale
