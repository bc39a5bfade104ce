"""Read one buffer of a Dopamine replay log."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode
from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_arrays import ArrayStream, read_add_count, read_column
from replay_data.sources.dopamine_episode_splitter import EpisodeSplitter, blank_rows, count_leading
from replay_data.sources.dopamine_format import PADDING, find_element
from replay_data.sources.dopamine_row_order import OrderedRowReader, RowRange
from replay_data.sources.dopamine_rows import RowReader, Rows
from replay_data.sources.dopamine_sidecar import BufferSidecar, sidecar_error, sidecar_path

CHECKED_ROWS = 20_000  # `LogBuffer.check` reads files of at most this many rows (141 MB) to their checksums

_FIRST_ROWS = 64  # among which the first episode of a log shows a frame that is not black


class LogBuffer:
    """One buffer of a Dopamine log; a `replay_data.episode.Shard`.

    A file keeps the rows of the buffer in R slots. `episodes`, `returns`, `episodes_to` and `terminal_positions` see
    the *fresh* rows, in the order they were played: those that no earlier file of the log holds
    (`replay_data.sources.dopamine_connections`). `read_to`, `frames`, `terminal_rows` and `rewards` see the slots as
    they are, as the original code does.

    `episodes` and `returns` start at the first row. `read_to` and `episodes_to` continue from `position`, so that a
    caller can stop at any row and go on later.

    Args:
        directory: The ``replay_logs`` directory.
        index: b, index of the buffer.
        num_actions: Size of the game's action set; a larger action is an error.

    Attributes:
        index: b.
        rows: R.
        add_count: Number of rows added to the log before this buffer was saved; None if there is no such file.
        new_rows: The rows that no earlier file of the log holds, by their number in the log.
        sidecar: The JSON file beside the buffer; None if there is none.
        raw_rewards: Whether to read the raw rewards from the sidecar.
        ram: Whether to read the RAM; initially, whether there is a file of it.
        preceding: The buffer that holds the row before `new_rows`; None if it is missing.
        following: The buffer whose `new_rows` begin where those of this one end; None if it is missing.
        rest: The file that the run's unfinished rest was saved to, if it belongs to this buffer.
        first_runs: Numbers of blank rows with which episodes of the log began for certain (`EpisodeSplitter`).

    Raises:
        ReplayFormatError: If the files are damaged or contradict each other.
    """

    def __init__(self, directory: Path, index: int, num_actions: int):
        self.index = index
        self.preceding: LogBuffer | None = None
        self.following: LogBuffer | None = None
        self.rest: LogBuffer | None = None
        self.first_runs: tuple[int, ...] = ()
        self._directory, self._num_actions = directory, num_actions
        self._reader: RowReader | OrderedRowReader | None = None
        self._splitter: EpisodeSplitter | None = None  # of the rows that `episodes_to` reads
        self._terminals: npt.NDArray[np.int64] | None = None
        self.sidecar = BufferSidecar.read(directory, index)
        self.raw_rewards = True
        self.ram = find_element(directory, "ram", index).exists()
        with self._open() as reader:
            self.rows = reader.rows
        if self.sidecar is not None and self.sidecar.rows != self.rows:
            raise sidecar_error(
                sidecar_path(directory, index), f"it describes {self.sidecar.rows} rows, but the buffer has {self.rows}"
            )
        self.add_count = read_add_count(directory, index)
        self.new_rows = RowRange(0, self.rows - 1, self.rows)

    @property
    def fresh(self) -> int:
        """Number of fresh rows.

        The first of the `new_rows` is not among them if it was played directly after a row of another file: an episode
        that begins there belongs to that file. In public logs, this is the link row.
        """
        return len(self._fresh_rows)

    @property
    def _fresh_rows(self) -> RowRange:
        start, stop = self.new_rows.start, self.new_rows.stop
        # Without the file before it, a link row is not worth its own pass over the file.
        is_link = start < stop and (self.preceding is not None or start % self.rows == self.rows - 1)
        return RowRange(start + is_link, stop, self.rows)

    @property
    def position(self) -> int:
        """Number of fresh rows, or of slots, that were read since the files were opened."""
        return self._reader.position if self._reader is not None else 0

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield the whole episodes that begin in this buffer; the last one may end in the buffers that follow.

        The buffer includes the first new row of the file after it (the link row), and all rows of the `rest`. An
        episode that began before the first fresh row belongs to the buffer before.

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
        yield from self._own_episodes()
        if self.rest is not None:
            yield from self.rest._own_episodes()

    def _own_episodes(self) -> Iterator[Episode]:
        """Yield the whole episodes that begin in this file or in the first new row of the file after it."""
        self.close()
        splitter, link_row = EpisodeSplitter(self._starts_episode(), self.first_runs), self.fresh
        for rows in self._rows_onward():
            for first_row, episode in splitter.add(rows):
                if first_row > link_row:
                    return
                yield episode
            if splitter.first_row > link_row:
                return

    def _rows_onward(self) -> Iterator[Rows]:
        """Yield the fresh rows of this buffer, then the new rows of each following buffer."""
        self._reader = reader = OrderedRowReader(self._open, self._fresh_rows)
        yield from reader.chunks(self.fresh)
        buffer = self.following
        while buffer is not None:
            with OrderedRowReader(buffer._open, buffer.new_rows) as reader:
                yield from reader.chunks(len(buffer.new_rows))
            buffer = buffer.following

    def _starts_episode(self) -> bool | None:
        """Return whether the first fresh row is the first padding row of an episode; None if only the frames can tell.

        They must tell where a time limit may have truncated an episode just before that row.
        """
        first = self._fresh_rows.start
        if first == 0 and self.index == 0:
            return True  # nothing was played before it
        if self.sidecar is not None and first % self.rows == 0:
            return self.sidecar.starts_episode
        if first > max(self.new_rows.stop - self.rows, 0):  # the file holds the row before, the link row in public logs
            if self._is_terminal(first - 1):
                return True
            slot = (first - 1) % self.rows
            if self.preceding is None and not (self.column("action")[slot] or self.column("reward")[slot]):
                return False  # the row before may be padding already
        if self.preceding is None:
            return None
        if any(self.preceding._is_end(row) for row in range(max(first - 1 - PADDING, 0), first - 1)):
            return False  # an episode ended so late that its successor's padding began before the first fresh row
        # The row before is often at the end of the file, but nearly always one of the first rows is not blank.
        if self._are_blank(first, first + PADDING) and self._are_blank(first - 1, first):
            return False  # more than three rows are blank, which is no end (see `EpisodeSplitter`)
        return None

    def _is_terminal(self, row: int) -> bool:
        """Return whether the row with this number, which the file must hold, is terminal."""
        return row % self.rows in self.terminal_rows(self.rows)

    def _is_end(self, row: int) -> bool:
        """Return whether the row with this number, which the file must hold, is known to end an episode."""
        listed = self.sidecar is not None and any(each.row == row % self.rows for each in self.sidecar.episodes)
        return listed or self._is_terminal(row)

    def _are_blank(self, start: int, stop: int) -> bool:
        """Return whether the rows with these numbers, which the file must hold, look like padding."""
        with OrderedRowReader(self._open, RowRange(start, stop, self.rows)) as reader:
            return all(blank_rows(rows).all() for rows in reader.chunks(stop - start))

    def count_first_blank_rows(self) -> int | None:
        """Return with how many blank rows the first slots begin; None if there is no end of them, or damage."""
        try:
            with self._open() as reader:
                blank = blank_rows(reader.read(min(_FIRST_ROWS, self.rows - 1)))
        except ReplayFormatError:
            return None  # the damage is named when the rows are read
        return None if blank.all() else count_leading(blank)

    def read_to(self, row: int) -> Rows:
        """Return the slots from `position` to ``row``."""
        if not isinstance(self._reader, RowReader):
            self.close()
            self._reader = self._open()
        return self._reader.read(row - self._reader.position)

    def episodes_to(self, position: int) -> Iterator[Episode]:
        """Read the fresh rows from `position` to ``position`` and yield the whole episodes that end in them."""
        if self._reader is None or self._splitter is None:
            self._reader = OrderedRowReader(self._open, self._fresh_rows)
            self._splitter = EpisodeSplitter(self._starts_episode(), self.first_runs)
        for rows in self._reader.chunks(position):
            for _, episode in self._splitter.add(rows):
                yield episode

    def terminal_positions(self, stop: int) -> npt.NDArray[np.int64]:
        """Return the positions below ``stop`` of the terminal rows among the fresh ones, int64 ``[T]``, ascending."""
        positions = np.sort((self.terminal_rows(self.rows) - self._fresh_rows.start % self.rows) % self.rows)
        return positions[: np.searchsorted(positions, min(stop, self.fresh))]

    def frames(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return the frames of slots ``start:stop``, uint8 ``[stop - start, 84, 84]``, whatever `position` is."""
        with ArrayStream(self._directory, "observation", self.index) as stream:
            stream.skip(start)
            return stream.read(stop - start)

    def terminal_rows(self, stop: int) -> npt.NDArray[np.int64]:
        """Return the slots below ``stop`` whose terminal is set, int64 ``[T]``, ascending."""
        if self._terminals is None:
            self._terminals = np.flatnonzero(self.column("terminal"))
        return self._terminals[: np.searchsorted(self._terminals, stop)]

    def rewards(self, stop: int) -> npt.NDArray[np.float32]:
        """Return the rewards of the slots below ``stop``, float32 ``[stop]``."""
        return self.column("reward")[:stop].copy()

    def column(self, element: str) -> npt.NDArray[Any]:
        """Return the actions, rewards or terminals of all slots, ``[R]``."""
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
        if self.rest is not None:
            self.rest.check(everything)
        return frames

    def close(self) -> None:
        """Close the files; the next read starts at the first row."""
        if self._reader is not None:
            self._reader.close()
        if self.rest is not None:
            self.rest.close()
        self._reader, self._splitter = None, None

    def _open(self) -> RowReader:
        return RowReader(self._directory, self.index, self._num_actions, self.sidecar, self.raw_rewards, self.ram)
