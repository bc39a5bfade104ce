"""Atari games with the preprocessing of the DQN-replay dataset, and with that of the original code's evaluation.

One step is four emulator frames; the observation is the pixel-wise maximum of the last two of them in grey, resized
to 84×84 with area interpolation (Dopamine's AtariPreprocessing; Machado et al. 2018). Episodes start without no-ops,
end only with the game, and are stochastic through sticky actions. `EnvironmentConfig` has a field for each of these.

`VectorGames` plays many games at once in ALE's own C++ threads. `SingleGame` plays one in Python, frame for frame the
same; it shows the emulator's RAM and its screen, and does what the vectorised interface does not: the original code's
preprocessing, and ROM files. `SingleGames` is many of these, and `make_games` chooses.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import ale_py
import cv2
import numpy as np
import numpy.typing as npt
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from atari_dt.games import Game, find_game
from replay_data import InputError

FRAME_SKIP = 4
MAX_FRAMES = 108_000  # half an hour at 60 frames/s, the limit of the DQN-replay dataset

Frames = npt.NDArray[np.uint8]
FrameScaling = Literal["area", "bilinear"]


class Rom:
    """A ROM file that a person supplies, such as one of those that older datasets were made with.

    ALE tells ROMs that it does not know by their file's name, so it is given a copy that is named as it expects.

    Args:
        path: the file.
        game: that it is a ROM of.

    Attributes:
        path: the copy, which lives as long as this object.
        sha256: hexadecimal digest of the content.

    Raises:
        InputError: if it cannot be read, is of another game, or ALE cannot play it.
    """

    def __init__(self, path: Path, game: Game):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give a ROM file") from error
        known = ale_py.ALEInterface.isSupportedROM(path) if content else None
        if known not in (None, game.rom):
            raise InputError(f"{path} is a ROM of {find_game(known).name}, not of {game.name}")
        self.sha256 = hashlib.sha256(content).hexdigest()
        directory = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.path = Path(directory) / f"{game.rom}.bin"
        self.path.write_bytes(content)
        # In a process of its own, because what is no ROM can bring the emulator to loop for ever.
        try:
            subprocess.run([sys.executable, "-c", _PROBE, self.path], check=True, capture_output=True, timeout=10)
        except subprocess.SubprocessError as error:
            raise InputError(f"ALE cannot play {path}; give a ROM file of {game.name}") from error


_PROBE = """
import sys
import ale_py
ale = ale_py.ALEInterface()
ale.loadROM(sys.argv[1])
ale.reset_game()
for step in range(600):
    ale.act(ale.getMinimalActionSet()[step % len(ale.getMinimalActionSet())])
"""


@dataclass(frozen=True)
class EnvironmentConfig:
    """How a game is played.

    Attributes:
        sticky_actions: probability, at each emulator frame, that the game repeats the previous action instead of the
            one it is given; 0.25 in the DQN-replay dataset (Machado et al. 2018).
        max_frames: emulator frames after which an episode is cut off, no-ops not counted; 108,000 is half an hour.
        frames: ``"area"``: the maximum of two frames, scaled by areas, as the DQN-replay dataset was made;
            ``"bilinear"``: each frame scaled bilinearly and their maximum taken then, as the original code evaluates.
        noop_max: an episode starts with 0 to so many emulator frames of no-ops, each number equally likely; 29 in the
            original code.
        second_reset: reset the game once more after its first state was shown, as the original code does.
        rom: played instead of the one that comes with ALE.
    """

    sticky_actions: float = 0.25
    max_frames: int = MAX_FRAMES
    frames: FrameScaling = "area"
    noop_max: int = 0
    second_reset: bool = False
    rom: Rom | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.sticky_actions <= 1:
            raise InputError(f"sticky_actions is a probability between 0 and 1, not {self.sticky_actions}")
        if self.frames not in ("area", "bilinear"):
            raise InputError(f"frames are scaled by 'area' or 'bilinear', not {self.frames!r}")
        if not 0 <= self.noop_max <= 1000:
            raise InputError(f"noop_max must lie between 0 and 1000 emulator frames, not {self.noop_max}")
        if not FRAME_SKIP <= self.max_frames <= MAX_FRAMES:
            raise InputError(f"an episode lasts {FRAME_SKIP} to {MAX_FRAMES} emulator frames, not {self.max_frames}")

    @classmethod
    def with_max_steps(cls, max_steps: int, **fields: Any) -> EnvironmentConfig:
        """The same with the limit counted in steps of four emulator frames; ``fields`` are the others.

        Raises:
            InputError: if the limit is less than 1 or more than 27,000 steps.
        """
        most = MAX_FRAMES // FRAME_SKIP
        if not 1 <= max_steps <= most:
            raise InputError(f"an episode lasts 1 to {most} steps, not {max_steps}")
        return cls(max_frames=max_steps * FRAME_SKIP, **fields)


def action_meanings(game: Game, config: EnvironmentConfig | None = None) -> list[str]:
    """Names of the game's minimal action set, in the order of the action indices; ``config`` can name another ROM."""
    return [action.name for action in _emulator(game, config or EnvironmentConfig(), 0).getMinimalActionSet()]


def rom_sha256(game: Game, config: EnvironmentConfig) -> str:
    """Hexadecimal digest of the ROM that is played."""
    return config.rom.sha256 if config.rom else hashlib.sha256(_bundled_rom(game).read_bytes()).hexdigest()


class Games(Protocol):
    """N games at once; the arguments and results are those of `VectorGames`."""

    game: Game
    num_envs: int
    action_meanings: list[str]

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every game."""

    def restart(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some games."""

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Play one step in every game."""


def make_games(game: Game, num_envs: int, config: EnvironmentConfig) -> Games:
    """Return N games: in C++ where that can play what the config asks for, in Python otherwise."""
    if config == EnvironmentConfig(config.sticky_actions, config.max_frames):
        return VectorGames(game, num_envs, config)
    return SingleGames(game, num_envs, config)


class VectorGames:
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
        self.game_over: npt.NDArray[np.bool_] = np.zeros(num_envs, dtype=np.bool_)
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
        states, rewards, self.game_over, truncated, info = self._env.step(actions)
        self.lives = info["lives"]
        return states, rewards.astype(np.float32), self.game_over | truncated


class SingleGames:
    """N games at once in Python, one after another in each step; the interface is that of `VectorGames`."""

    def __init__(self, game: Game, num_envs: int, config: EnvironmentConfig):
        if num_envs < 1:
            raise InputError(f"at least 1 game must be played at once, not {num_envs}")
        self.game = game
        self.num_envs = num_envs
        self._config = config
        self._games: list[SingleGame] = []
        self._states = np.zeros((num_envs, 4, 84, 84), dtype=np.uint8)
        self.action_meanings = action_meanings(game, config)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Frames:
        """Start an episode in every game; as in `VectorGames`."""
        self._games = [SingleGame(self.game, self._config, int(seed)) for seed in seeds]
        return self._first_states(range(self.num_envs))

    def restart(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> Frames:
        """Start a new episode in some games and leave the others as they are; as in `VectorGames`."""
        for i, seed in zip(indices, seeds, strict=True):
            self._games[i] = SingleGame(self.game, self._config, int(seed))
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
        """Play one step in every game; as in `VectorGames`, but a game whose episode ended stands still."""
        rewards, ended = np.zeros(self.num_envs, dtype=np.float32), np.ones(self.num_envs, dtype=np.bool_)
        self._states[:, :3] = self._states[:, 1:]
        for i, game in enumerate(self._games):
            if not game.ended:
                rewards[i], ended[i] = game.step(int(actions[i]))
            self._states[i, 3] = game.frame
        return self._states.copy(), rewards, ended


class SingleGame:
    """One game in Python, frame for frame like `VectorGames`, with the emulator's RAM and screen in view.

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
        self.ended = False
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
        """The screen in colour, uint8 ``[210, 160, 3]`` (higher in some games)."""
        return self._ale.getScreenRGB()

    @property
    def game_over(self) -> bool:
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
            self.ended = self.game_over or self._elapsed >= self._config.max_frames
            if self.ended:
                break  # as in ALE's own: the screens of the last frame are then those captured before
            if remaining <= 2:
                self._ale.getScreenGrayscale(self._screens[remaining - 1])
        self.frame = self._observe()
        return reward, self.ended

    def _observe(self) -> Frames:
        if self._config.frames == "bilinear":
            frames = [cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR) for screen in self._screens]
            return np.asarray(np.maximum(*frames), dtype=np.uint8)
        np.maximum(self._screens[0], self._screens[1], out=self._screens[0])
        return np.asarray(cv2.resize(self._screens[0], (84, 84), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _bundled_rom(game: Game) -> Path:
    path = roms.get_rom_path(game.rom)
    assert path is not None, game
    return path


def _emulator(game: Game, config: EnvironmentConfig, seed: int) -> Any:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", config.sticky_actions)
    ale.setInt("random_seed", seed)
    ale.loadROM(config.rom.path if config.rom else _bundled_rom(game))
    return ale
