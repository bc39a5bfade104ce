"""Trajectories on disk: a directory of memory-mapped ``.npy`` files and a ``metadata.json`` that is written last.

=================  =======  ================  ==================================================================
file               dtype    shape             content
=================  =======  ================  ==================================================================
frames.npy         uint8    ``[F, 84, 84]``   each episode's three lead-in frames, then one frame a step
frame_index.npy    int64    ``[N]``           row of ``frames`` that holds the step's newest frame
actions.npy        uint8    ``[N]``           index into ``metadata["action_meanings"]``
rewards.npy        float32  ``[N]``           as training sees them: clipped to [-1, 1] if ``reward_clipping``
raw_rewards.npy    float32  ``[N]``           the game's own points; absent where the source has none
returns_to_go.npy  float32  ``[N]``           undiscounted sum of ``rewards`` from the step to its episode's end
timesteps.npy      int32    ``[N]``           0 at the first step of each episode, then 1, 2, …
episode_ends.npy   int64    ``[E]``           exclusive end of each episode, in steps
=================  =======  ================  ==================================================================

N steps, E episodes, F = N + 3E frames. Because every episode brings its own lead-in frames (zeros before a true
start), the frame stack of a step is ``frames[i - 3 : i + 1]`` and a context of K steps is one contiguous slice of
K + 3 frames, without any boundary case.

A store of the paper's own draw (``metadata["source"]["selection"]["kind"] == "original"``) holds the original code's
lead-in frames, timesteps and returns-to-go instead (docs/protocol.md).
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
from replay_data.errors import InputError
from replay_data.store_metadata import DTYPES, OPTIONAL_ARRAYS, ArrayInfo, StoreMetadata, mismatch_error, read_metadata


class TrajectoryStore:
    """N steps of E episodes, read from disk as they are needed.

    Attributes:
        path: the directory.
        metadata: what ``metadata.json`` holds: game, action meanings, source, sticky actions, reward clipping,
            steps, episodes, max and mean return (and score), and shape, dtype and SHA-256 of every array.
        frames, frame_index, actions, rewards, returns_to_go, timesteps, episode_ends: read-only memory maps of the
            shapes and dtypes in this module's table.
        raw_rewards: likewise, or None where the source has none.
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

        All arrays but the frames are compared with their SHA-256 (a few MB per 500,000 steps); `verify` reads the
        frames too.

        Raises:
            InputError: if there is no store, or it is of another format version, or its arrays do not match its
                metadata.
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
        """The game's name, such as ``"Breakout"``."""
        return self.metadata.game

    @property
    def num_actions(self) -> int:
        """Size of the action set that ``actions`` index."""
        return len(self.metadata.action_meanings)

    @property
    def num_episodes(self) -> int:
        """E."""
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
        """One SHA-256 over the data a policy is trained on (see `StoreMetadata.digest`)."""
        return self.metadata.digest

    def state(self, step: int) -> npt.NDArray[np.uint8]:
        """The state of a step: its four latest frames, uint8 ``[4, 84, 84]``, oldest first."""
        newest = self.frame_index[step]
        return self.frames[newest - LEAD_IN : newest + 1]

    def verify(self) -> None:
        """Read the frames and compare them with their SHA-256.

        Raises:
            InputError: if they differ.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self.frames), 4096):
            digest.update(self.frames[start : start + 4096].data)
        if digest.hexdigest() != self.metadata.arrays["frames"].sha256:
            raise InputError(
                f"{self.path / 'frames.npy'} is damaged (its SHA-256 differs); make or copy the store again"
            )

    def _check_consistency(self) -> None:
        """Raise InputError unless the index arrays describe whole episodes inside ``frames``."""
        steps, ends = len(self.actions), self.episode_ends
        arrays: list[Any] = [self.frame_index, self.rewards, self.returns_to_go, self.timesteps]
        if self.raw_rewards is not None:
            arrays.append(self.raw_rewards)
        same_length = all(len(array) == steps for array in arrays)
        if not (same_length and len(ends) and ends[-1] == steps and ends[0] > 0 and (np.diff(ends) > 0).all()):
            raise mismatch_error(self.path, "its arrays do not describe the same episodes")
        if steps != self.metadata.steps or len(ends) != self.metadata.episodes:
            raise mismatch_error(self.path, f"{steps} steps in {len(ends)} episodes are there")
        within = np.ones(steps - 1, dtype=bool)
        within[ends[:-1] - 1] = False
        contiguous = (np.diff(self.frame_index)[within] == 1).all()
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
        if self.terminated is not None and len(self.terminated) != len(ends):
            raise mismatch_error(self.path, f"terminated has {len(self.terminated)} entries for {len(ends)} episodes")


def _open_array(path: Path, name: str, dtype: Any, stated: ArrayInfo | None) -> npt.NDArray[Any]:
    file = path / f"{name}.npy"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        found = {"dtype": array.dtype.name, "shape": list(array.shape)}
        if stated is None:
            raise ValueError("the metadata does not mention it")
        expected = {"dtype": np.dtype(dtype).name, "shape": list(stated.shape)}
    except (OSError, ValueError, EOFError, TypeError, KeyError) as error:
        raise mismatch_error(path, f"{file.name} cannot be read ({error})") from error
    if found != expected or (name == "frames" and array.shape[1:] != FRAME_SHAPE):
        raise mismatch_error(
            path, f"{file.name} is {found['dtype']} {found['shape']} instead of {expected['dtype']} {expected['shape']}"
        )
    if name != "frames" and hashlib.sha256(array.data).hexdigest() != stated.sha256:
        raise mismatch_error(path, f"the SHA-256 of {file.name} differs")
    return array
