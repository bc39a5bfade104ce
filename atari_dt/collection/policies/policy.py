"""The interface between trained policies and the player that records them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from atari_dt.environment.config import Frames


class ActionFunction(Protocol):
    """Chooses the actions of a batch of environments."""

    def __call__(self, observations: Frames) -> npt.NDArray[np.int64]:
        """Return the actions for N states.

        Args:
            observations: uint8 ``[N, 4, 84, 84]``, the last four frames, oldest first, with zeros before the first
                frame of an episode.

        Returns:
            int64 ``[N]``, indices in the game's minimal action set.
        """


@dataclass(frozen=True)
class TrainedPolicy:
    """A policy, and what a recording says about it.

    Attributes:
        name: Where it comes from: a repository such as ``"sb3/dqn-BreakoutNoFrameskip-v4"``, a file without its
            directory, or a function such as ``"package.module:function"``.
        digest: What identifies its content, such as the SHA-256 of its file, so that a resumed recording plays the same
            policy; empty if there is no such thing.
        needs_fire: Whether it was trained with FIRE pressed for it after a reset and a lost life, as agents of
            Stable-Baselines3 are.
        choose_actions: The policy itself, deterministic.
    """

    name: str
    digest: str
    needs_fire: bool
    choose_actions: ActionFunction
