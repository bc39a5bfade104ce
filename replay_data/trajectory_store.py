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
=================  =======  ================  ==================================================================

A store has N steps, E episodes and F = N + 3E frames. Every episode has its own lead-in frames, which are zeros before
the start of a game. So the state of a step is ``frames[i - 3 : i + 1]``, where i is its ``frame_index``, and a context
of K steps is one contiguous slice of K + 3 frames, without special cases at the borders of episodes.

``metadata.json`` (`replay_data.store_metadata`) is written last: without it there is no store. Stores of format
version 1 have no ``terminated.npy``.

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

from replay_data.episode import FRAME_SHAPE, LEAD_IN
from replay_data.errors import InputError, summarize_error
from replay_data.store_metadata import DTYPES, OPTIONAL_ARRAYS, ArrayInfo, StoreMetadata, mismatch_error, read_metadata


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
        terminated: bool ``[E]``, or None in a store of format version 1.
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

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrajectoryStore:
        """Open the store at ``path`` without reading its frames.

        The SHA-256 of all other arrays (a few MB per 500,000 steps) is checked; `verify` checks that of the frames.

        Raises:
            InputError: If there is no store, it has an unknown format version, or its arrays do not match its metadata.
        """
        path = Path(path)
        metadata = read_metadata(path)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in DTYPES.items():
            if name in OPTIONAL_ARRAYS and name not in metadata.arrays:
                continue
            arrays[name] = _open_array(path, name, dtype, metadata.arrays.get(name))
        store = cls(path, metadata, arrays)
        store._check_consistency()
        return store

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

    def _check_consistency(self) -> None:
        """Check that the arrays describe whole episodes, and that the metadata fits them; raise InputError if not."""
        steps, ends = len(self.actions), self.episode_ends
        arrays_per_step: list[Any] = [
            self.frame_index,
            self.rewards,
            self.raw_rewards,
            self.returns_to_go,
            self.timesteps,
        ]
        same_steps = all(len(array) == steps for array in arrays_per_step if array is not None)
        same_episodes = self.terminated is None or len(self.terminated) == len(ends)
        ascending = len(ends) > 0 and ends[0] > 0 and (np.diff(ends) > 0).all()
        if not (same_steps and same_episodes and ascending and ends[-1] == steps):
            raise mismatch_error(self.path, "its arrays do not describe the same episodes")
        if steps != self.metadata.steps or len(ends) != self.metadata.episodes:
            raise mismatch_error(self.path, f"it has {steps} steps in {len(ends)} episodes")
        continues = np.ones(steps - 1, dtype=bool)
        continues[ends[:-1] - 1] = False
        contiguous = (np.diff(self.frame_index)[continues] == 1).all()
        if not contiguous or self.frame_index.min() < LEAD_IN or self.frame_index.max() >= len(self.frames):
            raise mismatch_error(self.path, "frame_index does not lead through frames episode by episode")
        if self.actions.max() >= self.num_actions:
            raise mismatch_error(self.path, f"action {self.actions.max()} has no meaning")
        if self.metadata.reward_clipping and np.abs(self.rewards).max() > 1:
            raise mismatch_error(self.path, f"clipped rewards reach {np.abs(self.rewards).max():g}")
        returns = self.episode_returns
        for name, stated, value in (
            ("max_return", self.metadata.max_return, returns.max()),
            ("mean_return", self.metadata.mean_return, returns.mean(dtype=np.float64)),
        ):
            if not np.isclose(stated, value, rtol=1e-4, atol=1e-4):
                raise mismatch_error(self.path, f"its {name} is {value:g}, not {stated:g}")


def _open_array(path: Path, name: str, dtype: Any, stated: ArrayInfo | None) -> npt.NDArray[Any]:
    """Open an array as a memory map and compare it with what the metadata says about it."""
    file = path / f"{name}.npy"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if stated is None:
            raise ValueError("the metadata does not mention it")
    except (OSError, ValueError, EOFError, TypeError, KeyError) as error:
        raise mismatch_error(path, f"{file.name} cannot be read ({summarize_error(error)})") from error
    shape = (*stated.shape[:1], *(FRAME_SHAPE if name == "frames" else ()))
    if array.dtype != dtype or array.shape != stated.shape or array.shape != shape or not shape:
        found, expected = f"{array.dtype} {list(array.shape)}", f"{np.dtype(dtype)} {list(shape)}"
        raise mismatch_error(path, f"{file.name} is {found} instead of {expected}")
    if name != "frames" and hashlib.sha256(array.data).hexdigest() != stated.sha256:
        raise mismatch_error(path, f"the SHA-256 of {file.name} differs")
    return array
