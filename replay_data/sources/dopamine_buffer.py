"""Read one buffer of a Dopamine replay log."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode
from replay_data.sources.dopamine_arrays import ArrayStream, read_add_count, read_column
from replay_data.sources.dopamine_episode_splitter import EpisodeSplitter
from replay_data.sources.dopamine_format import PADDING
from replay_data.sources.dopamine_rows import RowReader, Rows
from replay_data.sources.dopamine_sidecar import BufferSidecar, sidecar_error, sidecar_path

CHECKED_ROWS = 20_000  # `LogBuffer.check` reads files of at most this many rows (141 MB) to their checksums


class LogBuffer:
    """One buffer of a Dopamine log; a `replay_data.episode.Shard`.

    `episodes` and `returns` start at row 0. `read_to` and `episodes_to` continue from `position`, so that a caller can
    stop at any row and go on later.

    Args:
        directory: The ``replay_logs`` directory.
        index: b, index of the buffer.
        num_actions: Size of the game's action set; a larger action is an error.

    Attributes:
        index: b.
        rows: R.
        fresh: Number of rows, from row 0 on, that are in the order they were played.
        sidecar: The JSON file beside the buffer; None if a buffer of the log has none.
        preceding: The buffer that ends where this one begins; None if it is missing.
        following: The buffer that begins where this one ends; None if it is missing.

    Raises:
        ReplayFormatError: If the files are damaged or contradict each other.
    """

    def __init__(self, directory: Path, index: int, num_actions: int):
        self.index = index
        self.preceding: LogBuffer | None = None
        self.following: LogBuffer | None = None
        self._directory, self._num_actions = directory, num_actions
        self._reader: RowReader | None = None
        self._splitter: EpisodeSplitter | None = None  # of the rows that `episodes_to` reads
        self._terminals: npt.NDArray[np.int64] | None = None
        self.sidecar = BufferSidecar.read(directory, index)
        with self._open() as reader:
            self.rows = reader.rows
        if self.sidecar is not None and self.sidecar.rows != self.rows:
            raise sidecar_error(
                sidecar_path(directory, index), f"it describes {self.sidecar.rows} rows, but the buffer has {self.rows}"
            )
        self._add_count = read_add_count(directory, index)
        # Without add_count, the cursor is assumed to stand on the last slot, as in all public logs.
        cursor = self.rows - 1 if self._add_count is None else self._add_count % self.rows
        self.fresh = cursor or self.rows

    def leads_to(self, other: LogBuffer) -> bool:
        """Return whether ``other`` holds the row that was played directly after the last fresh row of this buffer."""
        if self.rows != other.rows or self.fresh != self.rows - 1:
            return False
        if self._add_count is None or other._add_count is None:
            return self._add_count is other._add_count
        return self._add_count < other._add_count <= self._add_count + self.rows

    @property
    def position(self) -> int:
        """Number of rows that were read since the files were opened."""
        return self._reader.position if self._reader is not None else 0

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield the whole episodes that begin in this buffer; the last one may end in the buffers that follow.

        The buffer includes the link row of the file after it. An episode that began before row 0 belongs to the buffer
        before.

        Args:
            chosen: Indices of the episodes to yield, counted from 0; None for all.
        """
        for index, episode in enumerate(self._episodes()):
            if chosen is None or index in chosen:
                yield episode

    def returns(self) -> Iterator[float]:
        """Yield the return (the sum of the clipped rewards) of each episode that `episodes` yields."""
        for episode in self._episodes():
            yield float(episode.rewards.sum(dtype=np.float64))

    def _episodes(self) -> Iterator[Episode]:
        self.close()
        splitter, link_row = EpisodeSplitter(self._starts_episode()), self.fresh
        for rows in self._rows_onward():
            for first_row, episode in splitter.add(rows):
                if first_row > link_row:
                    return
                yield episode
            if splitter.first_row > link_row:
                return

    def _rows_onward(self) -> Iterator[Rows]:
        """Yield the fresh rows of this buffer, then the link row and the fresh rows of each following buffer."""
        self._reader = self._open()
        yield from self._reader.chunks(self.fresh)
        buffer = self.following
        while buffer is not None:
            with buffer._open() as reader:
                reader.skip(buffer.rows - 1)
                yield reader.read(1)
                reader.finish()
            with buffer._open() as reader:
                yield from reader.chunks(buffer.fresh)
            buffer = buffer.following

    def _starts_episode(self) -> bool | None:
        """Return whether row 0 is the first padding row of an episode; None if only the frames can tell.

        They must tell where a time limit may have truncated an episode just before row 0.
        """
        if self.fresh == self._add_count or (self._add_count is None and self.index == 0):
            return True  # nothing was played before row 0
        if self.fresh < self.rows:  # the last row is a link row
            if self.rows - 1 in self.terminal_rows(self.rows):
                return True
            if self.preceding is None and not (self._column("action")[-1] or self._column("reward")[-1]):
                return False  # the link row may be padding already
        if self.preceding is None:
            return None
        terminals = self.preceding.terminal_rows(self.preceding.fresh)
        if len(terminals) and terminals[-1] >= self.preceding.fresh - PADDING:
            return False  # an episode ended so late that its successor's padding began before row 0
        return None

    def read_to(self, row: int) -> Rows:
        """Return the rows from `position` to ``row``."""
        self._reader = self._reader or self._open()
        return self._reader.read(row - self._reader.position)

    def episodes_to(self, row: int) -> Iterator[Episode]:
        """Read the rows from `position` to ``row`` and yield the whole episodes that end in them."""
        if self._reader is None or self._splitter is None:
            self._reader, self._splitter = self._open(), EpisodeSplitter(self._starts_episode())
        for rows in self._reader.chunks(row):
            for _, episode in self._splitter.add(rows):
                yield episode

    def frames(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return the frames of rows ``start:stop``, uint8 ``[stop - start, 84, 84]``, whatever `position` is."""
        with ArrayStream(self._directory, "observation", self.index) as stream:
            stream.skip(start)
            return stream.read(stop - start)

    def terminal_rows(self, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows below ``stop`` whose terminal is set, int64 ``[T]``, ascending."""
        if self._terminals is None:
            self._terminals = np.flatnonzero(self._column("terminal"))
        return self._terminals[: np.searchsorted(self._terminals, stop)]

    def rewards(self, stop: int) -> npt.NDArray[np.float32]:
        """Return the rewards of the rows below ``stop``, float32 ``[stop]``."""
        return self._column("reward")[:stop].copy()

    def _column(self, element: str) -> npt.NDArray[Any]:
        return read_column(self._directory, element, self.index)

    def check(self, everything: bool = False) -> bool:
        """Read the open files to their ends, where gzip compares their checksums.

        Args:
            everything: Whether to read the frames even if the buffer has more than 20,000 rows.

        Returns:
            Whether the checksum of the frames was compared too.
        """
        frames = everything or self.rows <= CHECKED_ROWS
        if self._reader is not None:
            self._reader.finish(frames)
        return frames

    def close(self) -> None:
        """Close the files; the next read starts at row 0."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._splitter = None, None

    def _open(self) -> RowReader:
        return RowReader(self._directory, self.index, self._num_actions, self.sidecar)
