"""Split the rows of a Dopamine log into episodes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode
from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_files import Rows
from replay_data.sources.dopamine_format import MAX_EPISODE_ROWS, PADDING


class EpisodeSplitter:
    """Cuts rows, given in the order they were played, into episodes.

    Attributes:
        first_row: how many rows had been given before the episode that is open began, its padding included.
    """

    def __init__(self, begun: bool | None) -> None:
        self.first_row = 0
        self._begun = begun  # whether the open rows start with an episode's padding; None: not known yet
        self._open: list[Rows] = []
        self._terminal = np.zeros(0, dtype=bool)  # of the open rows
        self._blank = np.zeros(0, dtype=bool)  # the open rows that could be padding

    def add(self, rows: Rows) -> Iterator[tuple[int, Episode]]:
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

    def _take(self, end: int) -> Rows:
        taken: list[Rows] = []
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
        return Rows(
            np.concatenate([rows.frames for rows in taken]),
            np.concatenate([rows.actions for rows in taken]),
            np.concatenate([rows.rewards for rows in taken]),
            np.concatenate([rows.raw_rewards for rows in taken]),
            np.concatenate([rows.terminals for rows in taken]),
            taken[0].path,
            taken[0].first_row,
        )

    @staticmethod
    def _episode(rows: Rows) -> Episode:
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
