"""Read and write ``recording_ckpt.{b}.json``, the file that this project writes beside each buffer of a log.

`BufferSidecar` is that file, format version 2. A file without ``format_version`` is version 1, which differs only in
its ``recording`` (`replay_data.recording`); it is still read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError, summarize_error
from replay_data.json_fields import convert, parse_json, read_count, read_field, read_format_version, read_list
from replay_data.recording import Recording
from replay_data.sources.dopamine_format import PADDING
from replay_data.storage.regular_files import MAX_JSON_BYTES, read_regular_file

FORMAT_VERSION = 2


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode that ends in a buffer.

    Attributes:
        row: Row of the last step in the buffer.
        steps: Number of steps, those in the buffers before included.
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
        episodes: The episodes that end in the buffer, in the order they were played. One that ends in the link row,
            R-1, comes first, because the link row was played before row 0.
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
            ValueError, KeyError, TypeError: If the content is something else.
        """
        read_format_version(content, FORMAT_VERSION)
        raw_rewards = content["raw_rewards"]
        with np.errstate(over="ignore"):  # a value that is too large for float32 becomes infinite, which is refused
            clipped_values = np.array(read_list(raw_rewards, "values", float), dtype=np.float32)
        sidecar = cls(
            recording=Recording.from_json(content["recording"]),
            rows=read_count(content, "rows"),
            episodes=tuple(map(RecordedEpisode.from_json, content["episodes"])),
            clipped_rows=np.array(read_list(raw_rewards, "rows", int), dtype=np.int64),
            clipped_values=clipped_values,
        )
        rows, values = sidecar.clipped_rows, sidecar.clipped_values
        if rows.shape != values.shape or not np.isfinite(values).all():
            raise ValueError("its raw rewards contradict each other")
        if len(rows) and (rows[0] < 0 or rows[-1] >= sidecar.rows or (np.diff(rows) <= 0).any()):
            raise ValueError("its raw rewards do not name ascending rows of the buffer")
        sidecar._check_episodes()
        return sidecar

    def _check_episodes(self) -> None:
        """Raise ValueError if the episodes overlap, or leave rows of the buffer to no episode."""
        end = None  # position after the last step of the episode before; row 0 is position 0, and the link row is -1
        for episode in self.episodes:
            if not 0 <= episode.row < self.rows or episode.steps < 1:
                raise ValueError(f"it lists an episode of {episode.steps} steps that ends in row {episode.row}")
            position = -1 if episode.row == self.rows - 1 else episode.row
            start = position + 1 - episode.steps - PADDING
            if start > 0 if end is None else start != end:
                raise ValueError(
                    f"it lists an episode of {episode.steps} steps that ends in row {episode.row}, but none that ends "
                    "where this one begins"
                )
            end = position + 1

    @classmethod
    def read(cls, directory: Path, index: int) -> BufferSidecar | None:
        """Read the file beside buffer ``index``; return None if there is none.

        Raises:
            ReplayFormatError: If the file is damaged.
        """
        path = sidecar_path(directory, index)
        try:
            return cls.from_json(parse_json(read_regular_file(path, MAX_JSON_BYTES)))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise sidecar_error(path, summarize_error(error)) from error

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

    @property
    def starts_episode(self) -> bool:
        """Whether row 0 is the first padding row of an episode because the one before it ends in the link row."""
        return bool(self.episodes) and self.episodes[0].row == self.rows - 1

    def episode_steps(self, terminals: npt.NDArray[np.bool_], first_row: int) -> npt.NDArray[np.int64]:
        """Return, for each of T consecutive rows, the number of steps of the episode that ends with it, int64 ``[T]``.

        It is 0 for a row that ends no episode.

        Args:
            terminals: bool ``[T]``, the terminals that the buffer holds.
            first_row: Row of the first of them.

        Raises:
            ValueError: If a row is terminal, but no listed episode ends with it.
        """
        rows, steps = self._ends
        listed = np.zeros(len(terminals), dtype=np.int64)
        span = slice(*np.searchsorted(rows, (first_row, first_row + len(terminals))))
        listed[rows[span] - first_row] = steps[span]
        unlisted = terminals & (listed == 0)
        if unlisted.any():
            row = first_row + int(np.argmax(unlisted))
            raise ValueError(f"row {row} of the buffer is terminal, but no listed episode ends there")
        return listed

    @cached_property
    def _ends(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The rows in which episodes end, ascending, and the episodes' numbers of steps."""
        ends = sorted((episode.row, episode.steps) for episode in self.episodes)
        rows, steps = np.array(ends, dtype=np.int64).reshape(-1, 2).T
        return rows, steps


def sidecar_path(directory: Path, index: int) -> Path:
    """Return the path of the JSON file beside buffer ``index``."""
    return directory / f"recording_ckpt.{index}.json"


def sidecar_error(path: Path, reason: str) -> ReplayFormatError:
    """Return the error to raise where a sidecar is damaged or does not fit its buffer."""
    return ReplayFormatError(
        f"{path} is damaged ({reason}); copy it again, or remove it and go without raw rewards and certain episode ends"
    )
