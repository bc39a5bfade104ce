"""Read trajectories from disk: a directory of memory-mapped ``.npy`` files, and ``metadata.json``.

=================  =======  ================  ==================================================================
file               dtype    shape             content
=================  =======  ================  ==================================================================
frames.npy         uint8    ``[F, 84, 84]``   three lead-in frames per episode, then one frame per step
frame_index.npy    int64    ``[N]``           row of ``frames`` that holds the step's newest frame
actions.npy        uint8    ``[N]``           index into ``metadata.action_meanings``
rewards.npy        float32  ``[N]``           rewards for training, clipped to [-1, 1] if ``reward_clipping``
raw_rewards.npy    float32  ``[N]``           the game's points; missing if the source has none
returns_to_go.npy  float32  ``[N]``           undiscounted sum of ``rewards`` from the step to the episode's end
timesteps.npy      int32    ``[N]``           0 at the first step of each episode, then 1, 2, …
episode_ends.npy   int64    ``[E]``           exclusive end of each episode, in steps
terminated.npy     bool     ``[E]``           whether the game was over; false if a time limit truncated the episode
ram.npy            uint8    ``[N, 128]``      the emulator's RAM when the action was chosen; missing where unknown
=================  =======  ================  ==================================================================

A store has N steps, E episodes and F = N + 3E frames. Every episode has its own lead-in frames, which are zeros before
the start of a game. So the state of a step is ``frames[i - 3 : i + 1]``, where i is its ``frame_index``, and a context
of K steps is one contiguous slice of K + 3 frames, without special cases at the borders of episodes.

A store that was selected from another one (`replay_data.selection.stores`) may hold that store's ``frames.npy`` as a
hard link. It then has more frames, among them those of episodes that are not its own.

``metadata.json`` (`replay_data.store_metadata`) is written last: without it there is no store. Stores of format
version 1, and those selected from one, have no ``terminated.npy``.

A store with the paper's draw (``metadata.source.selection["method"] == "original"``) has the lead-in frames, timesteps
and returns-to-go of the original code instead (docs/protocol.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import LEAD_IN
from replay_data.errors import InputError
from replay_data.store_arrays import open_arrays
from replay_data.store_metadata import StoreMetadata, read_metadata


class TrajectoryStore:
    """N steps of E episodes, read from disk on demand.

    The arrays are read-only memory maps with the shapes and dtypes of this module's table.

    Attributes:
        path: Directory of the store.
        metadata: Content of ``metadata.json``.
        frames: uint8 ``[F, 84, 84]``.
        frame_index: int64 ``[N]``.
        actions: uint8 ``[N]``.
        rewards: float32 ``[N]``.
        raw_rewards: float32 ``[N]``, or None if the source has none.
        returns_to_go: float32 ``[N]``.
        timesteps: int32 ``[N]``.
        episode_ends: int64 ``[E]``.
        terminated: bool ``[E]``, or None in a store of format version 1 and in one selected from it.
        ram: uint8 ``[N, 128]``, the emulator's RAM when the step's action was chosen, or None if the source has none.
    """

    def __init__(self, path: Path, metadata: StoreMetadata, arrays: Mapping[str, npt.NDArray[Any]]):
        self.path = path
        self.metadata = metadata
        self.frames: npt.NDArray[np.uint8] = arrays["frames"]
        self.frame_index: npt.NDArray[np.int64] = arrays["frame_index"]
        self.actions: npt.NDArray[np.uint8] = arrays["actions"]
        self.rewards: npt.NDArray[np.float32] = arrays["rewards"]
        self.raw_rewards: npt.NDArray[np.float32] | None = arrays.get("raw_rewards")
        self.returns_to_go: npt.NDArray[np.float32] = arrays["returns_to_go"]
        self.timesteps: npt.NDArray[np.int32] = arrays["timesteps"]
        self.episode_ends: npt.NDArray[np.int64] = arrays["episode_ends"]
        self.terminated: npt.NDArray[np.bool_] | None = arrays.get("terminated")
        self.ram: npt.NDArray[np.uint8] | None = arrays.get("ram")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrajectoryStore:
        """Open the store at ``path`` without reading its frames.

        The SHA-256 and the values of all other arrays (25 bytes per step, 153 with RAM) are checked, which takes about
        0.02 s per 500,000 steps, 0.1 s with RAM; `verify` checks the SHA-256 of the frames.

        Raises:
            InputError: If there is no store, it has an unknown format version, its arrays have impossible values, or
                they do not match its metadata.
        """
        path = Path(path)
        metadata = read_metadata(path)
        return cls(path, metadata, open_arrays(path, metadata))

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def game(self) -> str:
        """Name of the game, such as ``"Breakout"``."""
        return self.metadata.game

    @property
    def num_actions(self) -> int:
        """Number of actions in the game's action set."""
        return len(self.metadata.action_meanings)

    @property
    def num_episodes(self) -> int:
        """Number of episodes, E."""
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> npt.NDArray[np.int64]:
        """First step of each episode, int64 ``[E]``."""
        return np.concatenate([[0], self.episode_ends[:-1]])

    @property
    def episode_returns(self) -> npt.NDArray[np.float32]:
        """Sum of ``rewards`` of each episode, float32 ``[E]``."""
        return self.returns_to_go[self.episode_starts]

    @property
    def digest(self) -> str:
        """SHA-256 over the arrays of the store (`StoreMetadata.digest`)."""
        return self.metadata.digest

    def state(self, step: int) -> npt.NDArray[np.uint8]:
        """Return the state at a step: uint8 ``[4, 84, 84]``, the last four frames, oldest first."""
        newest = self.frame_index[step]
        return self.frames[newest - LEAD_IN : newest + 1]

    def require_ram(self) -> npt.NDArray[np.uint8]:
        """Return the RAM, uint8 ``[N, 128]``.

        Raises:
            InputError: If the store has none.
        """
        if self.ram is None:
            raise InputError(
                f"the store at {self.path} has no RAM; record a log with RAM (scripts/collect_replay.py, `ram`) and "
                "build a store from it, or set `observation` to frames"
            )
        return self.ram

    def verify(self) -> None:
        """Check the SHA-256 of the frames.

        Raises:
            InputError: If the frames are damaged.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self.frames), 4096):
            digest.update(self.frames[start : start + 4096].data)
        if digest.hexdigest() != self.metadata.arrays["frames"].sha256:
            raise InputError(
                f"{self.path / 'frames.npy'} is damaged (its SHA-256 differs); build or copy the store again"
            )
