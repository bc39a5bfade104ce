"""Read and write ``metadata.json``, which describes a trajectory store.

`StoreMetadata` is that file, format version 2. Version 1, which is still read, lacks the array ``terminated``, and its
``source`` has other keys (`_source_of_version_1`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from replay_data.byte_statistics import ByteStatistics
from replay_data.errors import InputError, summarize_error
from replay_data.json_fields import (
    Scalar,
    check_range,
    read_count,
    read_field,
    read_list,
    read_mapping,
    read_object,
    read_optional_field,
    read_probability,
    read_scalars,
)
from replay_data.observation import FRAMES, RAM, ObservationSpec
from replay_data.recording import Recording, check_game_name, read_action_meanings
from replay_data.sources.directories import recognize
from replay_data.storage.regular_files import read_json_file

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
    "ram": np.uint8,
}

OPTIONAL_ARRAYS = {"raw_rewards", "terminated", "ram"}


@dataclass(frozen=True)
class ArrayInfo:
    """One ``.npy`` file of a store.

    Attributes:
        dtype: NumPy's name of the dtype.
        shape: Shape of the array.
        sha256: SHA-256 of the values, without the file's header, hexadecimal.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the content that `from_json` reads."""
        return {"dtype": self.dtype, "shape": list(self.shape), "sha256": self.sha256}

    @classmethod
    def from_json(cls, content: Any) -> ArrayInfo:
        """Read the content that `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If the content is something else.
        """
        info = cls(
            dtype=read_field(content, "dtype", str),
            shape=_read_counts(content, "shape"),
            sha256=read_field(content, "sha256", str),
        )
        if not re.fullmatch("[0-9a-f]{64}", info.sha256):
            raise ValueError(f"sha256 is {info.sha256[:80]!r}, not 64 hexadecimal digits")
        return info


@dataclass(frozen=True)
class StoreSource:
    """Origin of the episodes of a store.

    Attributes:
        format: Source format, such as ``"dopamine"`` or ``"rl_unplugged"``; ``"scripted"`` for a store that scripted
            players wrote directly, and ``"store"`` for a selection of the episodes of another store.
        run: Index of the recorded run, or None if the source has no runs.
        selection: Selection method under ``"method"``, and the options that it used.
        recording: How the recording was made, or None if this project did not record it.
        verified: Whether checksums cover all data that was read, or None if the source has no checksums.
        episodes_per_shard: Number of episodes taken from each shard, by its index; empty if the source has no shards.
        original_done_idxs: ``done_idxs`` of the original code where they differ from the ends of episodes, else None.
        details: Fields that only one source format has, such as the seed of scripted players.
        num_uncertain_ends: Number of places in the episodes where the source does not tell for certain whether an
            episode was truncated (`replay_data.sources.dopamine_episode_splitter`); 0 if the file lacks this field.
        origin: Origin of the store that the episodes were selected from, for the format ``"store"``; None otherwise.
    """

    format: str
    run: int | None = None
    selection: Mapping[str, Scalar] = field(default_factory=dict)
    recording: Recording | None = None
    verified: bool | None = None
    episodes_per_shard: Mapping[int, int] = field(default_factory=dict)
    original_done_idxs: tuple[int, ...] | None = None
    details: Mapping[str, Scalar] = field(default_factory=dict)
    num_uncertain_ends: int = 0
    origin: StoreSource | None = None

    @property
    def origins(self) -> list[StoreSource]:
        """Origins of all stores that the episodes were in, the first one first; the last one is this."""
        return [*([] if self.origin is None else self.origin.origins), self]

    @property
    def first_origin(self) -> StoreSource:
        """Origin of the first store that the episodes were in: who played them, and in which format they were read."""
        return self.origins[0]

    def to_json(self) -> dict[str, Any]:
        """Return the content that `from_json` reads."""
        content: dict[str, Any] = {
            "format": self.format,
            "run": self.run,
            "selection": dict(self.selection),
            "recording": None if self.recording is None else self.recording.to_json(),
            "verified": self.verified,
            "episodes_per_shard": {str(index): count for index, count in self.episodes_per_shard.items()},
            "original_done_idxs": None if self.original_done_idxs is None else list(self.original_done_idxs),
            "num_uncertain_ends": self.num_uncertain_ends or None,
            "details": dict(self.details),
            "origin": None if self.origin is None else self.origin.to_json(),
        }
        return {name: value for name, value in content.items() if value is not None and value != {}}

    @classmethod
    def from_json(cls, content: Any) -> StoreSource:
        """Read the content that `to_json` returned, or the ``source`` of a store of format version 1.

        Raises:
            ValueError, KeyError, TypeError: If the content is something else.
        """
        content = read_object(content)
        if "format" not in content:
            content = _source_of_version_1(content)
        shards = read_object(content.get("episodes_per_shard", {}))
        has_recording = content.get("recording") is not None
        has_done_idxs = content.get("original_done_idxs") is not None
        return cls(
            format=read_field(content, "format", str),
            run=None if content.get("run") is None else read_count(content, "run"),
            selection=read_scalars(content, "selection"),
            recording=Recording.from_json(content["recording"]) if has_recording else None,
            verified=read_optional_field(content, "verified", bool),
            episodes_per_shard={int(index): read_count(shards, index) for index in shards},
            original_done_idxs=_read_counts(content, "original_done_idxs") if has_done_idxs else None,
            num_uncertain_ends=read_count(content, "num_uncertain_ends") if "num_uncertain_ends" in content else 0,
            details=read_scalars(content, "details"),
            origin=None if content.get("origin") is None else cls.from_json(content["origin"]),
        )


def _source_of_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Return a ``source`` of format version 1 with the keys of version 2.

    Three keys have new names (``format``, ``selection.method``, ``episodes_per_shard``). Fields without a name of their
    own, which were beside the others, go to ``details``. Version 1 allowed any JSON there.
    """
    new_names = {"kind": "format", "episodes_per_part": "episodes_per_shard"}
    fields = {each.name for each in dataclasses.fields(StoreSource)}
    source: dict[str, Any] = {"format": "unknown", "details": {}}
    for name, value in content.items():
        if (new_name := new_names.get(name, name)) in fields - {"details", "origin"}:
            source[new_name] = value
        else:
            source["details"][name] = json.dumps(value) if isinstance(value, (dict, list)) else value
    if isinstance(selection := source.get("selection"), dict):
        source["selection"] = {"method" if name == "kind" else name: value for name, value in selection.items()}
    return source


@dataclass(frozen=True)
class StoreMetadata:
    """Description of a trajectory store of N steps in E episodes.

    Attributes:
        game: Name of the game, such as ``"Breakout"``.
        action_meanings: Name of each action index.
        reward_clipping: Whether the rewards are clipped to [-1, 1].
        sticky_actions: Probability with which the environment repeated the previous action, or None if it is unknown.
        source: Origin of the episodes.
        steps: N.
        episodes: E.
        max_return: Largest return (sum of rewards) of an episode.
        mean_return: Mean return of the episodes.
        arrays: Files of the store, by name without ``.npy``.
        max_score: Largest sum of raw rewards of an episode, in the game's points, or None without raw rewards.
        mean_score: Mean sum of raw rewards of the episodes, in the game's points, or None without raw rewards.
        observations: What a model can observe at each step: frames, and the RAM where the store has it. A file without
            this field has frames only.
        ram_statistics: Mean and standard deviation of each byte of the RAM over all steps, or None without RAM.
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
    observations: tuple[ObservationSpec, ...] = (FRAMES,)
    ram_statistics: ByteStatistics | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over the SHA-256 of all arrays except ``terminated``: equal data gives an equal digest.

        Without ``terminated``, a store keeps the digest that it had in format version 1.
        """
        digests = {name: array.sha256 for name, array in self.arrays.items() if name != "terminated"}
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metadata.json``."""
        content = {
            "format_version": FORMAT_VERSION,
            **vars(self),
            "action_meanings": list(self.action_meanings),
            "source": self.source.to_json(),
            "arrays": {name: array.to_json() for name, array in self.arrays.items()},
            "observations": [observation.to_json() for observation in self.observations],
            "ram_statistics": None if self.ram_statistics is None else self.ram_statistics.to_json(),
        }
        return {name: value for name, value in content.items() if value is not None or name == "sticky_actions"}

    @classmethod
    def from_json(cls, content: Any) -> StoreMetadata:
        """Read the content of ``metadata.json``, of format version 1 or 2.

        Raises:
            ValueError, KeyError, TypeError: If the content is something else.
        """
        metadata = cls(
            game=check_game_name(read_field(content, "game", str)),
            action_meanings=read_action_meanings(content),
            reward_clipping=read_field(content, "reward_clipping", bool),
            sticky_actions=None if content["sticky_actions"] is None else read_probability(content, "sticky_actions"),
            source=StoreSource.from_json(content["source"]),
            steps=read_count(content, "steps", minimum=1),
            episodes=read_count(content, "episodes", minimum=1),
            max_return=read_field(content, "max_return", float),
            mean_return=read_field(content, "mean_return", float),
            arrays=read_mapping(content, "arrays", lambda _, array: ArrayInfo.from_json(array)),
            max_score=read_optional_field(content, "max_score", float),
            mean_score=read_optional_field(content, "mean_score", float),
            observations=tuple(map(ObservationSpec.from_json, content.get("observations", [FRAMES.to_json()]))),
            ram_statistics=ByteStatistics.from_json(content["ram_statistics"]) if "ram_statistics" in content else None,
        )
        has_ram = "ram" in metadata.arrays
        if metadata.observations != ((FRAMES, RAM) if has_ram else (FRAMES,)):
            raise ValueError(f"observations are not frames{' and RAM' if has_ram else ''}, the arrays that it lists")
        if (metadata.ram_statistics is not None) != has_ram:
            raise ValueError(f"ram_statistics {'are missing' if has_ram else 'describe no array'}")
        return metadata


def read_metadata(path: Path) -> StoreMetadata:
    """Read the metadata of the store at ``path``.

    Raises:
        InputError: If there is no store, its metadata is damaged, or it has an unknown format version.
    """
    if not path.is_dir():
        raise InputError(f"no trajectory store at {path}; make one with scripts/build_dataset.py")
    file = path / "metadata.json"
    if not os.path.lexists(file):
        for found in recognize(path):
            raise InputError(
                f"{path} is not a trajectory store; it holds a recording: build a store from it with "
                f"scripts/build_dataset.py, `source` {found.source} and `path` {found.path}"
            )
        raise InputError(
            f"{path} is not a trajectory store (it has no metadata.json); make one with scripts/build_dataset.py"
        )
    try:
        content = read_json_file(file)
        version = read_field(content, "format_version", int)
        if version in (1, FORMAT_VERSION):
            return StoreMetadata.from_json(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{file.name} cannot be read ({summarize_error(error)})"
        raise mismatch_error(path, reason) from error
    raise InputError(
        f"{path} has store format {version}, but this version of the code reads 1 to {FORMAT_VERSION}; build the store "
        "again"
    )


def _read_counts(content: Any, name: str) -> tuple[int, ...]:
    """Return a list of integers that are at least 0."""
    return tuple(check_range(f"an item of {name}", count, 0) for count in read_list(content, name, int))


def mismatch_error(path: Path, reason: str) -> InputError:
    """Return the error for a store whose files contradict its metadata."""
    return InputError(f"the store at {path} does not match its metadata: {reason}; build or copy it again")
