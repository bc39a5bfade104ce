"""Write a trajectory store, episode by episode."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from replay_data.byte_statistics import ByteSums
from replay_data.episode import FRAME_SHAPE, LEAD_IN
from replay_data.errors import InputError
from replay_data.json_fields import check_range
from replay_data.observation import FRAMES, RAM, RAM_SIZE
from replay_data.recording import check_game_name, read_action_meanings
from replay_data.storage.atomic import atomic_directory
from replay_data.store_metadata import DTYPES, ArrayInfo, StoreMetadata, StoreSource


class StoreWriter:
    """Writes a trajectory store atomically, episode by episode; a context manager.

    The store is written to a hidden directory beside ``path``. That is renamed to ``path`` when the ``with`` block
    succeeds, and removed when it raises.

    Args:
        path: Directory to create.
        game: Name of the game, such as ``"Breakout"``.
        action_meanings: Name of each action index, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``.
        reward_clipping: Whether the rewards are clipped to [-1, 1].
        sticky_actions: Probability with which the environment repeated the previous action (Machado et al. 2018), or
            None if it is unknown.
        source: Origin of the episodes.

    Attributes:
        source: Origin of the episodes; it may be replaced until the ``with`` block ends.
        steps: Number of steps appended so far.
        episodes: Number of episodes appended so far.

    Raises:
        InputError: If ``path`` exists or cannot be created, or the metadata would have an impossible value.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        game: str,
        action_meanings: Sequence[str],
        reward_clipping: bool,
        sticky_actions: float | None,
        source: StoreSource,
    ):
        self.path = Path(path)
        if os.path.lexists(self.path):
            raise InputError(f"{self.path} exists already; choose another directory or delete it first")
        parent = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not parent.is_dir():
            raise InputError(f"{self.path} cannot be created because {parent} is a file; choose another directory")
        _check_description(game, action_meanings, sticky_actions)
        self._game, self._action_meanings = game, tuple(action_meanings)
        self._reward_clipping, self._sticky_actions = reward_clipping, sticky_actions
        self.source = source
        self._arrays: dict[str, _ArrayFile] = {}
        self._linked_frames: ArrayInfo | None = None
        self._returns: list[float] = []
        self._scores: list[float] = []
        self._ram_sums = ByteSums()
        self.steps = 0
        self.episodes = 0

    def __enter__(self) -> StoreWriter:
        self._directory = atomic_directory(self.path)
        self._partial = self._directory.__enter__()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:
            stack.push(self._directory)
            for array in self._arrays.values():
                stack.callback(array.close)
            if error is not None:
                raise error
            self._finish()

    def append(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        raw_rewards: npt.NDArray[Any] | None = None,
        *,
        terminated: bool | None,
        lead_in: npt.NDArray[np.uint8] | None = None,
        timesteps: npt.NDArray[Any] | None = None,
        returns_to_go: npt.NDArray[Any] | None = None,
        ram: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Append one whole episode of T ≥ 1 steps.

        ``lead_in``, ``timesteps`` and ``returns_to_go`` are for the paper's own draw, which computes them differently,
        and for episodes of another store.

        Args:
            frames: uint8 ``[T, 84, 84]``, the newest frame when each action was chosen.
            actions: Integers ``[T]``.
            rewards: Numbers ``[T]``, the reward after each action, clipped to [-1, 1] if the store says so.
            raw_rewards: Numbers ``[T]``, the rewards before clipping; for all episodes of a store or for none.
            terminated: Whether the game was over after the last step; false if a time limit truncated the episode; None
                for all episodes of a store if it is unknown.
            lead_in: uint8 ``[3, 84, 84]``, the frames before frame 0 in the first states; zeros by default.
            timesteps: Integers ``[T]``; 0 … T-1 by default.
            returns_to_go: Numbers ``[T]``; the sums of the rewards from each step to the last by default.
            ram: uint8 ``[T, 128]``, the emulator's RAM when the actions were chosen; for all episodes of a store or for
                none.

        Raises:
            InputError: If the arrays contradict each other or the store, which then stays as it was.
        """
        if self._linked_frames is not None:
            raise ValueError("frames.npy belongs to another store too; use append_linked")
        columns = self._check_columns(actions, rewards, raw_rewards, terminated, timesteps, returns_to_go, ram)
        steps = len(columns["actions"])
        if lead_in is None:
            lead_in = np.zeros((LEAD_IN, *FRAME_SHAPE), np.uint8)
        if frames.dtype != np.uint8 or frames.shape != (steps, *FRAME_SHAPE):
            raise InputError(
                f"episode {self.episodes}: {steps} actions need uint8 frames [{steps}, 84, 84], "
                f"not {frames.dtype} {list(frames.shape)}"
            )
        if lead_in.shape != (LEAD_IN, *FRAME_SHAPE):
            raise InputError(f"episode {self.episodes}: lead-in frames must be [3, 84, 84], not {list(lead_in.shape)}")
        self._write("frames", lead_in)
        self._write("frames", frames)
        self._write_columns(columns, self.steps + LEAD_IN * (self.episodes + 1))

    def link_frames(self, file: Path, info: ArrayInfo) -> bool:
        """Make ``frames.npy`` a hard link to the frames of another store, before the first episode.

        `append_linked` then appends episodes of that store without copying their frames.

        Args:
            file: ``frames.npy`` of the other store.
            info: Its entry in that store's metadata.

        Returns:
            Whether the file system could link the file. If not, append episodes with `append`.
        """
        with contextlib.suppress(OSError):  # another file system, one without links, or a file of another user
            os.link(os.path.realpath(file), self._partial / "frames.npy")
            self._linked_frames = info
        return self._linked_frames is not None

    def append_linked(
        self,
        first_frame: int,
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        raw_rewards: npt.NDArray[Any] | None = None,
        *,
        terminated: bool | None,
        returns_to_go: npt.NDArray[Any] | None = None,
        ram: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Append one whole episode whose frames are among those of `link_frames`.

        Args:
            first_frame: Row of these frames that holds the newest frame of the episode's first step.
            actions, rewards, raw_rewards, terminated, returns_to_go, ram: As for `append`.

        Raises:
            InputError: If the arrays contradict each other or the store, which then stays as it was.
        """
        if self._linked_frames is None:
            raise ValueError("no frames are linked")
        columns = self._check_columns(actions, rewards, raw_rewards, terminated, None, returns_to_go, ram)
        num_frames = self._linked_frames.shape[0]
        if not LEAD_IN <= first_frame <= num_frames - len(columns["actions"]):
            raise InputError(f"episode {self.episodes}: frame {first_frame} is not the first of an episode")
        self._write_columns(columns, first_frame)

    def _check_columns(
        self,
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        raw_rewards: npt.NDArray[Any] | None,
        terminated: bool | None,
        timesteps: npt.NDArray[Any] | None,
        returns_to_go: npt.NDArray[Any] | None,
        ram: npt.NDArray[np.uint8] | None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the values of an episode to write to each array except frames and frame_index.

        Raises:
            InputError: If they contradict each other or the store.
        """
        episode = f"episode {self.episodes}"
        actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=np.float32)
        steps = len(actions)
        if steps == 0:
            raise InputError(f"{episode} has no steps")
        if actions.dtype.kind not in "iu" or actions.shape != (steps,):
            raise InputError(f"{episode}: actions must be integers [T], not {actions.dtype} {list(actions.shape)}")
        if actions.min() < 0 or actions.max() >= len(self._action_meanings):
            raise InputError(
                f"{episode}: actions run from {actions.min()} to {actions.max()}, but the game has "
                f"{len(self._action_meanings)}"
            )
        for name, value, what in (
            ("raw_rewards", raw_rewards, "raw rewards"),
            ("terminated", terminated, "how they ended"),
            ("ram", ram, "RAM"),
        ):
            if self.episodes and (value is not None) != (name in self._arrays):
                raise InputError(f"{episode}: a store has {what} for all episodes or for none")
        _check_rewards(episode, "rewards", rewards, steps)
        if self._reward_clipping and np.abs(rewards).max() > 1:
            raise InputError(f"{episode}: rewards reach {np.abs(rewards).max():g} in a store of clipped rewards")
        columns = {"actions": actions, "rewards": rewards}
        if raw_rewards is not None:
            columns["raw_rewards"] = raw = np.asarray(raw_rewards, dtype=np.float32)
            _check_rewards(episode, "raw rewards", raw, steps)
            expected = np.clip(raw, -1, 1) if self._reward_clipping else raw
            if (rewards != expected).any():
                raise InputError(
                    f"{episode}: rewards differ from the{' clipped' if self._reward_clipping else ''} raw rewards"
                )
        if returns_to_go is None:
            returns_to_go = np.cumsum(rewards[::-1], dtype=np.float64)[::-1]
        if timesteps is None:
            timesteps = np.arange(steps)
        if len(timesteps) != steps or len(returns_to_go) != steps:
            raise InputError(f"{episode}: timesteps or returns-to-go do not fit {steps} steps")
        if not np.isfinite(returns_to_go).all():
            raise InputError(f"{episode}: returns-to-go must be finite numbers")
        if ram is not None:
            if ram.dtype != np.uint8 or ram.shape != (steps, RAM_SIZE):
                raise InputError(
                    f"{episode}: RAM must be uint8 [{steps}, {RAM_SIZE}], not {ram.dtype} {list(ram.shape)}"
                )
            columns["ram"] = ram
        columns |= {
            "returns_to_go": returns_to_go,
            "timesteps": timesteps,
            "episode_ends": np.array([self.steps + steps]),
        }
        if terminated is not None:
            columns["terminated"] = np.array([terminated])
        return columns

    def _write_columns(self, columns: Mapping[str, npt.NDArray[Any]], first_frame: int) -> None:
        """Append an episode whose frames begin at row ``first_frame`` of the frames."""
        steps = len(columns["actions"])
        self._write("frame_index", np.arange(first_frame, first_frame + steps))
        for name, values in columns.items():
            self._write(name, values)
        if "ram" in columns:
            self._ram_sums.add(columns["ram"])
        self.steps += steps
        self.episodes += 1
        self._returns.append(float(columns["returns_to_go"][0]))
        if "raw_rewards" in columns:
            self._scores.append(float(columns["raw_rewards"].sum(dtype=np.float64)))

    def discard_raw_rewards(self) -> None:
        """Remove the raw rewards of all episodes, for a source that turns out to have clipped rewards only."""
        if (array := self._arrays.pop("raw_rewards", None)) is not None:
            array.discard()
        self._scores.clear()

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        if name not in self._arrays:
            self._arrays[name] = _ArrayFile(self._partial / f"{name}.npy", DTYPES[name])
        self._arrays[name].append(values)

    def _finish(self) -> None:
        """Complete every file and write the metadata last."""
        if not self.episodes:
            raise InputError(
                f"nothing to write to {self.path}: no whole episode is in the source; record or copy more of it"
            )
        arrays = {} if self._linked_frames is None else {"frames": self._linked_frames}
        arrays |= {name: array.finish() for name, array in self._arrays.items()}
        metadata = StoreMetadata(
            game=self._game,
            action_meanings=self._action_meanings,
            reward_clipping=self._reward_clipping,
            sticky_actions=self._sticky_actions,
            source=self.source,
            steps=self.steps,
            episodes=self.episodes,
            max_return=max(self._returns),
            mean_return=float(np.mean(self._returns)),
            arrays=arrays,
            max_score=max(self._scores) if self._scores else None,
            mean_score=float(np.mean(self._scores)) if self._scores else None,
            observations=(FRAMES, RAM) if "ram" in arrays else (FRAMES,),
            ram_statistics=self._ram_sums.statistics() if "ram" in arrays else None,
        )
        (self._partial / "metadata.json").write_text(json.dumps(metadata.to_json(), indent=2) + "\n")


class _ArrayFile:
    """Writes a ``.npy`` file piece by piece along its first axis, and computes the SHA-256 of its values."""

    def __init__(self, path: Path, dtype: Any):
        self._path, self._dtype = path, np.dtype(dtype)
        self._file: BinaryIO = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._shape: tuple[int, ...] | None = None
        self._header_size = 0

    def append(self, values: npt.NDArray[Any]) -> None:
        values = np.ascontiguousarray(values, dtype=self._dtype)
        if self._shape is None:
            self._shape = (0, *values.shape[1:])
            self._write_header()
            self._header_size = self._file.tell()
        self._file.write(values.data)
        self._sha256.update(values.data)
        self._shape = (self._shape[0] + len(values), *self._shape[1:])

    def _write_header(self) -> None:
        # NumPy pads the header, so the first axis can grow to any length without moving the data.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def finish(self) -> ArrayInfo:
        """Complete the header and return the metadata of the array."""
        assert self._shape is not None
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header_size:
            raise RuntimeError(f"NumPy changed the size of the header of {self._path}")
        self._file.close()
        return ArrayInfo(self._dtype.name, self._shape, self._sha256.hexdigest())

    def discard(self) -> None:
        self.close()
        self._path.unlink()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # flushing fails on a full disk, but the file is removed anyway
            self._file.close()


def _check_description(game: str, action_meanings: Sequence[str], sticky_actions: float | None) -> None:
    """Check what `StoreMetadata` would refuse when the store is opened."""
    try:
        check_game_name(game)
        read_action_meanings({"action_meanings": list(action_meanings)})
        if sticky_actions is not None:
            check_range("sticky_actions", sticky_actions, 0, 1)
    except (ValueError, TypeError) as error:
        raise InputError(f"the store cannot be written ({error}); correct this value") from error


def _check_rewards(episode: str, name: str, rewards: npt.NDArray[np.float32], steps: int) -> None:
    if rewards.shape != (steps,) or not np.isfinite(rewards).all():
        raise InputError(
            f"{episode}: {name} must be {steps} finite numbers, not {list(rewards.shape)}"
            f"{'' if np.isfinite(rewards).all() else ' with NaN or infinity'}"
        )
