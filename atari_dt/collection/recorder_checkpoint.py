"""The checkpoint that a recording resumes from: `RecorderCheckpoint`, format version 2.

Version 1 has no ``format_version``, and other names for two fields: ``whole`` for ``num_complete`` and ``played`` for
``num_steps_played``. It is still read.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import isal_zlib

from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import parse_json, read_field, read_format_version, read_object, read_optional_field
from replay_data.storage.atomic import atomic_directory

FORMAT_VERSION = 2

RECORDING_FILE, LOGS_DIRECTORY, CHECKPOINTS_DIRECTORY = "recording.json", "replay_logs", "checkpoints"

_PROGRESS_FILE, _EPISODES_FILE, _PLAYER_FILE = "progress.json", "episodes.npz", "player"


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
        return cls(
            num_complete=read_field(content, "num_complete", int),
            add_count=read_field(content, "add_count", int),
            episodes=[
                FinishedEpisode(episode, _read_details(details))
                for episode, details in zip(episodes, content["details"], strict=True)
            ],
            num_steps_played=read_field(content, "num_steps_played", int),
            stage=read_optional_field(content, "stage", str),
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
            content = parse_json((path / _PROGRESS_FILE).read_text())
            return cls.from_json(content, episodes, (path / _PLAYER_FILE).read_bytes())
        except _READING_ERRORS as error:
            raise InputError(
                f"the checkpoint {path} is damaged ({type(error).__name__}: {summarize_error(error)}); this recording "
                "cannot be resumed, but its complete buffers can be used"
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
    return details


def _read_episodes(path: Path) -> list[CompressedEpisode]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        frames, sizes, actions, raw_rewards, lengths, terminated = (
            arrays[name] for name in ("frames", "sizes", "actions", "raw_rewards", "lengths", "terminal")
        )
    episodes = []
    ends, frames_ends = np.cumsum(lengths), np.cumsum(sizes)
    for end, length, frames_end, size, ended in zip(ends, lengths, frames_ends, sizes, terminated, strict=True):
        span = slice(end - length, end)
        compressed = frames[frames_end - size : frames_end].tobytes()
        episode = CompressedEpisode(compressed, actions[span], raw_rewards[span], bool(ended))
        if not len(episode.unpack().frames) == len(episode) == len(episode.raw_rewards):
            raise ValueError("the arrays of an episode differ in length")
        episodes.append(episode)
    return episodes


def _write_episodes(path: Path, episodes: Sequence[CompressedEpisode]) -> None:
    np.savez(
        path,
        frames=np.frombuffer(b"".join(episode.frames for episode in episodes), dtype=np.uint8),
        sizes=np.array([len(episode.frames) for episode in episodes], dtype=np.int64),
        actions=np.concatenate([np.zeros(0, np.uint8), *(episode.actions for episode in episodes)]),
        raw_rewards=np.concatenate([np.zeros(0, np.float32), *(episode.raw_rewards for episode in episodes)]),
        lengths=np.array([len(episode) for episode in episodes], dtype=np.int64),
        terminal=np.array([episode.terminated for episode in episodes], dtype=np.bool_),
    )


_READING_ERRORS = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, cast(type[Exception], isal_zlib.error)),  # the annotations of isal are wrong
)
