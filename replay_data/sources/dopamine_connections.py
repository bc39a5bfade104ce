"""Find out which rows each file of a Dopamine log adds to the files before it.

A file holds the last R rows that had been added when it was saved: with an ``add_count`` of a, the rows a - R to a - 1
(`replay_data.sources.dopamine_row_order.RowRange`). Its *new* rows are those from the ``add_count`` of the file before
it on. There are four kinds of files:

- **Public logs** save a buffer whenever its cursor stands on the last slot, so that file b ends with row (b + 1) R - 2.
  No two files share a row. A file without ``add_count`` is taken for one of these.
- **Dopamine's checkpoints** save the same buffer every few thousand rows. Their files share rows.
- **The rest** is the last file of a public log, number 50 of a run of 50 buffers. It was saved at the end of the run
  with the cursor as its ``add_count``, which is therefore below that of the file before it (``log_final_buffer`` of
  github.com/google-research/batch_rl). Slots behind the cursor hold rows of the file before, or zeros. The rest is no
  shard of its own, but belongs to the buffer before it, so that draws and shares are the same with and without it.
- **Other runs**: files that were copied together, or written by a run that was started again from an earlier save. The
  episodes that earlier files do not hold are read, and none is joined to those of the file before.

Where two files should share rows, their actions, rewards and terminals are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_buffer import LogBuffer
from replay_data.sources.dopamine_format import NUM_BUFFERS, PADDING
from replay_data.sources.dopamine_row_order import RowRange

_COLUMNS = ("action", "reward", "terminal")

# Fewer rows than these can be equal by chance. A file without add_count is taken for the rest if so many of its last
# rows are those of the file before, or zeros. If they are by chance, all are alike, and no episode ends in them.
_MIN_OLD_ROWS = 16


@dataclass
class Connections:
    """The buffers of a log, connected.

    Attributes:
        shards: The buffers to read, by index, ascending. Each knows its `LogBuffer.new_rows`, the buffers before and
            after it, and its `LogBuffer.rest`.
        notes: What a user should know about files that are not as in a public log, one sentence each.
    """

    shards: dict[int, LogBuffer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def connect_buffers(buffers: Mapping[int, LogBuffer]) -> Connections:
    """Find the new rows of each file, and connect those whose rows were played one after the other.

    Args:
        buffers: All files of the log, by index.
    """
    connector = _Connector(buffers)
    for index in sorted(buffers):
        connector.add(buffers[index], is_last=index == max(buffers))
    connections = connector.connections
    if connector.has_checkpoints:
        connections.notes.append(
            "the files are saves of one circular buffer, as Dopamine's checkpoints are; the original selection reads "
            "rows that they share again, the others read each row once"
        )
    return connections


class _Connector:
    """Connects the files of a log one by one."""

    def __init__(self, buffers: Mapping[int, LogBuffer]):
        self.connections = Connections()
        self.has_checkpoints = False  # whether files share rows
        counted = [buffers[index] for index in sorted(buffers) if buffers[index].add_count is not None]
        self._is_public = all((buffer.add_count or 0) % buffer.rows == buffer.rows - 1 for buffer in counted[:-1])
        self._previous: LogBuffer | None = None  # the last file that has new rows

    def add(self, buffer: LogBuffer, is_last: bool) -> None:
        """Connect the next file."""
        previous = self._previous
        count = self._infer_count(buffer, is_last) if buffer.add_count is None else buffer.add_count
        if count is None:
            return  # the file is left out
        if is_last and previous is not None and self._add_rest(buffer, previous, count):
            return
        if count == 0:
            self._leave_out(buffer, "was saved before any row was added")
        elif previous is not None and previous.rows == buffer.rows:
            self._add_next(buffer, previous, count)
        else:
            self._add_first(buffer, count)

    def _infer_count(self, buffer: LogBuffer, is_last: bool) -> int | None:
        """Return the ``add_count`` of a file without one, as in a public log, or leave the file out and return None.

        Raises:
            ReplayFormatError: If the file is not of a public log.
        """
        if not self._is_public:
            self._leave_out(buffer, "has no add_count, and the counts of other files show that it is no public log")
            return None
        previous, cursor = self._previous, buffer.rows - 1
        count = (buffer.index + 1) * buffer.rows - 1
        if is_last and previous is not None and _follows(buffer, previous):
            cursor = _find_cursor(buffer, previous)
            count = previous.new_rows.stop + 1 + cursor
        elif is_last and buffer.index >= NUM_BUFFERS:
            self._leave_out(buffer, "has no add_count, and may be the rest of a run, which ends at an unknown row")
            return None
        if previous is not None and _shares_episode(buffer, previous, cursor):
            raise ReplayFormatError(
                f"buffers {previous.index} and {buffer.index} hold the same episode in the same rows, as saves of one "
                "circular buffer do, and only add_count tells their order; copy the add_count_ckpt.* files too"
            )
        return count

    def _add_first(self, buffer: LogBuffer, count: int, start: int = 0) -> None:
        """Add a buffer of which no other file holds the rows before ``start``."""
        start = max(start, count - buffer.rows)
        older = RowRange(start, count - count % buffer.rows - 1, buffer.rows)  # of the slots behind the cursor
        if len(older) and _all_zero(buffer, older):
            start = older.stop  # they were never played: a log that this project wrote ends with them
        self._add(buffer, RowRange(start, count, buffer.rows))

    def _add_next(self, buffer: LogBuffer, previous: LogBuffer, count: int) -> None:
        """Add a buffer whose rows may continue those of the file before it."""
        end, num_slots = previous.new_rows.stop, buffer.rows
        shared = RowRange(max(count - num_slots, end - num_slots, 0), min(count, end), num_slots)
        if not len(shared) and count > end:
            if count <= end + num_slots:
                self._add(buffer, RowRange(end, count, num_slots), previous)
            else:
                self._add_first(buffer, count)  # rows between the two files are missing
        elif count > end and _all_zero(buffer, shared):  # the last buffer of a log that this project wrote
            self._add(buffer, RowRange(end, count, num_slots), previous)
        elif count > end and _count_equal(previous, buffer, shared) == len(shared):
            self.has_checkpoints |= end % num_slots != num_slots - 1
            self._add(buffer, RowRange(end, count, num_slots), previous)
        else:
            self._add_other_run(buffer, previous, count)

    def _add_other_run(self, buffer: LogBuffer, previous: LogBuffer, count: int) -> None:
        """Add a buffer that does not continue the file before it, without the episodes that earlier files hold.

        Raises:
            ReplayFormatError: If it was saved before another file of the same run.
        """
        first = start = max(count - buffer.rows, 0)
        others = [each for each in self.connections.shards.values() if each.rows == buffer.rows]
        while num_held := max(_count_held(other, buffer, start, count) for other in others):
            start += num_held
        if start == count:
            self._leave_out(buffer, "holds no row that the files before it do not hold")
            return
        for other in others:
            end = other.new_rows.stop
            num_shared = count - max(first, end - buffer.rows)
            if end > count and _count_held(other, buffer, count - num_shared, count) == num_shared >= _MIN_OLD_ROWS:
                raise ReplayFormatError(
                    f"buffer {buffer.index} of the log was saved before buffer {other.index} (after {count:,} and "
                    f"{end:,} rows); rename the files so that their numbers ascend with their add_count"
                )
        self.connections.notes.append(
            f"buffers {previous.index} and {buffer.index} are not of one run, or the run was started again: their "
            "rows or counts contradict each other; no episode is joined across them"
        )
        # The episode in which the run and the earlier files part is new. This file holds its beginning too.
        ends = np.flatnonzero(RowRange(first, start, buffer.rows).of(buffer.column("terminal"))) + 1
        self._add_first(buffer, count, first + int(ends[-1]) if len(ends) else first)

    def _add_rest(self, buffer: LogBuffer, previous: LogBuffer, count: int) -> bool:
        """Add the last file to the buffer before it if it is the unfinished rest of the run; return whether it is."""
        end, num_slots = previous.new_rows.stop, buffer.rows
        rows, is_joined = RowRange(0, count, num_slots), False
        if previous.rows != num_slots:
            if buffer.index < NUM_BUFFERS or count > num_slots:
                return False  # otherwise, the file was cut off behind the cursor
        elif end % num_slots != num_slots - 1:
            return False  # the files before are no public log
        elif count > end:  # the file counts all rows of the run
            if buffer.index < NUM_BUFFERS or not end < count < end + num_slots:
                return False
            is_known = buffer.add_count is not None
            rows, is_joined = _connect_rest(buffer, previous, count % num_slots, is_known)
        else:
            before = RowRange(end - (num_slots - 1), end, num_slots)  # slots 0 to R - 2 of the file before
            num_equal = _count_equal(previous, buffer, before)
            if count >= num_slots or (before.start == 0 and 0 < count <= num_equal):
                return False  # another run, or an earlier save of the same buffer
            if count == num_slots - 1:
                if num_equal == len(before):
                    self._leave_out(buffer, f"is a copy of buffer {previous.index}")
                return num_equal == len(before)
            rows, is_joined = _connect_rest(buffer, previous, count)
        self._connect(buffer, rows, previous if is_joined else None)
        previous.rest = buffer
        note = f"buffer {buffer.index} is the unfinished rest of the run; it belongs to buffer {previous.index}"
        if not is_joined:
            note += ", but the files do not show that it follows, so the episode between them is left out"
        self.connections.notes.append(note)
        return True

    def _add(self, buffer: LogBuffer, rows: RowRange, previous: LogBuffer | None = None) -> None:
        self.connections.shards[buffer.index] = self._previous = buffer
        self._connect(buffer, rows, previous)

    def _connect(self, buffer: LogBuffer, rows: RowRange, previous: LogBuffer | None) -> None:
        buffer.new_rows, buffer.preceding = rows, previous
        if previous is not None:
            previous.following = buffer

    def _leave_out(self, buffer: LogBuffer, reason: str) -> None:
        self.connections.notes.append(f"buffer {buffer.index} {reason}; it is left out")


def _follows(buffer: LogBuffer, previous: LogBuffer) -> bool:
    """Return whether a file of a public log would be the one after ``previous``."""
    is_full = previous.new_rows.stop % previous.rows == previous.rows - 1
    return is_full and buffer.index == previous.index + 1 and buffer.rows == previous.rows


def _connect_rest(
    buffer: LogBuffer, previous: LogBuffer, cursor: int, is_counted: bool = False
) -> tuple[RowRange, bool]:
    """Return the rows of the rest of a run, and whether the files show that they continue ``previous``.

    Args:
        buffer: The rest.
        previous: The buffer before it.
        cursor: Number of rows from slot 0 on.
        is_counted: Whether the ``add_count`` of the rest counts all rows of the run.
    """
    end, num_slots = previous.new_rows.stop, buffer.rows
    rows = RowRange(end, end + 1 + cursor, num_slots)
    older = RowRange(rows.stop - num_slots, end, num_slots)
    if not _follows(buffer, previous):
        is_joined = False
    elif _all_zero(buffer, older):
        is_joined = is_counted or _holds_link_row(buffer, previous)
    else:
        is_joined = _count_equal(previous, buffer, older) == len(older)
    return (rows, True) if is_joined else (RowRange(0, cursor, num_slots), False)


def _count_equal(previous: LogBuffer, buffer: LogBuffer, rows: RowRange) -> int:
    """Return how many of the rows, from the first on, are the same in both files, but for their frames."""
    differ = np.zeros(len(rows), dtype=bool)
    try:
        for element in _COLUMNS:
            differ |= rows.of(previous.column(element)) != rows.of(buffer.column(element))
    except ReplayFormatError:
        return 0  # the damage is named when the rows are read
    return int(np.argmax(differ)) if differ.any() else len(rows)


def _count_held(other: LogBuffer, buffer: LogBuffer, start: int, stop: int) -> int:
    """Return how many of the rows ``start`` to ``stop - 1`` of a buffer, from the first on, another file holds too."""
    end = other.new_rows.stop
    if not end - other.rows <= start < end:
        return 0
    return _count_equal(other, buffer, RowRange(start, min(stop, end), buffer.rows))


def _shares_episode(buffer: LogBuffer, previous: LogBuffer, stop: int) -> bool:
    """Return whether two files hold the same terminated episode, of many rows, in the same slots below ``stop``."""
    if previous.rows != buffer.rows:
        return False
    try:
        ends, other_ends = buffer.terminal_rows(stop), previous.terminal_rows(stop)
        pairs, other_pairs = (set(pairwise(rows.tolist())) for rows in (ends, other_ends))
        long = [(start, end) for start, end in pairs & other_pairs if end - start >= _MIN_OLD_ROWS]
        if not long:
            return False  # nearly always, and then the columns are not read
        columns = [(buffer.column(element), previous.column(element)) for element in _COLUMNS]
    except ReplayFormatError:
        return False  # the damage is named when the rows are read
    return any(all(np.array_equal(a[start:end], b[start:end]) for a, b in columns) for start, end in long)


def _all_zero(buffer: LogBuffer, rows: RowRange) -> bool:
    """Return whether actions, rewards and terminals of the rows are zeros, as if they had never been played."""
    try:
        return not any(rows.of(buffer.column(element)).any() for element in _COLUMNS)
    except ReplayFormatError:
        return False  # the damage is named when the rows are read


def _holds_link_row(buffer: LogBuffer, previous: LogBuffer) -> bool:
    """Return whether the last slot of a buffer holds a row that was played, where the slots before it hold zeros."""
    link = buffer.rows - 1
    if not _all_zero(buffer, RowRange(link, link + 1, buffer.rows)):
        return True
    try:
        terminals = previous.terminal_rows(link)
        if len(terminals) and terminals[-1] >= link - PADDING:
            return True  # the row is padding
        return bool(buffer.frames(link, link + 1).any())
    except ReplayFormatError:
        return False  # the damage is named when the rows are read


def _find_cursor(buffer: LogBuffer, previous: LogBuffer) -> int:
    """Return the cursor of a file without ``add_count``: before the rows of the file before it, or zeros, at its end.

    Fewer than `_MIN_OLD_ROWS` of them do not count. The cursor then stands on the last slot, as in full files.
    """
    slots = RowRange(0, buffer.rows - 1, buffer.rows)
    played, changed = np.zeros(len(slots), dtype=bool), np.zeros(len(slots), dtype=bool)
    try:
        for element in _COLUMNS:
            column = slots.of(buffer.column(element))
            played |= column != 0
            changed |= column != slots.of(previous.column(element))
    except ReplayFormatError:
        return len(slots)  # the damage is named when the rows are read
    cursor = min(len(slots) - int(np.argmax(flags[::-1])) if flags.any() else 0 for flags in (played, changed))
    return cursor if cursor <= len(slots) - _MIN_OLD_ROWS else len(slots)
