"""The interface between source formats and selections: episodes, shards and recorded runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from replay_data.json_fields import Scalar
from replay_data.recording import Recording

STACK = 4  # frames of a state (Mnih et al. 2015)

LEAD_IN = STACK - 1

FRAME_SHAPE = (84, 84)

STICKY_ACTIONS = 0.25  # of the DQN-replay experience (Agarwal et al. 2020)


@dataclass(frozen=True)
class Episode:
    """One whole episode of T steps.

    Attributes:
        frames: uint8 ``[T, 84, 84]``; frame t is the newest frame when action t was chosen.
        actions: uint8 ``[T]``.
        rewards: float32 ``[T]``; reward t followed action t, clipped to [-1, 1].
        raw_rewards: float32 ``[T]``, the rewards before clipping; None where the source does not have them.
        terminated: Whether the game was over after the last step; false where a time limit truncated the episode.
        num_uncertain_ends: Number of places before, among or after the steps where the source does not tell for certain
            whether an episode was truncated; see `replay_data.sources.dopamine_episode_splitter`.
        ram: uint8 ``[T, 128]``, the emulator's RAM when the actions were chosen; None where the source has none.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32] | None
    terminated: bool
    num_uncertain_ends: int = 0
    ram: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.actions)


class Shard(Protocol):
    """One of the files or sets of files that a run was recorded in, such as a buffer of a Dopamine log.

    Shards are read forward only. Every method raises ReplayFormatError if the data that it reads is damaged.
    """

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield the whole episodes that begin in this shard, from its first one on.

        Args:
            chosen: Indices of the episodes to yield, counted from 0; None for all.
        """

    def returns(self) -> Iterator[float]:
        """Yield the return (the sum of the clipped rewards) of each episode that `episodes` yields."""

    def check(self, everything: bool = False) -> bool | None:
        """Compare the checksums that cover the data read so far; this may read the rest of the files.

        Args:
            everything: Whether to read the rest even where that is expensive.

        Returns:
            Whether checksums cover all data read so far; None if the source has no checksums.
        """

    def close(self) -> None:
        """Close the files; the next read starts at the beginning."""


class EpisodeSource(Protocol):
    """One recorded run of a game."""

    num_shards: int
    """Number of shards of the run, whether they are present or not."""
    missing: set[int]
    """Indices of the run's shards that are not present."""
    notes: tuple[str, ...]
    """What a user should know about how the run was read, one sentence each."""
    recording: Recording | None
    """Who played, and how, where this project recorded the run; None otherwise."""
    sticky_actions: float | None
    """Probability with which the environment repeated the previous action; None if it is unknown."""
    has_raw_rewards: bool
    """Whether the raw rewards of the episodes are known to be unclipped. Otherwise they are kept only if clipping
    changes one of them."""
    details: Mapping[str, Scalar]
    """What the metadata of a store should say about how the run was made, by name."""

    @property
    def shards(self) -> Mapping[int, Shard]:
        """The shards that are present, by index, ascending."""
