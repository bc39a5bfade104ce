"""Write the files of one buffer of a Dopamine log, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from replay_data.recording import Recording
from replay_data.sources.dopamine_format import ELEMENTS, PADDING, ROW_ELEMENTS, element_path
from replay_data.sources.dopamine_sidecar import BufferSidecar, RecordedEpisode, sidecar_path
from replay_data.storage.atomic import name_file_in_errors
from replay_data.storage.gzip_streams import create_gzip

RowArrays: TypeAlias = "dict[str, npt.NDArray[Any]]"
"""Rows to write: the `ELEMENTS` by name, ``"ram"`` if the log has it, and ``"raw_reward"``, float32."""


def zero_rows(count: int, ram: bool) -> RowArrays:
    """Return rows of zeros, with or without RAM: padding, or rows that were never played."""
    elements = ROW_ELEMENTS if ram else ELEMENTS
    rows = {element: np.zeros((count, *shape), dtype) for element, (dtype, shape) in elements.items()}
    return {**rows, "raw_reward": np.zeros(count, np.float32)}


class BufferFiles:
    """The files of one buffer while they are written.

    Args:
        directory: Directory that the files will end up in; errors name it.
        stage: Directory that the files are written to.
        index: Index of the buffer.
        rows: R, rows of the buffer.
        ram: Whether there is a file of the RAM.

    Attributes:
        index: Index of the buffer.
        written: Number of rows written so far.
    """

    def __init__(self, directory: Path, stage: Path, index: int, rows: int, ram: bool):
        self.index, self._rows, self.written = index, rows, 0
        self._directory, self._stage = directory, stage
        self._clipped_rows: list[int] = []
        self._clipped_values: list[float] = []
        with ExitStack() as stack:
            self._streams: dict[str, Any] = {}
            for element, (dtype, shape) in (ROW_ELEMENTS if ram else ELEMENTS).items():
                self._streams[element] = stack.enter_context(create_gzip(element_path(stage, element, index)))
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_1_0(self._streams[element], header)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close the files, complete or not."""
        self._stack.close()

    def write(self, rows: RowArrays) -> None:
        """Append rows."""
        with name_file_in_errors(self._directory, self._directory):
            for element, stream in self._streams.items():
                stream.write(np.ascontiguousarray(rows[element], dtype=ROW_ELEMENTS[element][0]).data)
        clipped = np.flatnonzero(rows["raw_reward"] != rows["reward"])
        self._clipped_rows += (clipped + self.written).tolist()
        self._clipped_values += rows["raw_reward"][clipped].tolist()
        self.written += len(rows["action"])

    def finish(
        self, link: RowArrays, add_count: int, recording: Recording | None, episodes: Sequence[RecordedEpisode]
    ) -> None:
        """Write the link row, the counters and the sidecar, and close the files.

        Args:
            link: The link row.
            add_count: Number of rows ever added to the log.
            recording: Who plays, and how; without it there is no sidecar.
            episodes: The episodes that end in the buffer, for the sidecar.
        """
        with name_file_in_errors(self._directory, self._directory), self._stack:
            self.write(link)
            cursor = add_count % self._rows
            # Dopamine cannot sample rows whose stack or successor the cursor has overwritten: stack_size + 1 rows from
            # cursor - update_horizon on.
            invalid = (cursor - 1 + np.arange(PADDING + 2)) % self._rows
            for name, array in (("add_count", np.array(add_count)), ("invalid_range", invalid)):
                with create_gzip(self._stage / f"{name}_ckpt.{self.index}.gz") as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
            if recording is not None:
                sidecar = BufferSidecar(
                    recording,
                    self._rows,
                    tuple(episodes),
                    np.array(self._clipped_rows, dtype=np.int64),
                    np.array(self._clipped_values, dtype=np.float32),
                )
                sidecar_path(self._stage, self.index).write_text(json.dumps(sidecar.to_json()))
