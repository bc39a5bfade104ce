"""Settings of an Atari environment.

One step is four emulator frames. With the default settings, which are those of the DQN-replay dataset, the observation
is the pixel-wise maximum of the last two grayscale frames, resized to 84×84 by area interpolation (Dopamine's
AtariPreprocessing; Machado et al. 2018). Episodes start without no-ops, losing a life does not end them, and sticky
actions make them stochastic. `EnvironmentConfig` has a field for each setting that can be changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from atari_dt.environment.rom import Rom
from replay_data import InputError

FRAME_SKIP = 4

MAX_FRAMES = 108_000  # half an hour at 60 frames/s, the limit of the DQN-replay dataset

MAX_NOOPS = 1000

Frames = npt.NDArray[np.uint8]

States = npt.NDArray[np.uint8]
"""States of N environments, ``[N, *state_shape]``: ``[N, 4, 84, 84]`` of frames, ``[N, 128]`` of RAM."""

FrameScaling = Literal["area", "bilinear"]


@dataclass(frozen=True)
class EnvironmentConfig:
    """Settings of an environment.

    Attributes:
        sticky_actions: Probability, at each emulator frame, that the emulator repeats the previous action and ignores
            the chosen one; 0.25 in the DQN-replay dataset (Machado et al. 2018).
        max_frames: Emulator frames after which an episode is truncated, no-ops not counted; 108,000 is half an hour.
        frames: Order of the maximum and the scaling of two frames. ``"area"`` takes the maximum, then scales it by area
            interpolation, as in the DQN-replay dataset; ``"bilinear"`` scales each frame by bilinear interpolation,
            then takes the maximum, as in the original code's evaluation.
        noop_max: Largest number of no-op frames at the start of an episode, which is uniform between 0 and this value;
            29 in the original code.
        second_reset: Whether to reset the emulator again after the first observation, as the original code does.
        rom: ROM file that replaces the one bundled with ALE.
    """

    sticky_actions: float = 0.25
    max_frames: int = MAX_FRAMES
    frames: FrameScaling = "area"
    noop_max: int = 0
    second_reset: bool = False
    rom: Rom | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.sticky_actions <= 1:
            raise InputError(f"`sticky_actions` must be a probability between 0 and 1, not {self.sticky_actions}")
        if self.frames not in ("area", "bilinear"):
            raise InputError(f"`frames` must be 'area' or 'bilinear', not {self.frames!r}")
        if not 0 <= self.noop_max <= MAX_NOOPS:
            raise InputError(f"`noop_max` must be between 0 and {MAX_NOOPS} emulator frames, not {self.noop_max}")
        if not FRAME_SKIP <= self.max_frames <= MAX_FRAMES:
            raise InputError(
                f"`max_frames` must be between {FRAME_SKIP} and {MAX_FRAMES} emulator frames, not {self.max_frames}"
            )

    @classmethod
    def with_max_steps(cls, max_steps: int, **fields: Any) -> EnvironmentConfig:
        """Return a config whose time limit is given in steps of four emulator frames.

        Args:
            max_steps: Steps after which an episode is truncated.
            fields: The other fields of the config.

        Raises:
            InputError: If the limit is less than 1 or more than 27,000 steps, or a field has an impossible value.
        """
        limit = MAX_FRAMES // FRAME_SKIP
        if not 1 <= max_steps <= limit:
            raise InputError(f"`max_steps` must be between 1 and {limit}, not {max_steps}")
        return cls(max_frames=max_steps * FRAME_SKIP, **fields)
