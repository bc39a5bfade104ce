"""The interface of policies that play N environments."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

Floats = npt.NDArray[np.float32]


class Policy(Protocol):
    """Policy that plays N environments."""

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Start an episode in M environments and forget their previous episodes.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            target_returns: Target returns of the episodes, float32 ``[M]``.
            seeds: Seeds of the action sampling, int64 ``[M]``.
        """

    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of M environments.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            states: Current states, uint8 ``[M, *state_shape]``: ``[M, 4, 84, 84]`` of frames, ``[M, D]`` of vectors.
            rewards: Unclipped rewards of the last step, float32 ``[M]``; ignored in the first step of an episode.

        Returns:
            Action indices, int64 ``[M]``.
        """
