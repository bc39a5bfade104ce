"""The archive of a recording: the score of every episode and the size of the log, in one small JSON file.

A log takes hundreds of megabytes. Its archive holds what its table and its figure are made of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atari_dt.games.catalogue import find_game
from atari_dt.rendering.replay_summary import replay_figure, replay_rows
from atari_dt.rendering.study_file import check_type
from replay_data import InputError
from replay_data.json_fields import read_count, read_format_version, read_list, read_object
from replay_data.recording import Recording
from replay_data.sources.dopamine_sidecar import BufferSidecar, RecordedEpisode
from replay_data.storage.atomic import atomic_write

TYPE = "recording"
"""Value of the field ``type`` of an archive."""

FORMAT_VERSION = 1

_EPISODE_FIELDS = ("row", "steps", "return", "score")


@dataclass(frozen=True)
class RecordingArchive:
    """The content of an archive, which is a `Study` of ``docs/results.md``.

    Attributes:
        buffers: Sidecars of the log's buffers, at least one. In an archive, they are without the rewards that were
            clipped.
        num_bytes: Bytes of all files of the log.
    """

    buffers: tuple[BufferSidecar, ...]
    num_bytes: int

    def __post_init__(self) -> None:
        if not self.buffers:
            raise InputError("the recording has no complete buffer; finish it first")

    def tables(self) -> dict[str, list[list[str]]]:
        """Return the table of scores over the buffers, and one of the log's size; see `Study`."""
        recording, rows = self.buffers[0].recording, sum(buffer.rows for buffer in self.buffers)
        episodes = sum(len(buffer.episodes) for buffer in self.buffers)
        size = [
            ["game", "player", "seed", "rows", "episodes", "MB", "bytes per row"],
            [
                *(recording.game, recording.agent, str(recording.seed), f"{rows:,}", f"{episodes:,}"),
                *(f"{self.num_bytes / 1e6:,.0f}", f"{self.num_bytes / rows:.0f}"),
            ],
        ]
        return {"": replay_rows(self.buffers), "size": size}

    def figures(self) -> dict[str, bytes]:
        """Return the figure of scores over the steps played; see `Study`."""
        return {"": replay_figure(find_game(self.buffers[0].recording.game), self.buffers)}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads; episodes are columns of numbers."""
        episodes = [episode.to_json() for buffer in self.buffers for episode in buffer.episodes]
        details = dict.fromkeys(name for episode in episodes for name in episode if name not in _EPISODE_FIELDS)
        return {
            "type": TYPE,
            "format_version": FORMAT_VERSION,
            "recording": self.buffers[0].recording.to_json(),
            "rows": self.buffers[0].rows,
            "num_bytes": self.num_bytes,
            "episodes_of_buffers": [len(buffer.episodes) for buffer in self.buffers],
            "episodes": {
                name: [_shorten(episode.get(name)) for episode in episodes] for name in (*_EPISODE_FIELDS, *details)
            },
        }

    @classmethod
    def from_json(cls, content: Any) -> RecordingArchive:
        """Read a JSON object that `to_json` returned.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        check_type(content, TYPE)
        recording, rows = Recording.from_json(content["recording"]), read_count(content, "rows", minimum=1)
        columns = read_object(content["episodes"])
        episodes = [
            RecordedEpisode.from_json(
                {name: value for name, value in zip(columns, values, strict=True) if value is not None}
            )
            for values in zip(*columns.values(), strict=True)
        ]
        counts = read_list(content, "episodes_of_buffers", int)
        if min(counts, default=0) < 0 or sum(counts) != len(episodes):
            raise ValueError("its numbers of episodes contradict each other")
        buffers, unread = [], iter(episodes)
        for count in counts:
            of_buffer = tuple(next(unread) for _ in range(count))
            buffers.append(BufferSidecar(recording, rows, of_buffer, np.zeros(0, np.int64), np.zeros(0, np.float32)))
        return cls(tuple(buffers), read_count(content, "num_bytes"))


def _shorten(value: float | None) -> float | None:
    """Return a whole number as an integer, which JSON writes without a fraction."""
    return int(value) if value is not None and float(value).is_integer() else value


def archive_recording(buffers: Sequence[BufferSidecar], num_bytes: int, path: Path) -> None:
    """Write the archive of a recording; the same log gives the same bytes.

    Args:
        buffers: Sidecars of all buffers.
        num_bytes: Bytes of all files of the log.
        path: Path of the archive; its parents are created, and an older archive is replaced.

    Raises:
        OSError: If the archive cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = RecordingArchive(tuple(buffers), num_bytes).to_json()
    columns = content.pop("episodes")
    lines = [f"  {json.dumps(name)}: {json.dumps(values, separators=(',', ':'))}" for name, values in columns.items()]
    head = json.dumps(content, indent=1).removesuffix("\n}")
    atomic_write(path, f'{head},\n "episodes": {{\n' + ",\n".join(lines) + "\n }\n}\n")


def read_study(content: Any) -> RecordingArchive:
    """Read the content of an archive; a `StudyReader`."""
    return RecordingArchive.from_json(content)
