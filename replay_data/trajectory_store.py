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

from replay_data.errors import InputError
from replay_data.files import whole_directory

FORMAT_VERSION = 1
STACK = 4  # frames a state is made of (Mnih et al. 2015)
LEAD_IN = STACK - 1
FRAME_SHAPE = (84, 84)

_DTYPES: dict[str, Any] = {
    "frames": np.uint8,
    "frame_index": np.int64,
    "actions": np.uint8,
    "rewards": np.float32,
    "raw_rewards": np.float32,
    "returns_to_go": np.float32,
    "timesteps": np.int32,
    "episode_ends": np.int64,
}
_OPTIONAL = {"raw_rewards"}
_REQUIRED_METADATA: dict[str, type | tuple[type, ...]] = {
    "game": str,
    "action_meanings": list,
    "reward_clipping": bool,
    "sticky_actions": (int, float, type(None)),
    "source": dict,
    "steps": int,
    "episodes": int,
    "max_return": (int, float),
    "mean_return": (int, float),
    "arrays": dict,
}


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

    def __init__(self, path: Path, metadata: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]]):
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
        metadata = _read_metadata(path)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in _DTYPES.items():
            if name in _OPTIONAL and name not in metadata["arrays"]:
                continue
            arrays[name] = _open_array(path, name, dtype, metadata["arrays"].get(name))
        store = cls(path, metadata, arrays)
        store._check_consistency()
        return store

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def game(self) -> str:
        """The game's name, such as ``"Breakout"``."""
        return str(self.metadata["game"])

    @property
    def num_actions(self) -> int:
        """Size of the action set that ``actions`` index."""
        return len(self.metadata["action_meanings"])

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
        """One SHA-256 over all arrays' digests: the same bytes, the same digest."""
        digests = {name: entry["sha256"] for name, entry in self.metadata["arrays"].items()}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def stacked(self, step: int) -> npt.NDArray[np.uint8]:
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
        if digest.hexdigest() != self.metadata["arrays"]["frames"]["sha256"]:
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
            raise _mismatch(self.path, "its arrays do not describe the same episodes")
        if steps != self.metadata["steps"] or len(ends) != self.metadata["episodes"]:
            raise _mismatch(self.path, f"{steps} steps in {len(ends)} episodes are there")
        within = np.ones(steps - 1, dtype=bool)
        within[ends[:-1] - 1] = False
        contiguous = (np.diff(self.frame_index)[within] == 1).all()
        if not contiguous or self.frame_index.min() < LEAD_IN or self.frame_index.max() >= len(self.frames):
            raise _mismatch(self.path, "frame_index does not lead through frames episode by episode")
        if self.actions.max() >= self.num_actions:
            raise _mismatch(self.path, f"action {self.actions.max()} has no meaning")
        if self.metadata["reward_clipping"] and np.abs(self.rewards).max() > 1:
            raise _mismatch(self.path, f"clipped rewards reach {np.abs(self.rewards).max():g}")
        returns = self.episode_returns
        for name, value in (("max_return", returns.max()), ("mean_return", returns.mean(dtype=np.float64))):
            if not np.isclose(self.metadata[name], value, rtol=1e-4, atol=1e-4):
                raise _mismatch(self.path, f"its {name} is {value:g}, not {self.metadata[name]:g}")


class StoreWriter:
    """Writes a store episode by episode; used as a context manager, so that it is there whole or not at all.

    Everything goes to a hidden directory beside ``path``, which gets its name when the ``with`` block ends well and
    is removed when it does not.

    Args:
        path: directory to create.
        game: name of the game, such as ``"Breakout"``.
        action_meanings: name of each action index, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``.
        reward_clipping: whether the rewards are clipped to [-1, 1].
        sticky_actions: probability with which the game repeated the previous action (Machado et al. 2018), or None
            where it is not known.
        source: where the episodes come from, anything JSON can hold: kind, protocol, selection, seed, versions.

    Attributes:
        source: likewise; it can be added to until the block ends.
        steps, episodes: how many were appended.

    Raises:
        InputError: if ``path`` exists.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        game: str,
        action_meanings: Sequence[str],
        reward_clipping: bool,
        sticky_actions: float | None,
        source: Mapping[str, Any],
    ):
        self.path = Path(path)
        if os.path.lexists(self.path):
            raise InputError(f"{self.path} exists already; choose another directory or delete it first")
        above = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise InputError(f"{self.path} cannot be made, since {above} is a file; choose another directory")
        self._metadata: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "game": game,
            "action_meanings": list(action_meanings),
            "reward_clipping": reward_clipping,
            "sticky_actions": sticky_actions,
        }
        self.source = dict(source)
        self._arrays: dict[str, _ArrayFile] = {}
        self._returns: list[float] = []
        self._scores: list[float] = []
        self.steps = 0
        self.episodes = 0

    def __enter__(self) -> StoreWriter:
        self._directory = whole_directory(self.path)
        self._partial = self._directory.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
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
        lead_in: npt.NDArray[np.uint8] | None = None,
        timesteps: npt.NDArray[Any] | None = None,
        returns_to_go: npt.NDArray[Any] | None = None,
    ) -> None:
        """Append one whole episode of T ≥ 1 steps.

        Args:
            frames: uint8 ``[T, 84, 84]``; frame t is what was seen when action t was chosen.
            actions: integers ``[T]``.
            rewards: numbers ``[T]``; what followed action t, clipped to [-1, 1] if the store says so.
            raw_rewards: numbers ``[T]``; the same before clipping. Given for all episodes or for none.
            lead_in: uint8 ``[3, 84, 84]``, what the first frame stacks hold before frame 0; zeros by default.
            timesteps: integers ``[T]``; 0 … T-1 by default.
            returns_to_go: numbers ``[T]``; the sums of the rewards from each step on by default.

        The last three are for data whose makers counted otherwise (the paper's own selection).

        Raises:
            InputError: if the arrays contradict each other or the store; the store is then as it was before.
        """
        episode = f"episode {self.episodes}"
        actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=np.float32)
        steps = len(actions)
        if frames.dtype != np.uint8 or frames.shape != (steps, *FRAME_SHAPE):
            raise InputError(
                f"{episode}: {steps} actions need uint8 frames [{steps}, 84, 84], "
                f"not {frames.dtype} {list(frames.shape)}"
            )
        if steps == 0:
            raise InputError(f"{episode} has no steps")
        if actions.dtype.kind not in "iu" or actions.shape != (steps,):
            raise InputError(f"{episode}: actions must be integers [T], not {actions.dtype} {list(actions.shape)}")
        if actions.min() < 0 or actions.max() >= len(self._metadata["action_meanings"]):
            raise InputError(
                f"{episode}: actions run from {actions.min()} to {actions.max()}, but the game has "
                f"{len(self._metadata['action_meanings'])}"
            )
        if self.episodes and (raw_rewards is not None) != ("raw_rewards" in self._arrays):
            raise InputError(f"{episode}: raw rewards must be given for all episodes or for none")
        _check_rewards(episode, "rewards", rewards, steps)
        if self._metadata["reward_clipping"] and np.abs(rewards).max() > 1:
            raise InputError(f"{episode}: rewards reach {np.abs(rewards).max():g} in a store of clipped rewards")
        raw = None if raw_rewards is None else np.asarray(raw_rewards, dtype=np.float32)
        if raw is not None:
            _check_rewards(episode, "raw rewards", raw, steps)
            expected = np.clip(raw, -1, 1) if self._metadata["reward_clipping"] else raw
            if (rewards != expected).any():
                raise InputError(f"{episode}: rewards are not what the raw rewards give")

        if returns_to_go is None:
            returns_to_go = np.cumsum(rewards[::-1], dtype=np.float64)[::-1]
        if lead_in is None:
            lead_in = np.zeros((LEAD_IN, *FRAME_SHAPE), np.uint8)
        if timesteps is None:
            timesteps = np.arange(steps)
        if lead_in.shape != (LEAD_IN, *FRAME_SHAPE) or len(timesteps) != steps or len(returns_to_go) != steps:
            raise InputError(f"{episode}: lead-in frames, timesteps or returns-to-go are not those of {steps} steps")
        first_frame = self.steps + LEAD_IN * (self.episodes + 1)
        self._write("frames", lead_in)
        self._write("frames", frames)
        self._write("frame_index", np.arange(first_frame, first_frame + steps))
        self._write("actions", actions)
        self._write("rewards", rewards)
        if raw is not None:
            self._write("raw_rewards", raw)
            self._scores.append(float(raw.sum(dtype=np.float64)))
        self._write("returns_to_go", returns_to_go)
        self._write("timesteps", timesteps)
        self.steps += steps
        self.episodes += 1
        self._write("episode_ends", np.array([self.steps]))
        self._returns.append(float(returns_to_go[0]))

    def discard_raw_rewards(self) -> None:
        """Forget the raw rewards that were given; for a source that turns out to know only clipped ones."""
        if (array := self._arrays.pop("raw_rewards", None)) is not None:
            array.discard()
        self._scores.clear()

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        if name not in self._arrays:
            self._arrays[name] = _ArrayFile(self._partial / f"{name}.npy", _DTYPES[name])
        self._arrays[name].append(values)

    def _finish(self) -> None:
        """Complete every file and write the metadata last."""
        if not self.episodes:
            raise InputError(f"nothing to write to {self.path}: not one episode was given")
        self._metadata |= {
            "source": self.source,
            "steps": self.steps,
            "episodes": self.episodes,
            "max_return": max(self._returns),
            "mean_return": float(np.mean(self._returns)),
        }
        if self._scores:
            self._metadata |= {"max_score": max(self._scores), "mean_score": float(np.mean(self._scores))}
        self._metadata["arrays"] = {name: array.finish() for name, array in self._arrays.items()}
        (self._partial / "metadata.json").write_text(json.dumps(self._metadata, indent=2) + "\n")


class _ArrayFile:
    """A ``.npy`` file that grows along its first axis and knows the SHA-256 of its values."""

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
        # NumPy pads the header so that the first axis can grow to any length without moving the data.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def finish(self) -> dict[str, Any]:
        """Complete the header; return what the metadata says about this array."""
        assert self._shape is not None
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header_size:
            raise RuntimeError(f"NumPy wrote a header of another size to {self._path}")
        self._file.close()
        return {"dtype": self._dtype.name, "shape": list(self._shape), "sha256": self._sha256.hexdigest()}

    def discard(self) -> None:
        self.close()
        self._path.unlink()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # flushing fails on a full disk; the file is about to be removed
            self._file.close()


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise InputError(f"no trajectory store at {path}; make one with scripts/collect_replay.py or build_dataset.py")
    if not (path / "metadata.json").is_file():
        raise InputError(
            f"{path} is not a trajectory store (it has no metadata.json); make one with scripts/collect_replay.py or "
            "build_dataset.py"
        )
    try:
        metadata = json.loads((path / "metadata.json").read_text())
        version = metadata["format_version"]
        if version == FORMAT_VERSION:
            for key, kind in _REQUIRED_METADATA.items():
                if not isinstance(metadata[key], kind):
                    raise TypeError(f"{key} is {metadata[key]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise _mismatch(path, f"metadata.json cannot be read ({type(error).__name__}: {error})") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has store format {version}, this version of the code reads {FORMAT_VERSION}; make the store again"
        )
    return dict(metadata)


def _open_array(path: Path, name: str, dtype: Any, entry: Any) -> npt.NDArray[Any]:
    file = path / f"{name}.npy"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        found = {"dtype": array.dtype.name, "shape": list(array.shape)}
        expected = {"dtype": np.dtype(dtype).name, "shape": list(entry["shape"])}
        sha256 = entry["sha256"]
    except (OSError, ValueError, EOFError, TypeError, KeyError) as error:
        raise _mismatch(path, f"{file.name} cannot be read ({error})") from error
    if found != expected or (name == "frames" and array.shape[1:] != FRAME_SHAPE):
        raise _mismatch(
            path, f"{file.name} is {found['dtype']} {found['shape']} instead of {expected['dtype']} {expected['shape']}"
        )
    if name != "frames" and hashlib.sha256(array.data).hexdigest() != sha256:
        raise _mismatch(path, f"the SHA-256 of {file.name} differs")
    return array


def _mismatch(path: Path, what: str) -> InputError:
    return InputError(f"the store at {path} does not match its metadata: {what}; make or copy it again")


def _check_rewards(episode: str, name: str, rewards: npt.NDArray[np.float32], steps: int) -> None:
    if rewards.shape != (steps,) or not np.isfinite(rewards).all():
        raise InputError(
            f"{episode}: {name} must be {steps} finite numbers, not {list(rewards.shape)}"
            f"{'' if np.isfinite(rewards).all() else ' with NaN or infinity'}"
        )
