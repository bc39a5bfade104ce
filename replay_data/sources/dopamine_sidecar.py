"""The JSON file that this project writes beside each buffer of a log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError
from replay_data.recording import Recording


@dataclass(frozen=True)
class BufferSidecar:
    """What the JSON file beside a buffer says; see the top of this file.

    Attributes:
        path: the file.
        recording: who played, and how.
        rows: R.
        episodes: those that end in the buffer.
        clipped_rows: ascending, int64; those whose reward was clipped.
        clipped_values: float32; what their rewards were before.
    """

    path: Path
    recording: Recording
    rows: int
    episodes: Sequence[Mapping[str, Any]]
    clipped_rows: npt.NDArray[np.int64]
    clipped_values: npt.NDArray[np.float32]

    @classmethod
    def read(cls, directory: Path, number: int) -> BufferSidecar | None:
        """Read the file beside a buffer; None if there is none.

        Raises:
            ReplayFormatError: if it is damaged.
        """
        path = sidecar_path(directory, number)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_bytes())
            raw = content["raw_rewards"]
            rows, values = np.array(raw["rows"], dtype=np.int64), np.array(raw["values"], dtype=np.float32)
            found = cls(
                path,
                Recording.from_json(content["recording"]),
                int(content["rows"]),
                list(content["episodes"]),
                rows,
                values,
            )
            if rows.ndim != 1 or rows.shape != values.shape or not np.isfinite(values).all():
                raise ValueError("its raw rewards contradict each other")
            if len(rows) and (rows[0] < 0 or rows[-1] >= found.rows or (np.diff(rows) <= 0).any()):
                raise ValueError("its raw rewards are of no rows of the buffer")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise _recorded_damaged(path, f"{type(error).__name__}: {error}") from error
        return found

    def damaged(self, reason: str) -> ReplayFormatError:
        """The error to raise if the file does not fit."""
        return _recorded_damaged(self.path, reason)

    def raw_rewards(self, rewards: npt.NDArray[np.float32], first_row: int) -> npt.NDArray[np.float32]:
        """The rewards of rows from ``first_row`` on before they were clipped, float32 ``[T]``."""
        raw = rewards.copy()
        part = slice(*np.searchsorted(self.clipped_rows, (first_row, first_row + len(rewards))))
        raw[self.clipped_rows[part] - first_row] = self.clipped_values[part]
        if not np.array_equal(raw.clip(-1, 1), rewards):
            raise self.damaged("its raw rewards are not those that were clipped to the buffer's")
        return raw


def sidecar_path(directory: Path, number: int) -> Path:
    return directory / f"recording_ckpt.{number}.json"


def _recorded_damaged(path: Path, reason: str) -> ReplayFormatError:
    return ReplayFormatError(f"{path} is damaged ({reason}); copy it again, or remove it: raw rewards are missing then")
