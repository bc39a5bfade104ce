"""Atari environments stepped in Python, with access to the emulator's RAM and screen.

They support every setting of `EnvironmentConfig` and return frame for frame what `AleVectorEnv` returns, or the RAM.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt

from atari_dt.environment.config import FRAME_SKIP, EnvironmentConfig, Frames, States
from atari_dt.games.catalogue import Game, bundled_rom
from replay_data import InputError
from replay_data.observation import FRAMES, RAM_SIZE, ObservationSpec
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
        observation: What a state consists of. Without frames, no screen is captured or scaled.
        autoreset: Whether an environment that is done starts its next episode in the same step; see `AleVectorEnv`.

    Attributes:
        game: The game.
        num_envs: N.
        action_meanings: Name of each action index.
        lives: int32 ``[N]``, lives left after the last step; 0 in a game without lives.
        terminated: bool ``[N]``, true where the last step ended the game itself, false where the time limit truncated
            the episode.

    Raises:
        InputError: If ``num_envs`` is less than 1.
    """

    def __init__(
        self,
        game: Game,
        num_envs: int,
        config: EnvironmentConfig,
        observation: ObservationSpec = FRAMES,
        autoreset: bool = False,
    ):
        if num_envs < 1:
            raise InputError(f"`num_envs` must be at least 1, not {num_envs}")
        self.game = game
        self.num_envs = num_envs
        self.lives: npt.NDArray[np.int32] = np.zeros(num_envs, dtype=np.int32)
        self.terminated: npt.NDArray[np.bool_] = np.zeros(num_envs, dtype=np.bool_)
        self._config, self._observation, self._autoreset = config, observation, autoreset
        self._envs: list[AleEnv] = []
        self._states = np.zeros((num_envs, *observation.state_shape), dtype=np.uint8)
        self.action_meanings = action_meanings(game, config)

    @property
    def ram(self) -> npt.NDArray[np.uint8]:
        """RAM of every environment, uint8 ``[N, 128]``; with autoreset, that of the next episode where one ended."""
        ram = np.empty((self.num_envs, RAM_SIZE), dtype=np.uint8)
        for env_index, env in enumerate(self._envs):
            ram[env_index] = env.ram
        return ram

    def reset(self, seeds: npt.NDArray[np.int64]) -> States:
        """Start an episode in every environment; see `AleVectorEnv.reset`."""
        self._envs = [self._make_env(seed) for seed in seeds]
        return self._first_states(range(self.num_envs))

    def restart(self, env_indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> States:
        """Start a new episode in some environments and leave the others unchanged; see `AleVectorEnv.restart`."""
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._envs[env_index] = self._make_env(seed)
        return self._first_states(env_indices)

    def _make_env(self, seed: np.int64) -> AleEnv:
        return AleEnv(self.game, self._config, int(seed), capture_frames=not self._observation.is_vector)

    def _first_states(self, env_indices: Iterable[int]) -> States:
        """Return all states after the environments at ``env_indices`` have started, then apply the second reset."""
        for env_index in env_indices:
            self._start_state(env_index)
        states = self._states.copy()
        if self._config.second_reset:
            for env_index in env_indices:
                self._envs[env_index].reset()
                self._observe(env_index)
        self.lives = self._count_lives()
        return states

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[States, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Step every environment that is not done; see `AleVectorEnv.step`."""
        rewards, done = np.zeros(self.num_envs, dtype=np.float32), np.ones(self.num_envs, dtype=np.bool_)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if not self._observation.is_vector:
            self._states[:, :-1] = self._states[:, 1:]
        for env_index, env in enumerate(self._envs):
            if not env.done:
                rewards[env_index], done[env_index] = env.step(int(actions[env_index]))
            terminated[env_index] = env.terminated
            if done[env_index] and self._autoreset:
                env.reset()
                self._start_state(env_index)
            else:
                self._observe(env_index)
        self.terminated, self.lives = terminated, self._count_lives()
        return self._states.copy(), rewards, done

    def _start_state(self, env_index: int) -> None:
        """Write the first state of an episode: zeros before the first frame, or a vector."""
        self._states[env_index] = 0
        self._observe(env_index)

    def _observe(self, env_index: int) -> None:
        """Write the newest frame of an environment into its state, or replace its vector."""
        env = self._envs[env_index]
        if self._observation.is_vector:
            self._states[env_index] = self._observation.select(env.ram)
        else:
            self._states[env_index, -1] = env.frame

    def _count_lives(self) -> npt.NDArray[np.int32]:
        return np.array([env.lives for env in self._envs], dtype=np.int32)


class AleEnv:
    """One environment stepped in Python, with access to the emulator's RAM and screen.

    Args:
        game: The game.
        config: Settings of the environment.
        seed: Seed of the emulator and of the number of no-ops.
        capture_frames: Whether to capture and scale the screens that `frame` consists of, a fifth of the time.

    Attributes:
        num_actions: Size of the game's minimal action set.
        frame: uint8 ``[84, 84]``, the newest observed frame; zeros if frames are not captured.
        done: Whether the episode was terminated or truncated.
    """

    def __init__(self, game: Game, config: EnvironmentConfig, seed: int, capture_frames: bool = True):
        self._config, self._capture_frames = config, capture_frames
        self._ale = _make_emulator(game, config, seed)
        self._actions = self._ale.getMinimalActionSet()
        self.num_actions = len(self._actions)
        self._noops = np.random.default_rng([seed, 1])
        self._screens = np.zeros((2, *self._ale.getScreenDims()), dtype=np.uint8)
        self.frame: Frames = np.zeros((84, 84), dtype=np.uint8)
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
        if self._capture_frames:
            self._screens[:] = 0
            self._ale.getScreenGrayscale(self._screens[0])
            self.frame = self._observe()

    @property
    def ram(self) -> npt.NDArray[np.uint8]:
        """The console's RAM, uint8 ``[128]``."""
        return self._ale.getRAM()

    @property
    def screen(self) -> Frames:
        """The RGB screen, uint8 ``[210, 160, 3]``, with more rows in some games."""
        return self._ale.getScreenRGB()

    @property
    def lives(self) -> int:
        """Lives left; 0 in a game without lives."""
        return int(self._ale.lives())

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
            if self._capture_frames and remaining <= 2:
                self._ale.getScreenGrayscale(self._screens[remaining - 1])
        if self._capture_frames:
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
