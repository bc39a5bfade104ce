"""What every source of replay data yields, and what a selection needs of a source."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from replay_data.recording import Recording

STACK = 4  # frames a state is made of (Mnih et al. 2015)

LEAD_IN = STACK - 1

FRAME_SHAPE = (84, 84)


@dataclass(frozen=True)
class Episode:
    """T steps of one game, from its first to its last.

    Attributes:
        frames: uint8 ``[T, 84, 84]``; frame t is what was seen when action t was chosen.
        actions: uint8 ``[T]``.
        rewards: float32 ``[T]``; what followed action t, clipped to [-1, 1].
        raw_rewards: float32 ``[T]``; the same before clipping, or None where the source does not have it.
        terminated: whether the game was over after the last step; false where a time limit truncated the episode.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32] | None
    terminated: bool

    def __len__(self) -> int:
        return len(self.actions)


class Shard(Protocol):
    """One of the pieces a run was recorded in (a buffer of a log, a shard), read forward only.

    Every method raises ReplayFormatError if what it reads is damaged.
    """

    @property
    def exhausted(self) -> bool:
        """Whether `visit` would yield nothing any more."""

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield, from the start, the episodes that begin in this part and were recorded to their end.

        Args:
            chosen: only these of them, counted from 0.
        """

    def returns(self) -> Iterator[float]:
        """Yield the return (the sum of rewards) of each episode that `episodes` yields."""

    def visit(self, episodes: int) -> Iterator[Episode]:
        """Yield whole episodes up to the next ``episodes`` ends of a game, going on where the last visit ended.

        A visit that would reach the part's end, or row 100,000, is not made: it yields nothing.
        """

    def check(self, everything: bool = False) -> bool:
        """Read on to the checksums that vouch for what was read, where that is cheap or ``everything`` is asked for.

        Returns:
            Whether all that was read is vouched for.
        """

    def close(self) -> None:
        """Close the files; what is read next starts at the beginning."""


class EpisodeSource(Protocol):
    """One recorded run of a game."""

    num_shards: int
    """How many parts the run had when it was recorded."""
    recording: Recording | None
    """Who played, and how, where this project recorded it."""

    @property
    def shards(self) -> Mapping[int, Shard]:
        """The parts that are there, by number, ascending."""
