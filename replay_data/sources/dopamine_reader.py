"""Read the episodes of a Dopamine replay log."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, LEAD_IN, Episode
from replay_data.errors import ReplayFormatError
from replay_data.recording import Recording
from replay_data.sources.dopamine_files import COLUMN_CHUNK_ROWS, ArrayStream, RowReader, Rows, read_add_count
from replay_data.sources.dopamine_format import (
    ELEMENTS,
    FILE_NAME,
    NUM_BUFFERS,
    PADDING,
    PAPER_CAPACITY,
    STAGE_PREFIX,
    element_path,
)
from replay_data.sources.dopamine_sidecar import BufferSidecar, sidecar_error, sidecar_path
from replay_data.sources.episode_splitter import EpisodeSplitter
from replay_data.storage.paths import find_directory

CHECKED_ROWS = 20_000  # a file of so few rows (141 MB) is always read to its end, where its checksum is


class DopamineLog:
    """One run of a game: the buffers that are there.

    Args:
        path: directory that holds ``{game}/{run}/replay_logs``.
        game: the game's directory, such as ``"Breakout"``.
        run: the run's directory.
        num_actions: size of the game's action set; a larger action is an error.

    Attributes:
        parts: `LogBuffer` by number, ascending.
        num_shards: 50, as the public runs have, or more if there are.
        recording: who played, and how, where this project recorded the log; None otherwise.

    Raises:
        ReplayFormatError: if there is no such run, or a buffer lacks a file, or its files contradict each other.
    """

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        if list((path / game).glob(f"run_{run}-*-of-*")) and not (path / game / str(run)).exists():
            raise ReplayFormatError(f"{path / game} holds episode shards; read them with --source rl_unplugged")
        self.directory = find_directory(path, game, str(run), "replay_logs")
        files: dict[int, set[str]] = {}
        for file in self.directory.iterdir():
            if match := FILE_NAME.fullmatch(file.name):
                files.setdefault(int(match[2]), set()).add(match[1])
        if not files:
            raise ReplayFormatError(
                f"{self.directory} holds no replay log; its files are named like $store$_observation_ckpt.0.gz"
            )
        for number, elements in files.items():
            for element in ELEMENTS:
                if element not in elements:
                    killed = any(self.directory.glob(f"{STAGE_PREFIX}*/{element_path(Path(), element, number)}"))
                    raise ReplayFormatError(
                        f"{element_path(self.directory, element, number)} is missing; a buffer needs its observation, action, "
                        "reward and terminal files: "
                        + (
                            "the recording was killed when it was to be shown, go on with it by --resume"
                            if killed
                            else "copy the missing one, or remove the buffer's other files"
                        )
                    )
        self.shards = {number: LogBuffer(self.directory, number, num_actions) for number in sorted(files)}
        self.num_shards = max(NUM_BUFFERS, *(number + 1 for number in self.shards))
        recorded = [buffer.recorded for buffer in self.shards.values() if buffer.recorded is not None]
        self.recording: Recording | None = recorded[0].recording if recorded else None
        if len(recorded) < len(self.shards):  # raw rewards are known of all episodes, or of none
            for buffer in self.shards.values():
                buffer.recorded = None
        for number, buffer in self.shards.items():
            if (following := self.shards.get(number + 1)) and buffer.leads_to(following):
                buffer.following, following.preceding = following, buffer


class LogBuffer:
    """One buffer of a log, read forward; a `replay_data.episode.Shard`.

    Attributes:
        number: b.
        rows: R.
        fresh: rows from the start that are in the order they were played.
        recorded: what the JSON file beside it says; None where one of the log's buffers has none.
        preceding, following: the buffers that end where this one begins and go on where it ends, or None.
        exhausted: whether `visit` would yield nothing any more.
    """

    def __init__(self, directory: Path, number: int, num_actions: int):
        self.number = number
        self.preceding: LogBuffer | None = None
        self.following: LogBuffer | None = None
        self.exhausted = False
        self._directory, self._num_actions = directory, num_actions
        self._reader: RowReader | None = None
        self._cutter: EpisodeSplitter | None = None
        self._lead_in = np.zeros((LEAD_IN, *FRAME_SHAPE), dtype=np.uint8)  # the rows before the reader's
        self._terminals: npt.NDArray[np.int64] | None = None
        self.recorded = BufferSidecar.read(directory, number)
        with self._open() as reader:
            self.rows = reader.rows
        if self.recorded is not None and self.recorded.rows != self.rows:
            raise sidecar_error(
                sidecar_path(directory, number),
                f"it describes {self.recorded.rows} rows, but the buffer has {self.rows}",
            )
        self._add_count = read_add_count(directory, number)
        # A log without add_count is taken for one that was saved as all public ones were.
        cursor = self.rows - 1 if self._add_count is None else self._add_count % self.rows
        self.fresh = cursor or self.rows
        self.capacity = min(PAPER_CAPACITY, self.rows)

    def leads_to(self, other: LogBuffer) -> bool:
        """Whether ``other`` holds the row that was played directly after this buffer's last one."""
        if self.rows != other.rows or self.fresh != self.rows - 1:
            return False
        if self._add_count is None or other._add_count is None:
            return self._add_count is other._add_count
        return self._add_count < other._add_count <= self._add_count + self.rows

    def _begins(self) -> bool | None:
        """Whether row 0 is the first of an episode's padding; None if only the frames can tell.

        They must where a time limit may have cut an episode just before row 0.
        """
        if self.fresh == self._add_count or (self._add_count is None and self.number == 0):
            return True  # nothing was played before
        if self.fresh < self.rows:  # there is a link row
            if self.rows - 1 in self.terminal_rows(self.rows):
                return True
            if self.preceding is None and not (self._column("action")[-1] or self._column("reward")[-1]):
                return False  # the link row may be padding already
        if self.preceding is None:
            return None
        before = self.preceding.terminal_rows(self.preceding.fresh)
        if len(before) and before[-1] >= self.preceding.fresh - PADDING:  # its padding, or more, came before row 0
            return False
        return None

    def _open(self) -> RowReader:
        return RowReader(self._directory, self.number, self._num_actions, self.recorded)

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield every whole episode that begins in this buffer; the last one may end in the buffers that follow.

        An episode that began before the buffer is left out: it belongs to the buffer before.

        Args:
            chosen: only these, counted from 0.
        """
        for index, episode in enumerate(self._episodes()):
            if chosen is None or index in chosen:
                yield episode

    def returns(self) -> Iterator[float]:
        """Yield the return of every episode that `episodes` yields."""
        for episode in self._episodes():
            yield float(episode.rewards.sum(dtype=np.float64))

    def _episodes(self) -> Iterator[Episode]:
        self.close()
        cutter, link = EpisodeSplitter(self._begins()), self.fresh
        for rows in self._rows_from_here():
            for first_row, episode in cutter.add(rows):
                if first_row > link:
                    return
                yield episode
            if cutter.first_row > link:
                return

    def _rows_from_here(self) -> Iterator[Rows]:
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

    def visit(self, episodes: int) -> Iterator[Episode]:
        """Yield the whole episodes among the rows up to the next ``episodes`` terminals.

        Like the original code's visits, each goes on where the last one ended, and one that would reach row 100,000
        (or the buffer's end) is not made; the first begins at row 0, most often in the middle of an episode, which
        is left out.
        """
        start = self._reader.position if self._reader else 0
        ends, made = self.visit_ends(start, episodes, min(self.fresh, self.capacity))
        if not made:
            self.exhausted = True
            return
        if self._reader is None or self._cutter is None:
            self._reader, self._cutter = self._open(), EpisodeSplitter(self._begins())
        for rows in self._reader.chunks(int(ends[-1])):
            for _, episode in self._cutter.add(rows):
                yield episode

    def visit_ends(self, start: int, episodes: int, stop: int) -> tuple[npt.NDArray[np.int64], bool]:
        """The ends that a visit from row ``start`` passes below row ``stop``, and whether it can be made.

        Returns:
            The exclusive ends of the next ``episodes`` episodes, int64, or of the fewer that there are; and whether
            that is all of them without reaching row 100,000.
        """
        ends = self.terminal_rows(stop) + 1
        ends = ends[ends > start][:episodes]
        return ends, len(ends) == episodes and bool(ends[-1] < self.capacity)

    def terminal_rows(self, stop: int) -> npt.NDArray[np.int64]:
        """Rows below ``stop`` whose terminal is set, int64 ``[T]``, ascending."""
        if self._terminals is None:
            self._terminals = np.flatnonzero(self._column("terminal"))
        return self._terminals[: np.searchsorted(self._terminals, stop)]

    def rewards(self, stop: int) -> npt.NDArray[np.float32]:
        """The rewards of the rows below ``stop``, float32 ``[stop]``."""
        return self._column("reward")[:stop].copy()

    def _column(self, element: str) -> npt.NDArray[Any]:
        with ArrayStream(self._directory, element, self.number) as stream:
            chunks = [
                stream.read(min(COLUMN_CHUNK_ROWS, stream.rows - at)) for at in range(0, stream.rows, COLUMN_CHUNK_ROWS)
            ]
            stream.finish()
        return np.concatenate(chunks)

    def stacked_frames(
        self, start: int, ends: Sequence[int]
    ) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float32]]]:
        """Yield rows ``start:ends[0]``, ``ends[0]:ends[1]``, … with the three rows that the file holds before each.

        What stands before row 0 is the end of the first 100,000 rows, as in the circular buffer of that capacity
        that the original code reads the file into. Successive calls must go forward.

        Yields:
            frames uint8 ``[3 + T, 84, 84]``, actions uint8 ``[T]`` and rewards float32 ``[T]`` of T rows.
        """
        if self._reader is None:
            self._reader = self._open()
            with ArrayStream(self._directory, "observation", self.number) as stream:
                stream.skip(self.capacity - LEAD_IN)
                self._lead_in = stream.read(LEAD_IN)
        if self._reader.position != start:
            raise ValueError(f"rows are read up to {self._reader.position}, not to {start}")
        for end in ends:
            rows = self._reader.read(end - self._reader.position)
            frames = np.concatenate([self._lead_in, rows.frames])
            self._lead_in = frames[-LEAD_IN:].copy()
            yield frames, rows.actions, rows.rewards

    def check(self, everything: bool = False) -> bool:
        """Read the files on to their checksums; the frames' only if they are few, or ``everything`` is asked for.

        Returns:
            Whether the frames' checksum was compared too.
        """
        frames = everything or self.rows <= CHECKED_ROWS
        if self._reader is not None:
            self._reader.finish(frames)
        return frames

    def close(self) -> None:
        """Close the files; what is read next starts at row 0 again."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._cutter, self.exhausted = None, None, False
