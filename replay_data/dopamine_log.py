"""Dopamine's replay logs, the format of the DQN-replay dataset (Agarwal et al. 2020): stream them in, write them out.

A run is a directory ``{Game}/{run}/replay_logs``. Buffer b of R rows (1,000,000 in the public data, b = 0 … 49) is

====================================  =======  ===============
``$store$_observation_ckpt.{b}.gz``   uint8    ``[R, 84, 84]``
``$store$_action_ckpt.{b}.gz``        int32    ``[R]``
``$store$_reward_ckpt.{b}.gz``        float32  ``[R]``
``$store$_terminal_ckpt.{b}.gz``      uint8    ``[R]``
``add_count_ckpt.{b}.gz``             int      ``[]``
``invalid_range_ckpt.{b}.gz``         int      ``[5]``
====================================  =======  ===============

each a gzipped ``.npy``. A row is one step: a frame, the action chosen on it and the clipped reward that followed. Three
all-zero padding rows open each episode, so that no stack of four frames mixes two. A terminal row ends an episode; a
time limit shows only by the padding that follows.

The buffer is circular and is saved when its cursor stands on its last slot: rows 0 … R-2 are in the order they were
played, and row R-1, the *link row*, was played directly before row 0 (so it is the one between the last row of file
b-1 and the first of file b; nothing in the first file). ``add_count`` is the number of rows ever added.

`episode_end_indices_ckpt`, which newer versions add, is a pickle and is never opened.

Logs that this project records have ``recording_ckpt.{b}.json`` too, which other readers pass over: ``recording`` (who
played, and how), ``rows`` (R), ``raw_rewards`` (the ``rows`` whose reward was clipped, and its ``values`` before) and
``episodes``, those that end in this buffer (the ``row`` of the last step, ``steps``, ``return``, ``score``, and what
the player adds, such as the steps ``played`` by then in all games).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode
from replay_data.errors import InputError, ReplayFormatError
from replay_data.files import find_directory, naming, sync
from replay_data.gzipped import create_gzip, damage_explained, open_gzip
from replay_data.trajectory_store import FRAME_SHAPE, LEAD_IN

NUM_BUFFERS = 50  # of a run of the DQN-replay dataset
CAPACITY = 100_000  # rows of a buffer that the original code looks at (its replay_capacity)
PADDING = LEAD_IN  # rows; Dopamine adds stack_size - 1 of them
MAX_EPISODE_ROWS = 108_000  # frames after which ALE ends an episode, at one row a frame
CHECKED_ROWS = 20_000  # a file of so few rows (141 MB) is always read to its end, where its checksum is

_CHUNK = 1024  # rows read at once, 7 MB of frames
_COLUMN_CHUNK = 1 << 20  # rows of another file; a header that promises more than there is costs no memory
_ELEMENTS: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
    "observation": (np.uint8, FRAME_SHAPE),
    "action": (np.int32, ()),
    "reward": (np.float32, ()),
    "terminal": (np.uint8, ()),
}
_FILE_NAME = re.compile(r"\$store\$_(observation|action|reward|terminal)_ckpt\.(0|[1-9]\d*)\.gz")


class DopamineLog:
    """One run of a game: the buffers that are there.

    Args:
        path: directory that holds ``{game}/{run}/replay_logs``.
        game: the game's directory, such as ``"Breakout"``.
        run: the run's directory.
        num_actions: size of the game's action set; a larger action is an error.

    Attributes:
        parts: `LogBuffer` by number, ascending.
        num_parts: 50, as the public runs have, or more if there are.
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
            if match := _FILE_NAME.fullmatch(file.name):
                files.setdefault(int(match[2]), set()).add(match[1])
        if not files:
            raise ReplayFormatError(
                f"{self.directory} holds no replay log; its files are named like $store$_observation_ckpt.0.gz"
            )
        for number, elements in files.items():
            for element in _ELEMENTS:
                if element not in elements:
                    killed = any(self.directory.glob(f"{_STAGE}*/{_path(Path(), element, number)}"))
                    raise ReplayFormatError(
                        f"{_path(self.directory, element, number)} is missing; a buffer needs its observation, action, "
                        "reward and terminal files: "
                        + (
                            "the recording was killed when it was to be shown, go on with it by --resume"
                            if killed
                            else "copy the missing one, or remove the buffer's other files"
                        )
                    )
        self.parts = {number: LogBuffer(self.directory, number, num_actions) for number in sorted(files)}
        self.num_parts = max(NUM_BUFFERS, *(number + 1 for number in self.parts))
        recorded = [buffer.recorded for buffer in self.parts.values() if buffer.recorded is not None]
        self.recording: Mapping[str, Any] | None = recorded[0].recording if recorded else None
        if len(recorded) < len(self.parts):  # raw rewards are known of all episodes, or of none
            for buffer in self.parts.values():
                buffer.recorded = None
        for number, buffer in self.parts.items():
            if (following := self.parts.get(number + 1)) and buffer.leads_to(following):
                buffer.following, following.preceding = following, buffer


class LogBuffer:
    """One buffer of a log, read forward; a `replay_data.episode.Part`.

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
        self._reader: _RowReader | None = None
        self._cutter: _Cutter | None = None
        self._lead_in = np.zeros((LEAD_IN, *FRAME_SHAPE), dtype=np.uint8)  # the rows before the reader's
        self._terminals: npt.NDArray[np.int64] | None = None
        self.recorded = RecordedBuffer.read(directory, number)
        with self._open() as reader:
            self.rows = reader.rows
        if self.recorded is not None and self.recorded.rows != self.rows:
            raise self.recorded.damaged(f"it is of {self.recorded.rows} rows, the buffer has {self.rows}")
        self._add_count = _read_add_count(directory, number)
        # A log without add_count is taken for one that was saved as all public ones were.
        cursor = self.rows - 1 if self._add_count is None else self._add_count % self.rows
        self.fresh = cursor or self.rows
        self.capacity = min(CAPACITY, self.rows)

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

    def _open(self) -> _RowReader:
        return _RowReader(self._directory, self.number, self._num_actions, self.recorded)

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
        cutter, link = _Cutter(self._begins()), self.fresh
        for rows in self._rows_from_here():
            for first_row, episode in cutter.add(rows):
                if first_row > link:
                    return
                yield episode
            if cutter.first_row > link:
                return

    def _rows_from_here(self) -> Iterator[_Rows]:
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
            self._reader, self._cutter = self._open(), _Cutter(self._begins())
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
        with _ArrayStream(self._directory, element, self.number) as stream:
            chunks = [stream.read(min(_COLUMN_CHUNK, stream.rows - at)) for at in range(0, stream.rows, _COLUMN_CHUNK)]
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
            with _ArrayStream(self._directory, "observation", self.number) as stream:
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


@dataclass(frozen=True)
class _Rows:
    """Rows as the files hold them, and where they come from."""

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32]  # NaN where they are not known
    terminals: npt.NDArray[np.bool_]
    path: Path
    first_row: int

    def __getitem__(self, part: slice) -> _Rows:
        first_row = self.first_row + (part.start or 0)
        values = self.rewards[part], self.raw_rewards[part], self.terminals[part]
        return _Rows(self.frames[part], self.actions[part], *values, self.path, first_row)


class _Cutter:
    """Cuts rows, given in the order they were played, into episodes.

    Attributes:
        first_row: how many rows had been given before the episode that is open began, its padding included.
    """

    def __init__(self, begun: bool | None) -> None:
        self.first_row = 0
        self._begun = begun  # whether the open rows start with an episode's padding; None: not known yet
        self._open: list[_Rows] = []
        self._terminal = np.zeros(0, dtype=bool)  # of the open rows
        self._blank = np.zeros(0, dtype=bool)  # the open rows that could be padding

    def add(self, rows: _Rows) -> Iterator[tuple[int, Episode]]:
        """Yield the episodes that end in these rows, each with its ``first_row``."""
        blank = (rows.actions == 0) & (rows.rewards == 0) & ~rows.terminals
        blank[blank] = ~rows.frames[blank].any(axis=(1, 2))
        self._open.append(rows)
        self._terminal = np.concatenate([self._terminal, rows.terminals])
        self._blank = np.concatenate([self._blank, blank])
        if self._begun is None:
            if len(self._blank) <= PADDING:
                return
            self._begun = _lone_padding(self._blank)[:1].tolist() == [0]
        while (end := self._end()) is not None:
            first_row, begun = self.first_row, self._begun
            piece = self._take(end)
            if begun:
                yield first_row, self._episode(piece)
        if len(self._blank) > MAX_EPISODE_ROWS:
            raise ReplayFormatError(
                f"{rows.path}, row {rows.first_row}: no episode has ended for {MAX_EPISODE_ROWS:,} rows"
            )

    def _end(self) -> int | None:
        """Where the open episode ends: after its first terminal row, or before padding that follows none."""
        terminals = np.flatnonzero(self._terminal)
        end = int(terminals[0]) + 1 if len(terminals) else None
        cuts = _lone_padding(self._blank[:end])
        cuts = cuts[cuts > (PADDING if self._begun else 0)]
        return int(cuts[0]) if len(cuts) else end

    def _take(self, end: int) -> _Rows:
        taken: list[_Rows] = []
        missing = end
        while missing:
            rows = self._open.pop(0)
            if len(rows.actions) > missing:
                self._open.insert(0, rows[missing:])
                rows = rows[:missing]
            taken.append(rows)
            missing -= len(rows.actions)
        self._terminal, self._blank = self._terminal[end:], self._blank[end:]
        self.first_row += end
        self._begun = True
        return _Rows(
            np.concatenate([rows.frames for rows in taken]),
            np.concatenate([rows.actions for rows in taken]),
            np.concatenate([rows.rewards for rows in taken]),
            np.concatenate([rows.raw_rewards for rows in taken]),
            np.concatenate([rows.terminals for rows in taken]),
            taken[0].path,
            taken[0].first_row,
        )

    @staticmethod
    def _episode(rows: _Rows) -> Episode:
        padding, steps = rows[:PADDING], rows[PADDING:]
        if not len(steps.actions) or padding.frames.any() or padding.actions.any() or padding.rewards.any():
            raise ReplayFormatError(
                f"{rows.path}, row {rows.first_row}: an episode should begin with three rows of zeros and a step; "
                "the log is damaged or of another kind"
            )
        raw_rewards = None if np.isnan(steps.raw_rewards).any() else steps.raw_rewards
        return Episode(steps.frames, steps.actions, steps.rewards, raw_rewards, bool(steps.terminals[-1]))


def _lone_padding(blank: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where exactly three blank rows stand between others, int64 ``[P]``; a game that fades to black shows more."""
    edges = np.flatnonzero(np.diff(blank.astype(np.int8), prepend=0))
    starts, stops = edges[::2], edges[1::2]  # of the runs; one that is still open has no stop
    starts = starts[: len(stops)]
    return starts[stops - starts == PADDING]


class _RowReader:
    """Reads the four files of a buffer in step.

    Attributes:
        rows: R.
        position: rows read or skipped so far.
    """

    def __init__(self, directory: Path, number: int, num_actions: int, recorded: RecordedBuffer | None):
        self.position = 0
        self._num_actions = num_actions
        self._recorded = recorded
        self._streams: dict[str, _ArrayStream] = {}
        with ExitStack() as stack:
            for element in _ELEMENTS:
                self._streams[element] = stack.enter_context(_ArrayStream(directory, element, number))
            self.rows = self._streams["observation"].rows
            for stream in self._streams.values():
                if stream.rows != self.rows:
                    raise ReplayFormatError(
                        f"{stream.path} has {stream.rows} rows, but {self._streams['observation'].path.name} has "
                        f"{self.rows}; the files of a buffer belong together"
                    )
            stack.pop_all()

    def __enter__(self) -> _RowReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def chunks(self, stop: int) -> Iterator[_Rows]:
        """Read on to row ``stop``."""
        while self.position < stop:
            yield self.read(min(_CHUNK, stop - self.position))

    def read(self, count: int) -> _Rows:
        frames = self._streams["observation"].read(count)
        actions, rewards, terminals = (self._streams[name].read(count) for name in ("action", "reward", "terminal"))
        self._check("action", actions, (actions >= 0) & (actions < self._num_actions), f"below {self._num_actions}")
        self._check("reward", rewards, np.abs(rewards) <= 1, "from -1 to 1")
        self._check("terminal", terminals, terminals <= 1, "0 or 1")
        first_row, self.position = self.position, self.position + count
        path = self._streams["observation"].path
        if self._recorded is None:
            raw_rewards = np.full_like(rewards, np.nan)
        else:
            raw_rewards = self._recorded.raw_rewards(rewards, first_row)
        return _Rows(frames, actions.astype(np.uint8), rewards, raw_rewards, terminals.astype(bool), path, first_row)

    def _check(self, element: str, values: npt.NDArray[Any], good: npt.NDArray[np.bool_], expected: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            raise ReplayFormatError(
                f"{self._streams[element].path}, row {self.position + row}: {element} {values[row]:g} is not "
                f"{expected}; the file is damaged or of another kind"
            )

    def skip(self, count: int) -> None:
        for stream in self._streams.values():
            stream.skip(count)
        self.position += count

    def finish(self, frames: bool = True) -> None:
        """Read on to the checksums, without looking at the rows; of the frames only if asked to."""
        for element, stream in self._streams.items():
            if element != "observation" or frames:
                stream.finish()


class _ArrayStream:
    """A gzipped ``.npy`` file, read row by row; only what is asked for is decompressed."""

    def __init__(self, directory: Path, element: str, number: int):
        self.path = _path(directory, element, number)
        dtype, self._row_shape = _ELEMENTS[element]
        self._dtype = np.dtype(dtype)
        self.rows = self.position = 0
        self._file = open_gzip(self.path)
        try:
            self.rows = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> int:
        with damage_explained(self._damaged):
            shape, dtype = _read_header(self._file)
        if dtype != self._dtype or shape[1:] != self._row_shape or not shape:
            expected = ", ".join(["R", *map(str, self._row_shape)])
            raise ReplayFormatError(
                f"{self.path} holds {dtype} {list(shape)}, but this file of a replay log is {self._dtype} [{expected}]"
            )
        if shape[0] < PADDING + 2:
            raise ReplayFormatError(f"{self.path} has {shape[0]} rows; a buffer has at least {PADDING + 2}")
        return int(shape[0])

    def __enter__(self) -> _ArrayStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, count: int) -> npt.NDArray[Any]:
        """The next ``count`` rows."""
        if self.position + count > self.rows:
            raise ReplayFormatError(f"{self.path} ends at row {self.rows}; row {self.position + count - 1} is wanted")
        rows = np.empty((count, *self._row_shape), dtype=self._dtype)
        buffer = rows.reshape(-1).view(np.uint8)
        filled = 0
        with damage_explained(self._damaged):
            while filled < len(buffer):
                got = self._file.readinto(buffer[filled:])
                if not got:
                    raise EOFError
                filled += got
        self.position += count
        return rows

    def skip(self, count: int) -> None:
        """Read over ``count`` rows."""
        while count:
            step = min(count, _CHUNK)
            self.read(step)
            count -= step

    def finish(self) -> None:
        """Read to the end, where gzip's checksum is compared."""
        self.skip(self.rows - self.position)
        with damage_explained(self._damaged):
            if self._file.read(1):
                raise ValueError(f"bytes follow its {self.rows} rows")

    def _damaged(self, what: str) -> ReplayFormatError:
        return ReplayFormatError(f"{self.path} is damaged at row {self.position} or after ({what}); copy it again")


def _path(directory: Path, element: str, number: int) -> Path:
    return directory / f"$store$_{element}_ckpt.{number}.gz"


def _read_add_count(directory: Path, number: int) -> int | None:
    path = directory / f"add_count_ckpt.{number}.gz"
    if not path.exists():
        return None

    def damaged(what: str) -> ReplayFormatError:
        return ReplayFormatError(f"{path} is damaged ({what}); copy it again")

    with open_gzip(path) as file, damage_explained(damaged):
        shape, dtype = _read_header(file)
        if shape != () or dtype.kind not in "iu":
            raise ValueError(f"it holds {dtype} {list(shape)}, not one count")
        content = file.read()
        count = int(np.frombuffer(content, dtype)[0]) if len(content) == dtype.itemsize else -1
        if count < 0:
            raise ValueError("it holds no count")
    return count


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype that a ``.npy`` file begins with; ValueError or EOFError if it is none."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is not of .npy version 1.0")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (OSError, EOFError):
        raise
    except Exception as error:  # the header is a Python literal, and its parser can raise nearly anything
        raise ValueError(f"its header is none of .npy: {error}") from error
    if fortran_order:
        raise ValueError("it is in Fortran order")
    return shape, dtype


@dataclass(frozen=True)
class RecordedBuffer:
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
    recording: Mapping[str, Any]
    rows: int
    episodes: Sequence[Mapping[str, Any]]
    clipped_rows: npt.NDArray[np.int64]
    clipped_values: npt.NDArray[np.float32]

    @classmethod
    def read(cls, directory: Path, number: int) -> RecordedBuffer | None:
        """Read the file beside a buffer; None if there is none.

        Raises:
            ReplayFormatError: if it is damaged.
        """
        path = _recorded_path(directory, number)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_bytes())
            raw = content["raw_rewards"]
            rows, values = np.array(raw["rows"], dtype=np.int64), np.array(raw["values"], dtype=np.float32)
            found = cls(path, dict(content["recording"]), int(content["rows"]), list(content["episodes"]), rows, values)
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


def _recorded_path(directory: Path, number: int) -> Path:
    return directory / f"recording_ckpt.{number}.json"


def _recorded_damaged(path: Path, reason: str) -> ReplayFormatError:
    return ReplayFormatError(f"{path} is damaged ({reason}); copy it again, or remove it: raw rewards are missing then")


class DopamineLogWriter:
    """Writes episodes as a log that Dopamine's replay buffer loads; used as a context manager.

    Buffers appear one by one, each with all its files, when the next row would no longer fit. Leaving the ``with``
    block normally writes the last one too: rows that were not played are zeros in it, and its ``add_count`` leaves them
    out. An exception leaves the buffers that were complete.

    Args:
        directory: the ``replay_logs`` directory; made if it is not there.
        rows: R, rows of a buffer, at least 5 (a stack of four and one more).
        recording: for the JSON file beside each buffer, who plays and how; without it there is none.
        num_buffers: what does not fit into so many is dropped.
        hold: buffers that are complete stay in the hidden directory `stage` until `publish` is called.
        whole, add_count: go on with a log whose first ``whole`` buffers are there; the next episode begins after so
            many rows, and what of it is in those buffers is passed over.

    Attributes:
        add_count: rows added, padding included.
        stage: a hidden directory in ``directory``.

    Raises:
        InputError: if R is too small, or a log that does not go on is there already.
    """

    def __init__(
        self,
        directory: Path,
        rows: int,
        *,
        recording: Mapping[str, Any] | None = None,
        num_buffers: int | None = None,
        hold: bool = False,
        whole: int = 0,
        add_count: int = 0,
    ):
        if rows < PADDING + 2:
            raise InputError(f"a buffer needs at least {PADDING + 2} rows, not {rows}")
        self.directory, self.rows, self.add_count = directory, rows, add_count
        if not whole and directory.exists() and any(_FILE_NAME.fullmatch(file.name) for file in directory.iterdir()):
            raise InputError(f"{directory} holds a replay log already; choose another directory or delete it first")
        self.stage: Path | None = None
        self._recording, self._num_buffers, self._hold, self._whole = recording, num_buffers, hold, whole
        self._link: dict[str, npt.NDArray[Any]] = _zero_rows(1)
        self._buffer: _BufferFiles | None = None
        self._complete: list[int] = []
        self._committed = False
        self._episodes: list[tuple[int, dict[str, Any]]] = []  # that end in buffers which are not complete

    def __enter__(self) -> DopamineLogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._complete_last()
                self.publish()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop the buffer that is not complete, and those that are held, unless `publish` has begun to show them."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None
        if self.stage is not None and not self._committed:
            shutil.rmtree(self.stage, ignore_errors=True)

    def _complete_last(self) -> None:
        if self.add_count and self.add_count % self.rows == 0:
            self._add(_zero_rows(1))  # a cursor on row 0 would say that all rows are fresh
        if self._buffer is not None:
            missing = self.rows - 1 - self._buffer.written
            for start in range(0, missing, _CHUNK):
                self._buffer.write(_zero_rows(min(_CHUNK, missing - start)))
            self._save()

    def append(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        *,
        terminal: bool,
        raw_rewards: npt.NDArray[Any] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one episode of T ≥ 1 steps.

        Args:
            frames: uint8 ``[T, 84, 84]``.
            actions: integers ``[T]`` from 0 to 17.
            rewards: numbers ``[T]`` in [-1, 1].
            terminal: whether the game was over after the last step; otherwise it was cut there.
            raw_rewards: numbers ``[T]``, the rewards before they were clipped; for the JSON file.
            details: what it should say of the episode beside steps, return and score.

        Raises:
            InputError: if the arrays contradict each other; nothing is written then.
        """
        steps = len(actions)
        actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=np.float32)
        if steps == 0 or frames.dtype != np.uint8 or frames.shape != (steps, *FRAME_SHAPE) or rewards.shape != (steps,):
            raise InputError(
                f"{steps} actions need as many uint8 frames [84, 84] and rewards, "
                f"not {frames.dtype} {list(frames.shape)} and {list(rewards.shape)}"
            )
        if not (np.abs(rewards) <= 1).all():
            raise InputError("a replay log holds rewards clipped to [-1, 1]")
        if (
            actions.dtype.kind not in "iu"
            or actions.shape != (steps,)
            or not (0 <= actions.min() <= actions.max() < 18)
        ):
            raise InputError("a replay log holds integer actions from 0 to 17")
        raw = rewards if raw_rewards is None else np.asarray(raw_rewards, dtype=np.float32)
        if raw.shape != (steps,) or not np.array_equal(raw.clip(-1, 1), rewards):
            raise InputError("rewards must be the raw rewards clipped to [-1, 1]")
        terminals = np.zeros(steps, dtype=np.uint8)
        terminals[-1] = terminal
        end = self.add_count + PADDING + steps
        about = {"row": (end - 1) % self.rows, "steps": steps, "return": _sum(rewards), "score": _sum(raw)}
        self._episodes.append((end // self.rows, {**about, **(details or {})}))  # a link row is in the next file
        self._add(_zero_rows(PADDING))
        elements = {"observation": frames, "action": actions, "reward": rewards, "terminal": terminals}
        self._add({**elements, "raw_reward": raw})

    def _add(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        while count := len(rows["action"]):
            number, cursor = divmod(self.add_count, self.rows)
            if cursor == self.rows - 1:
                step = 1
                self._link = {element: values[:1].copy() for element, values in rows.items()}
            else:
                if number == self._num_buffers:
                    return
                step = min(count, self.rows - 1 - cursor)
                if number >= self._whole:
                    if self._buffer is None:
                        self._buffer = self._create_buffer(number)
                    self._buffer.write({element: values[:step] for element, values in rows.items()})
            self.add_count += step
            rows = {element: values[step:] for element, values in rows.items()}
            if self.add_count % self.rows == self.rows - 1 and self._buffer is not None:
                self._save()

    def _create_buffer(self, number: int) -> _BufferFiles:
        with naming(self.directory, self.directory):
            if self.stage is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self.stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=self.directory))
                sync(self.directory)
            return _BufferFiles(self.directory, self.stage, number, self.rows)

    def _save(self) -> None:
        assert self._buffer is not None
        buffer, self._buffer = self._buffer, None
        recorded = None
        if self._recording is not None:
            ended = [about for number, about in self._episodes if number == buffer.number]
            recorded = {"recording": self._recording, "rows": self.rows, "episodes": ended}
        self._episodes = [(number, about) for number, about in self._episodes if number > buffer.number]
        buffer.finish(self._link, self.add_count, recorded)
        self._complete.append(buffer.number)
        if not self._hold:
            self.publish()

    @property
    def num_complete(self) -> int:
        """Buffers that are complete, those included that were there and those that are held."""
        return (self.add_count + 1) // self.rows

    def publish(self, commit: Callable[[], None] | None = None) -> None:
        """Show the buffers that are held.

        Args:
            commit: called when they are on the disk, and before the first is shown; they are safe from then on, because
                `settle_log` can show them too.
        """
        if self.stage is None or not self._complete:
            return
        with naming(self.directory, self.directory):
            for file in _files(self.stage, self._complete):
                if file.exists():
                    sync(file)
            sync(self.stage)
        if commit is not None:
            commit()
        self._committed = True
        with naming(self.directory, self.directory):
            _publish(self.directory, self.stage, self._complete)
        self._committed, self._complete = False, []


_STAGE = ".partial-"


def settle_log(directory: Path, stage: str | None, whole: int) -> None:
    """Bring a log that is recorded here into order after its writer was killed.

    Args:
        directory: the ``replay_logs`` directory.
        stage: name of the writer's hidden directory, whose buffers below ``whole`` were complete.
        whole: so many buffers are there afterwards.

    Raises:
        ReplayFormatError: if one of these lacks a file.
    """
    with naming(directory, directory):
        if stage is not None and (directory / stage).is_dir():
            _publish(directory, directory / stage, range(whole))
        for path in _files(directory, range(whole)):
            if not path.exists():
                raise ReplayFormatError(f"{path} is missing; copy it back, or record anew")
        for left in directory.glob(f"{_STAGE}*"):
            shutil.rmtree(left)


def _files(directory: Path, numbers: Iterable[int]) -> Iterator[Path]:
    """The files of buffers in the order in which they are shown, the frames last."""
    for number in numbers:
        yield _recorded_path(directory, number)
        for name in ("add_count", "invalid_range"):
            yield directory / f"{name}_ckpt.{number}.gz"
        for element in reversed(_ELEMENTS):
            yield _path(directory, element, number)


def _publish(directory: Path, stage: Path, numbers: Iterable[int]) -> None:
    for file in _files(stage, numbers):
        if file.exists():
            file.rename(directory / file.name)
    sync(directory)


class _BufferFiles:
    """The files of one buffer while they are written; ``directory`` is where they will be."""

    def __init__(self, directory: Path, stage: Path, number: int, rows: int):
        self.number, self._rows, self.written = number, rows, 0
        self._directory, self._stage = directory, stage
        self._raw: list[tuple[int, float]] = []  # rows whose reward was clipped, and what it was
        with ExitStack() as stack:
            self._streams = {element: stack.enter_context(self._create(f"$store$_{element}")) for element in _ELEMENTS}
            for element, (dtype, shape) in _ELEMENTS.items():
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_1_0(self._streams[element], header)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def _create(self, name: str) -> AbstractContextManager[Any]:
        return create_gzip(self._stage / f"{name}_ckpt.{self.number}.gz")

    def write(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        with naming(self._directory, self._directory):
            for element, (dtype, _) in _ELEMENTS.items():
                self._streams[element].write(np.ascontiguousarray(rows[element], dtype=dtype).data)
        clipped = np.flatnonzero(rows["raw_reward"] != rows["reward"])
        self._raw += zip((clipped + self.written).tolist(), rows["raw_reward"][clipped].tolist(), strict=True)
        self.written += len(rows["action"])

    def finish(self, link: dict[str, npt.NDArray[Any]], add_count: int, recorded: dict[str, Any] | None) -> None:
        with naming(self._directory, self._directory), self._stack:
            self.write(link)
            cursor = add_count % self._rows
            # Rows whose stack or successor the cursor has cut off: from cursor - update_horizon on, stack_size + 1.
            invalid = (cursor - 1 + np.arange(PADDING + 2)) % self._rows
            for name, array in (("add_count", np.array(add_count)), ("invalid_range", invalid)):
                with self._create(name) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
            if recorded is not None:
                rows, values = zip(*self._raw, strict=True) if self._raw else ((), ())
                content = json.dumps({**recorded, "raw_rewards": {"rows": rows, "values": values}})
                _recorded_path(self._stage, self.number).write_text(content)


def _sum(rewards: npt.NDArray[np.float32]) -> float:
    return float(rewards.sum(dtype=np.float64))


def _zero_rows(count: int) -> dict[str, npt.NDArray[Any]]:
    rows = {element: np.zeros((count, *shape), dtype) for element, (dtype, shape) in _ELEMENTS.items()}
    return {**rows, "raw_reward": np.zeros(count, np.float32)}
