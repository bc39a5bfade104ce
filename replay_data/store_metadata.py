"""What a trajectory store's ``metadata.json`` holds: `StoreMetadata`, format version 2.

Version 1 lacks the array ``terminated`` and spells three keys of ``source`` differently; it is still read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from replay_data.errors import InputError
from replay_data.recording import Recording, Scalar

FORMAT_VERSION = 2

DTYPES: dict[str, Any] = {
    "frames": np.uint8,
    "frame_index": np.int64,
    "actions": np.uint8,
    "rewards": np.float32,
    "raw_rewards": np.float32,
    "returns_to_go": np.float32,
    "timesteps": np.int32,
    "episode_ends": np.int64,
    "terminated": np.bool_,
}

OPTIONAL_ARRAYS = {"raw_rewards", "terminated"}


@dataclass(frozen=True)
class ArrayInfo:
    """One ``.npy`` file of a store.

    Attributes:
        dtype: NumPy's name of the type.
        shape: of the array.
        sha256: hexadecimal digest of its values, header excluded.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class StoreSource:
    """Where the episodes of a store come from.

    Attributes:
        format: source format: ``"dopamine"``, ``"rl_unplugged"``, or ``"scripted"`` for a store that scripted players
            filled directly.
        run: number of the recorded run; None where there is none.
        selection: the selection method under ``"method"``, and the options it used.
        recording: who played, where this project recorded it; None otherwise.
        verified: whether checksums vouch for everything that was read; None where there are none.
        episodes_per_shard: number of episodes taken from each shard, by its index; empty where there are no shards.
        original_done_idxs: the original code's ``done_idxs`` where they differ from the ends of episodes; None otherwise.
        details: what is specific to the source format, such as the seed of scripted players.
    """

    format: str
    run: int | None = None
    selection: Mapping[str, Scalar] = field(default_factory=dict)
    recording: Recording | None = None
    verified: bool | None = None
    episodes_per_shard: Mapping[int, int] = field(default_factory=dict)
    original_done_idxs: tuple[int, ...] | None = None
    details: Mapping[str, Scalar] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        content: dict[str, Any] = {
            "format": self.format,
            "run": self.run,
            "selection": dict(self.selection),
            "recording": self.recording and self.recording.to_json(),
            "verified": self.verified,
            "episodes_per_shard": {str(index): count for index, count in self.episodes_per_shard.items()},
            "original_done_idxs": self.original_done_idxs and list(self.original_done_idxs),
            "details": dict(self.details),
        }
        return {name: value for name, value in content.items() if value is not None and value != {}}

    @classmethod
    def from_json(cls, content: Any) -> StoreSource:
        """Read what `to_json` returned, or the ``source`` of a store of format version 1.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if it is something else.
        """
        if "format" not in content:
            content = _source_of_version_1(content)
        done_idxs = content.get("original_done_idxs")
        return cls(
            format=str(content["format"]),
            run=None if content.get("run") is None else int(content["run"]),
            selection=dict(content.get("selection", {})),
            recording=Recording.from_json(content["recording"]) if content.get("recording") else None,
            verified=content.get("verified"),
            episodes_per_shard={int(i): int(count) for i, count in content.get("episodes_per_shard", {}).items()},
            original_done_idxs=None if done_idxs is None else tuple(map(int, done_idxs)),
            details=dict(content.get("details", {})),
        )


def _source_of_version_1(content: Any) -> dict[str, Any]:
    """Return a ``source`` with the keys of version 2: ``format``, ``selection.method``, ``episodes_per_shard``."""
    names = {"kind": "format", "episodes_per_part": "episodes_per_shard"}
    renamed = {names.get(name, name): value for name, value in content.items()}
    if "selection" in renamed:
        renamed["selection"] = {"method" if k == "kind" else k: v for k, v in renamed["selection"].items()}
    known = {each.name for each in dataclasses.fields(StoreSource)}
    details = {name: renamed.pop(name) for name in list(renamed) if name not in known}
    return {**renamed, "details": details}


@dataclass(frozen=True)
class StoreMetadata:
    """What a trajectory store says about itself.

    Attributes:
        game: name of the game, such as ``"Breakout"``.
        action_meanings: name of each action index.
        reward_clipping: whether the rewards are clipped to [-1, 1].
        sticky_actions: probability with which the game repeated the previous action; None where it is not known.
        source: where the episodes come from.
        steps: N.
        episodes: E.
        max_return: largest return (sum of rewards) of an episode.
        mean_return: mean return of the episodes.
        arrays: the store's files, by name without ``.npy``.
        max_score: largest sum of raw rewards, in the game's points; None where the source has no raw rewards.
        mean_score: mean of these sums; likewise.
    """

    game: str
    action_meanings: tuple[str, ...]
    reward_clipping: bool
    sticky_actions: float | None
    source: StoreSource
    steps: int
    episodes: int
    max_return: float
    mean_return: float
    arrays: Mapping[str, ArrayInfo]
    max_score: float | None = None
    mean_score: float | None = None

    @property
    def digest(self) -> str:
        """One SHA-256 over the digests of all arrays a policy is trained on: the same data, the same digest.

        ``terminated`` is left out, so that a store keeps the digest it had in format version 1.
        """
        digests = {name: array.sha256 for name, array in self.arrays.items() if name != "terminated"}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metadata.json``."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "source": self.source.to_json()}
        return {name: value for name, value in content.items() if value is not None or name == "sticky_actions"}

    @classmethod
    def from_json(cls, content: Any) -> StoreMetadata:
        """Read the content of ``metadata.json``, of format version 1 or 2.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if it is something else.
        """
        for key, types in _TYPES.items():
            if not isinstance(content[key], types) or (types is not bool and isinstance(content[key], bool)):
                raise TypeError(f"{key} is {content[key]!r}")
        return cls(
            game=content["game"],
            action_meanings=tuple(map(str, content["action_meanings"])),
            reward_clipping=content["reward_clipping"],
            sticky_actions=content["sticky_actions"],
            source=StoreSource.from_json(content["source"]),
            steps=content["steps"],
            episodes=content["episodes"],
            max_return=content["max_return"],
            mean_return=content["mean_return"],
            arrays={
                name: ArrayInfo(str(array["dtype"]), tuple(map(int, array["shape"])), str(array["sha256"]))
                for name, array in content["arrays"].items()
            },
            max_score=content.get("max_score"),
            mean_score=content.get("mean_score"),
        )


_TYPES: dict[str, type | tuple[type, ...]] = {
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


def read_metadata(path: Path) -> StoreMetadata:
    """Read the metadata of the store at ``path``.

    Raises:
        InputError: if there is no store, its metadata is damaged, or it has an unknown format version.
    """
    if not path.is_dir():
        raise InputError(f"no trajectory store at {path}; make one with scripts/collect_replay.py or build_dataset.py")
    if not (path / "metadata.json").is_file():
        raise InputError(
            f"{path} is not a trajectory store (it has no metadata.json); make one with scripts/collect_replay.py or "
            "build_dataset.py"
        )
    try:
        content = json.loads((path / "metadata.json").read_text())
        version = content["format_version"]
        if version in (1, FORMAT_VERSION):
            return StoreMetadata.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise mismatch_error(path, f"metadata.json cannot be read ({type(error).__name__}: {error})") from error
    raise InputError(
        f"{path} has store format {version}, but this version of the code reads 1 to {FORMAT_VERSION}; build the store "
        "again"
    )


def mismatch_error(path: Path, reason: str) -> InputError:
    """Return the error to raise where a store's files contradict its metadata."""
    return InputError(f"the store at {path} does not match its metadata: {reason}; build or copy it again")
