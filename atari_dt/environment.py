"""Atari games with the preprocessing of the DQN-replay dataset.

One step is four emulator frames; the observation is the pixel-wise maximum of the last two of them in grey, resized
to 84×84 with area interpolation (Dopamine's AtariPreprocessing; Machado et al. 2018). Episodes start without no-ops,
end only with the game, and are stochastic through sticky actions.

`VectorGames` plays many games at once in ALE's own C++ threads. `SingleGame` plays one in Python, frame for frame the
same, and shows the emulator's RAM, which the vectorised interface does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ale_py
import cv2
import numpy as np
import numpy.typing as npt
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from atari_dt.games import Game
from replay_data import InputError

FRAME_SKIP = 4
MAX_FRAMES = 108_000  # half an hour at 60 frames/s, the limit of the DQN-replay dataset

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EnvironmentConfig:
    """How a game is played.

    Attributes:
        sticky_actions: probability, at each emulator frame, that the game repeats the previous action instead of the
            one it is given; 0.25 in the DQN-replay dataset (Machado et al. 2018).
        max_frames: emulator frames after which an episode is cut off; 108,000 is half an hour of play.
    """

    sticky_actions: float = 0.25
    max_frames: int = MAX_FRAMES

    def __post_init__(self) -> None:
        if not 0 <= self.sticky_actions <= 1:
            raise InputError(f"sticky_actions is a probability between 0 and 1, not {self.sticky_actions}")
        if not FRAME_SKIP <= self.max_frames <= MAX_FRAMES:
            raise InputError(f"an episode lasts {FRAME_SKIP} to {MAX_FRAMES} emulator frames, not {self.max_frames}")

    @classmethod
    def with_max_steps(cls, max_steps: int, sticky_actions: float = 0.25) -> EnvironmentConfig:
        """The same with the limit counted in steps of four emulator frames.

        Raises:
            InputError: if the limit is less than 1 or more than 27,000 steps.
        """
        most = MAX_FRAMES // FRAME_SKIP
        if not 1 <= max_steps <= most:
            raise InputError(f"an episode lasts 1 to {most} steps, not {max_steps}")
        return cls(sticky_actions, max_steps * FRAME_SKIP)


def action_meanings(game: Game) -> list[str]:
    """Names of the game's minimal action set, in the order of the action indices."""
    return [action.name for action in _emulator(game, 0.0, 0).getMinimalActionSet()]


class VectorGames:
    """N games at once through ALE's vector environment.

    Args:
        game: what is played.
        num_envs: N.
        config: how.
    """

    def __init__(self, game: Game, num_envs: int, config: EnvironmentConfig):
        if num_envs < 1:
            raise InputError(f"at least 1 game must be played at once, not {num_envs}")
        self.game = game
        self.num_envs = num_envs
        self._env = AtariVectorEnv(
            game.rom,
            num_envs,
            max_num_frames_per_episode=config.max_frames,
            repeat_action_probability=config.sticky_actions,
            noop_max=0,
            use_fire_reset=False,
            reward_clipping=False,
        )
        self.action_meanings = [action.name for action in self._env.ale.get_action_set()]

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every game.

        Args:
            seeds: ``[N]``, each in ``[0, 2**31)``; the same seed and actions give the same episode.

        Returns:
            The first states, uint8 ``[N, 4, 84, 84]``, oldest frame first, zeros before the episode's first frame.
        """
        return self._env.reset(seed=seeds)[0]

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
        return self._env.reset(seed=seeds, options={"reset_mask": mask})[0]

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Play one step in every game.

        A game whose episode ended must be given a new one with `restart`; until then it plays on without a seed.

        Args:
            actions: int64 ``[N]``.

        Returns:
            ``(states, rewards, ended)``: uint8 ``[N, 4, 84, 84]``; the games' own points, float32 ``[N]``; bool
            ``[N]``, true where the game is over or was cut off.
        """
        states, rewards, terminated, truncated, _ = self._env.step(actions)
        return states, rewards.astype(np.float32), terminated | truncated


class SingleGame:
    """One game in Python, frame for frame like `VectorGames`, with the emulator's RAM in view."""

    def __init__(self, game: Game, config: EnvironmentConfig, seed: int):
        self._max_frames = config.max_frames
        self._ale = _emulator(game, config.sticky_actions, seed)
        self._actions = self._ale.getMinimalActionSet()
        self.num_actions = len(self._actions)
        self._screens = np.zeros((2, *self._ale.getScreenDims()), dtype=np.uint8)
        self._elapsed = 0
        self._ale.reset_game()
        self._ale.getScreenGrayscale(self._screens[0])
        self.frame: Frames = self._observe()

    @property
    def ram(self) -> npt.NDArray[np.uint8]:
        """The console's memory, uint8 ``[128]``."""
        return self._ale.getRAM()

    @property
    def game_over(self) -> bool:
        """Whether the game itself has ended; otherwise only the time limit can have."""
        return bool(self._ale.game_over())

    def step(self, action: int) -> tuple[float, bool]:
        """Play one step; ``frame`` (uint8 ``[84, 84]``) and ``ram`` then show what came of it.

        Returns:
            ``(reward, ended)``: the game's own points, and whether the game is over or was cut off.
        """
        reward, ended = 0.0, False
        for remaining in range(FRAME_SKIP, 0, -1):
            reward += self._ale.act(self._actions[action])
            self._elapsed += 1
            ended = self._ale.game_over() or self._elapsed >= self._max_frames
            if ended:
                break  # as in ALE's own: the screens of the last frame are then those captured before
            if remaining <= 2:
                self._ale.getScreenGrayscale(self._screens[remaining - 1])
        self.frame = self._observe()
        return reward, ended

    def _observe(self) -> Frames:
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        return np.asarray(cv2.resize(self._screens[0], (84, 84), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _emulator(game: Game, sticky_actions: float, seed: int) -> Any:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", sticky_actions)
    ale.setInt("random_seed", seed)
    path = roms.get_rom_path(game.rom)
    assert path is not None, game
    ale.loadROM(path)
    return ale
