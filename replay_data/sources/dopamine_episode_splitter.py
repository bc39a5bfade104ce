"""Cut the rows of a Dopamine log into whole episodes.

All selection methods use this module, except ``original``, which cuts the rows at terminals as the paper's code does
(`replay_data.selection.paper_draw`).

In the rows of a log, in the order they were played, an episode is three rows of padding (zeros) followed by its steps.
It ends in one of two ways:

- **Terminated**: after a row whose terminal is set.
- **Truncated** by a time limit: before padding that does not follow a terminal row.

A step can look like padding: a black frame, action 0, reward 0, no terminal. Such a row is *blank* here. Blank rows
count as the padding of a new episode only in runs of exactly three; a game that fades to black shows more. A run counts
only when the row after it is known.

The first rows may belong to an episode that began before them. Its rows are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode
from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import MAX_EPISODE_ROWS, PADDING
from replay_data.sources.dopamine_rows import Rows


class EpisodeSplitter:
    """Cuts rows into whole episodes; rows are added in the order they were played.

    The *pending* rows are those added since the end of the last episode: the beginning of the next one.

    Args:
        at_start: Whether the first row is the first padding row of an episode. If None, the first rows
            decide: they start an episode if exactly three of them are blank.

    Attributes:
        first_row: Number of rows added before the pending ones, that is, the position of the next episode's first
            padding row.
    """

    def __init__(self, at_start: bool | None) -> None:
        self.first_row = 0
        self._at_start = at_start
        self._pending: list[Rows] = []
        self._terminal = np.zeros(0, dtype=bool)  # of each pending row
        self._blank = np.zeros(0, dtype=bool)

    def add(self, rows: Rows) -> Iterator[tuple[int, Episode]]:
        """Add rows and yield each whole episode that ends in them, with the `first_row` of its padding.

        Raises:
            ReplayFormatError: If an episode does not begin with padding, or does not end within 108,000 rows.
        """
        self._pending.append(rows)
        self._terminal = np.concatenate([self._terminal, rows.terminals])
        self._blank = np.concatenate([self._blank, _blank_rows(rows)])
        if self._at_start is None:
            if len(self._blank) <= PADDING:
                return
            self._at_start = 0 in _padding_starts(self._blank)
        while (end := self._find_end()) is not None:
            first_row, whole = self.first_row, self._at_start
            episode_rows = self._take(end)
            self._at_start = True
            if whole:
                yield first_row, _make_episode(episode_rows)
        if len(self._blank) > MAX_EPISODE_ROWS:
            raise ReplayFormatError(
                f"{rows.path}, row {rows.first_row}: no episode has ended for {MAX_EPISODE_ROWS:,} rows; the log is "
                "damaged or of another format"
            )

    def _find_end(self) -> int | None:
        """Return the number of pending rows that belong to the first pending episode; None if it has not ended."""
        terminals = np.flatnonzero(self._terminal)
        terminated = int(terminals[0]) + 1 if len(terminals) else None
        starts = _padding_starts(self._blank[:terminated])
        truncated = starts[starts > (PADDING if self._at_start else 0)]  # the episode's own padding ends nothing
        return int(truncated[0]) if len(truncated) else terminated

    def _take(self, count: int) -> Rows:
        """Remove and return the first ``count`` pending rows."""
        pieces: list[Rows] = []
        missing = count
        while missing:
            rows = self._pending.pop(0)
            if len(rows) > missing:
                self._pending.insert(0, rows[missing:])
                rows = rows[:missing]
            pieces.append(rows)
            missing -= len(rows)
        self._terminal, self._blank = self._terminal[count:], self._blank[count:]
        self.first_row += count
        return Rows.concatenate(pieces)


def _make_episode(rows: Rows) -> Episode:
    """Return the episode in rows that run from its first padding row to its last step."""
    padding, steps = rows[:PADDING], rows[PADDING:]
    if not len(steps) or padding.frames.any() or padding.actions.any() or padding.rewards.any():
        raise ReplayFormatError(
            f"{rows.path}, row {rows.first_row}: an episode should begin with three rows of zeros and a step; "
            "the log is damaged or of another format"
        )
    raw_rewards = None if np.isnan(steps.raw_rewards).any() else steps.raw_rewards
    return Episode(steps.frames, steps.actions, steps.rewards, raw_rewards, terminated=bool(steps.terminals[-1]))


def _blank_rows(rows: Rows) -> npt.NDArray[np.bool_]:
    """Return which rows could be padding, bool ``[T]``."""
    blank = (rows.actions == 0) & (rows.rewards == 0) & ~rows.terminals
    blank[blank] = ~rows.frames[blank].any(axis=(1, 2))  # of few rows, because frames are large
    return blank


def _padding_starts(blank: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return where runs of exactly three blank rows start, int64 ``[P]``; a run that reaches the end does not count."""
    edges = np.flatnonzero(np.diff(blank.astype(np.int8), prepend=0))
    starts, stops = edges[::2], edges[1::2]  # a run that reaches the end has a start and no stop
    starts = starts[: len(stops)]
    return starts[stops - starts == PADDING]
