"""Read and write ``recording_ckpt.{b}.json``, the file that this project writes beside each buffer of a log.

`BufferSidecar` is that file, format version 2. A file without ``format_version`` is version 1, which differs only in
its ``recording`` (`replay_data.recording`); it is still read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError, summarize_error
from replay_data.json_fields import convert, parse_json, read_field, read_format_version
from replay_data.recording import Recording

FORMAT_VERSION = 2


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode that ends in a buffer.

    Attributes:
        row: Row of the last step in the buffer.
        steps: Number of steps.
        return_: Sum of the clipped rewards.
        score: Sum of the raw rewards, in the game's points.
        details: Values that the player adds, by name, such as ``"played"``, the steps of all environments so far.
    """

    row: int
    steps: int
    return_: float
    score: float
    details: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads; the details stand beside the other keys."""
        return {
            "row": self.row,
            "steps": self.steps,
            "return": self.return_,
            "score": self.score,
            **self.details,
        }

    @classmethod
    def from_json(cls, content: Any) -> RecordedEpisode:
        """Read what `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If the content is something else.
        """
        return cls(
            row=read_field(content, "row", int),
            steps=read_field(content, "steps", int),
            return_=read_field(content, "return", float),
            score=read_field(content, "score", float),
            details={name: convert(value, name, float) for name, value in content.items() if name not in _EPISODE_KEYS},
        )


_EPISODE_KEYS = {"row", "steps", "return", "score"}


@dataclass(frozen=True)
class BufferSidecar:
    """What the JSON file beside a buffer of R rows says.

    Attributes:
        recording: Who played, and how.
        rows: R.
        episodes: The episodes that end in the buffer, in the order of their rows.
        clipped_rows: int64 ``[C]``, the rows whose reward was clipped, ascending.
        clipped_values: float32 ``[C]``, the rewards of these rows before clipping.
    """

    recording: Recording
    rows: int
    episodes: tuple[RecordedEpisode, ...]
    clipped_rows: npt.NDArray[np.int64]
    clipped_values: npt.NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "format_version": FORMAT_VERSION,
            "recording": self.recording.to_json(),
            "rows": self.rows,
            "episodes": [episode.to_json() for episode in self.episodes],
            "raw_rewards": {"rows": self.clipped_rows.tolist(), "values": self.clipped_values.tolist()},
        }

    @classmethod
    def from_json(cls, content: Any) -> BufferSidecar:
        """Read the content of a file of format version 1 or 2.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: If the content is something else.
        """
        read_format_version(content, FORMAT_VERSION)
        sidecar = cls(
            recording=Recording.from_json(content["recording"]),
            rows=read_field(content, "rows", int),
            episodes=tuple(map(RecordedEpisode.from_json, content["episodes"])),
            clipped_rows=np.array(content["raw_rewards"]["rows"], dtype=np.int64),
            clipped_values=np.array(content["raw_rewards"]["values"], dtype=np.float32),
        )
        rows, values = sidecar.clipped_rows, sidecar.clipped_values
        if rows.ndim != 1 or rows.shape != values.shape or not np.isfinite(values).all():
            raise ValueError("its raw rewards contradict each other")
        if len(rows) and (rows[0] < 0 or rows[-1] >= sidecar.rows or (np.diff(rows) <= 0).any()):
            raise ValueError("its raw rewards do not name ascending rows of the buffer")
        return sidecar

    @classmethod
    def read(cls, directory: Path, index: int) -> BufferSidecar | None:
        """Read the file beside buffer ``index``; return None if there is none.

        Raises:
            ReplayFormatError: If the file is damaged.
        """
        path = sidecar_path(directory, index)
        if not path.exists():
            return None
        try:
            return cls.from_json(parse_json(path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise sidecar_error(path, f"{type(error).__name__}: {summarize_error(error)}") from error

    def raw_rewards(self, rewards: npt.NDArray[np.float32], first_row: int) -> npt.NDArray[np.float32]:
        """Return the rewards of T consecutive rows before they were clipped, float32 ``[T]``.

        Args:
            rewards: float32 ``[T]``, the clipped rewards that the buffer holds.
            first_row: Row of the first of them.

        Raises:
            ValueError: If clipping the raw rewards does not give ``rewards``.
        """
        raw = rewards.copy()
        span = slice(*np.searchsorted(self.clipped_rows, (first_row, first_row + len(rewards))))
        raw[self.clipped_rows[span] - first_row] = self.clipped_values[span]
        if not np.array_equal(raw.clip(-1, 1), rewards):
            raise ValueError("its raw rewards, clipped, are not the rewards of the buffer")
        return raw


def sidecar_path(directory: Path, index: int) -> Path:
    """Return the path of the JSON file beside buffer ``index``."""
    return directory / f"recording_ckpt.{index}.json"


def sidecar_error(path: Path, reason: str) -> ReplayFormatError:
    """Return the error to raise where a sidecar is damaged or does not fit its buffer."""
    return ReplayFormatError(f"{path} is damaged ({reason}); copy it again, or remove it and go without raw rewards")
