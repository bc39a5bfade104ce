"""The checkpoint that a recording resumes from: `RecorderCheckpoint`, format version 2.

Version 1 has no ``format_version``, and other names for two fields: ``whole`` for ``num_complete`` and ``played`` for
``num_steps_played``. It is still read.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode
from replay_data import InputError
from replay_data.episode import FRAME_SHAPE
from replay_data.errors import summarize_error
from replay_data.json_fields import convert, read_count, read_format_version, read_object, read_optional_field
from replay_data.observation import RAM_SIZE
from replay_data.sources.dopamine_format import STAGE_PREFIX
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.npy_header import read_npy_header
from replay_data.storage.regular_files import check_regular_file, read_json_file, read_regular_file

FORMAT_VERSION = 2

RECORDING_FILE, LOGS_DIRECTORY, CHECKPOINTS_DIRECTORY = "recording.json", "replay_logs", "checkpoints"

_PROGRESS_FILE, _EPISODES_FILE, _PLAYER_FILE = "progress.json", "episodes.npz", "player"

_MAX_PLAYER_BYTES = 256 << 20  # PQN's network and optimizer take 21 MB in the largest game

_ARRAYS: dict[str, Any] = {
    "frames": np.uint8,
    "sizes": np.int64,
    "actions": np.uint8,
    "raw_rewards": np.float32,
    "lengths": np.int64,
    "terminal": np.bool_,
}
"""dtype of each array of ``episodes.npz``."""

_RAM_ARRAYS: dict[str, Any] = {"ram": np.uint8, "ram_sizes": np.int64}
"""The same of those arrays that only a recording with RAM has: the compressed RAM, and its size in each episode."""


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a recording, oldest first."""
    return sorted((directory / CHECKPOINTS_DIRECTORY).glob("buffers-*"))


@dataclass(frozen=True)
class RecorderCheckpoint:
    """The state of a recording whose first ``num_complete`` buffers are complete.

    On disk it is a directory ``checkpoints/buffers-{num_complete}`` with three files: ``progress.json`` (the numbers),
    ``episodes.npz`` and ``player``.

    Attributes:
        num_complete: Number of complete buffers.
        add_count: Rows in the log before the first of ``episodes``.
        episodes: Finished episodes that the complete buffers hold in part or not at all.
        num_steps_played: Steps played so far, of all environments together.
        stage: Name of the hidden directory that may still hold complete buffers; None before the first one is begun.
        player_state: What `Player.state` returned; None before the player has started.
    """

    num_complete: int = 0
    add_count: int = 0
    episodes: Sequence[FinishedEpisode] = ()
    num_steps_played: int = 0
    stage: str | None = None
    player_state: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``progress.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "num_complete": self.num_complete,
            "add_count": self.add_count,
            "num_steps_played": self.num_steps_played,
            "stage": self.stage,
            "details": [dict(details) for _, details in self.episodes],
        }

    @classmethod
    def from_json(cls, content: Any, episodes: Sequence[CompressedEpisode], player_state: bytes) -> RecorderCheckpoint:
        """Read the content of ``progress.json``, of format version 1 or 2.

        Args:
            content: The content.
            episodes: The episodes of ``episodes.npz``.
            player_state: The content of ``player``.

        Raises:
            ValueError, KeyError, TypeError: If the content is malformed, or does not fit the episodes.
        """
        if read_format_version(content, FORMAT_VERSION) == 1:
            new_names = {"whole": "num_complete", "played": "num_steps_played"}
            content = {new_names.get(name, name): value for name, value in content.items()}
        stage = read_optional_field(content, "stage", str)
        if stage is not None and (not stage.startswith(STAGE_PREFIX) or Path(stage).name != stage):
            raise ValueError(f"stage is {stage[:80]!r}, not a directory of the recorder")
        return cls(
            num_complete=read_count(content, "num_complete"),
            add_count=read_count(content, "add_count"),
            episodes=[
                FinishedEpisode(episode, _read_details(details))
                for episode, details in zip(episodes, content["details"], strict=True)
            ],
            num_steps_played=read_count(content, "num_steps_played"),
            stage=stage,
            player_state=player_state,
        )

    @classmethod
    def read(cls, directory: Path) -> RecorderCheckpoint:
        """Read the latest checkpoint of a recording; return an empty one if there is none.

        Raises:
            InputError: If the checkpoint is damaged.
        """
        paths = list_checkpoints(directory)
        if not paths:
            return cls()
        path = paths[-1]
        try:
            episodes = _read_episodes(path / _EPISODES_FILE)
            player_state = read_regular_file(path / _PLAYER_FILE, _MAX_PLAYER_BYTES)
            checkpoint = cls.from_json(read_json_file(path / _PROGRESS_FILE), episodes, player_state)
            if path.name != checkpoint._name:
                raise ValueError(f"it was saved after {checkpoint.num_complete} buffers")
            return checkpoint
        except _READING_ERRORS as error:
            raise InputError(
                f"the checkpoint {path} is damaged ({summarize_error(error)}); this recording cannot be "
                "resumed, but its complete buffers can be used"
            ) from error

    def write(self, directory: Path) -> None:
        """Write the checkpoint atomically."""
        assert self.player_state is not None
        with atomic_directory(directory / CHECKPOINTS_DIRECTORY / self._name) as partial:
            (partial / _PLAYER_FILE).write_bytes(self.player_state)
            (partial / _PROGRESS_FILE).write_text(json.dumps(self.to_json(), indent=2) + "\n")
            _write_episodes(partial / _EPISODES_FILE, [episode for episode, _ in self.episodes])

    def remove_older(self, directory: Path) -> None:
        """Remove all other checkpoints of the recording."""
        for old in list_checkpoints(directory):
            if old.name != self._name:
                hidden = old.with_name(f".{old.name}")
                old.rename(hidden)  # atomic: a half-removed directory is never mistaken for a checkpoint
                shutil.rmtree(hidden, ignore_errors=True)

    @property
    def _name(self) -> str:
        return f"buffers-{self.num_complete:02d}"


def _read_details(content: Any) -> dict[str, float]:
    details = read_object(content)
    for name, value in details.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name} of an episode is not a number")
        convert(value, name, type(value))  # it must be finite, and stays an integer if it was one
    return details


def _read_episodes(path: Path) -> list[CompressedEpisode]:
    arrays = _read_arrays(path)
    lengths, rewards = arrays["lengths"], arrays["raw_rewards"]
    if any(int(lengths.sum()) != len(arrays[name]) for name in ("actions", "raw_rewards")):
        raise ValueError("the arrays of its episodes differ in length")
    if lengths.min(initial=1) < 1 or not np.isfinite(rewards).all():
        raise ValueError("an episode has no steps, or rewards that are not finite")
    frames = _split(arrays["frames"], arrays["sizes"], lengths, math.prod(FRAME_SHAPE))
    ram: Sequence[bytes | None] = [None] * len(lengths)
    if "ram" in arrays:
        ram = _split(arrays["ram"], arrays["ram_sizes"], lengths, RAM_SIZE)
    ends = np.cumsum(lengths)
    return [
        CompressedEpisode(
            episode_frames, arrays["actions"][end - length : end], rewards[end - length : end], terminated, episode_ram
        )
        for end, length, episode_frames, terminated, episode_ram in zip(
            ends, lengths, frames, arrays["terminal"].tolist(), ram, strict=True
        )
    ]


def _split(
    compressed: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], step_bytes: int
) -> list[bytes]:
    """Return the compressed observations of each episode.

    Args:
        compressed: uint8, the observations of all episodes, one after another.
        sizes: Compressed size of each episode's.
        lengths: Number of steps of each episode.
        step_bytes: Decompressed size of one step's.

    Raises:
        ValueError: If they do not fit together.
    """
    if int(sizes.sum()) != len(compressed) or sizes.min(initial=1) < 1:
        raise ValueError("the arrays of its episodes differ in length")
    found = []
    for end, size, length in zip(np.cumsum(sizes), sizes, lengths, strict=True):
        found.append(compressed[end - size : end].tobytes())
        num_bytes = int(length) * step_bytes
        with igzip.open(io.BytesIO(found[-1])) as stream:
            if len(stream.read(num_bytes + 1)) != num_bytes:  # it may decompress to far more
                raise ValueError("an episode has more or fewer observations than steps")
    return found


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the one-dimensional arrays of ``episodes.npz``, which are stored without compression."""
    check_regular_file(path)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        has_ram = "ram.npy" in archive.namelist()
        for name, dtype in (_ARRAYS | _RAM_ARRAYS if has_ram else _ARRAYS).items():
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > path.stat().st_size:
                raise ValueError(f"{name} has another size than stated")
            content = io.BytesIO(archive.read(info))
            header = read_npy_header(content)
            values = content.read()
            if header.dtype != dtype or header.shape != (len(values) // header.dtype.itemsize,):
                raise ValueError(f"{name} is {header.dtype} {list(header.shape)}")
            arrays[name] = np.frombuffer(values, header.dtype)
    return arrays


def _write_episodes(path: Path, episodes: Sequence[CompressedEpisode]) -> None:
    arrays: dict[str, Any] = {
        "frames": np.frombuffer(b"".join(episode.frames for episode in episodes), dtype=np.uint8),
        "sizes": np.array([len(episode.frames) for episode in episodes], dtype=np.int64),
        "actions": np.concatenate([np.zeros(0, np.uint8), *(episode.actions for episode in episodes)]),
        "raw_rewards": np.concatenate([np.zeros(0, np.float32), *(episode.raw_rewards for episode in episodes)]),
        "lengths": np.array([len(episode) for episode in episodes], dtype=np.int64),
        "terminal": np.array([episode.terminated for episode in episodes], dtype=np.bool_),
    }
    if ram := [episode.ram for episode in episodes if episode.ram is not None]:  # of all episodes or of none
        arrays["ram"] = np.frombuffer(b"".join(ram), dtype=np.uint8)
        arrays["ram_sizes"] = np.array([len(each) for each in ram], dtype=np.int64)
    np.savez(path, **arrays)


_READING_ERRORS = (
    *(InputError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, cast(type[Exception], isal_zlib.error)),  # the annotations of isal are wrong
)
