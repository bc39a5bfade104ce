"""Atari games with the preprocessing of the DQN-replay dataset, and with that of the original code's evaluation.

One step is four emulator frames; the observation is the pixel-wise maximum of the last two of them in grey, resized
to 84×84 with area interpolation (Dopamine's AtariPreprocessing; Machado et al. 2018). Episodes start without no-ops,
end only with the game, and are stochastic through sticky actions. `EnvironmentConfig` has a field for each of these.

`VectorGames` plays many games at once in ALE's own C++ threads. `SingleGame` plays one in Python, frame for frame the
same; it shows the emulator's RAM and its screen, and does what the vectorized interface does not: the original code's
preprocessing, and ROM files. `SingleGames` is many of these, and `make_games` chooses.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from atari_dt.environment.rom import Rom, bundled_rom
from atari_dt.games.catalogue import Game
from replay_data import InputError

FRAME_SKIP = 4

MAX_FRAMES = 108_000  # half an hour at 60 frames/s, the limit of the DQN-replay dataset

Frames = npt.NDArray[np.uint8]

FrameScaling = Literal["area", "bilinear"]


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


def rom_sha256(game: Game, config: EnvironmentConfig) -> str:
    """Hexadecimal digest of the ROM that is played."""
    return config.rom.sha256 if config.rom else hashlib.sha256(bundled_rom(game).read_bytes()).hexdigest()
