"""Cut the rows of a Dopamine log into whole episodes.

All selection methods use this module, except ``original``, which cuts the rows at terminals as the paper's code does
(`replay_data.selection.paper_draw`).

In the rows of a log, in the order they were played, an episode is three rows of padding (zeros) followed by its steps.
It ends in one of two ways:

- **Terminated**: in a row whose terminal is set.
- **Truncated** by a time limit: in a row whose terminal is not set. The padding of the next episode follows.

The first rows may belong to an episode that began before them. Its rows are dropped.

**Logs that this project recorded.** The sidecar beside each buffer lists every episode that ends in it. The list
decides, and the frames play no part. The rows are checked against it: every terminal row must end a listed episode, an
episode must have the listed number of steps, and its padding must be zeros.

**Other logs**, and buffers without a sidecar in such logs. Terminals are certain. Every other end must be found by the
padding after it, but a step can look like padding: a black frame, action 0, reward 0, no terminal, and RAM of zeros if
the log has RAM. Such a row is *blank* here. The three rows after an end are padding for certain, and blank rows after
them are steps. Any other run of three blank rows or more is padding, or a game that fades to black while the player
does nothing, or both. These rules decide:

1. An episode that reaches 27,000 steps in the run ends there. This is the time limit of Dopamine's runner
   (``max_steps_per_episode`` in its ``run_experiment.py``), and the only end of this kind that is certain.
2. A run of exactly three rows is padding: the episode before it was truncated.
3. In a longer run, an episode ends where it reaches the log's own time limit, if one is known: the number of steps of
   the longest episode so far without uncertain runs among its steps, if that one was truncated.
4. A run that is as long as one at the certain beginning of an episode, earlier in these rows or at row 0 of the log, is
   padding too, and the black frames with which the game begins.
5. Any other run is a part of the episode.

A run that rules 2 to 5 decide is uncertain. So is a run of seven rows or more at the beginning of an episode, because a
truncated episode of black frames may hide in it, and a beginning at the first row that only blank rows show. Each
episode holds the number of uncertain runs at its beginning, among its steps and at its end
(`replay_data.episode.Episode.num_uncertain_ends`). A run counts only when the row after it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode
from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import MAX_EPISODE_ROWS, PADDING
from replay_data.sources.dopamine_rows import Rows

DOPAMINE_TIME_LIMIT = 27_000  # steps


class EpisodeSplitter:
    """Cuts rows into whole episodes; rows are added in the order they were played.

    The *pending* rows are those added since the end of the last episode: the beginning of the next one.

    Args:
        at_start: Whether the first row is the first padding row of an episode. If None, the first rows
            decide: they start an episode if exactly three of them are blank, or as many as in ``first_runs``.
        first_runs: Numbers of blank rows with which episodes of the log began for certain.

    Attributes:
        first_row: Number of rows added before the pending ones, that is, the position of the next episode's first
            padding row.
    """

    def __init__(self, at_start: bool | None, first_runs: Iterable[int] = ()) -> None:
        self.first_row = 0
        self._at_start = at_start
        self._pending: list[Rows] = []
        self._certain_start = at_start is not None  # whether `_at_start` is not guessed from blank rows
        self._guessed_start = False  # whether only blank rows show that the first row starts an episode
        self._is_end = np.zeros(0, dtype=bool)  # of each pending row: whether it is known to end an episode
        self._settled = np.zeros(0, dtype=bool)  # whether it is known to end one or known to end none
        self._blank = np.zeros(0, dtype=bool)
        self._max_steps = 0  # of the episodes so far that are certainly not several
        self._time_limit: int | None = None  # `_max_steps`, if an episode of that length was truncated
        self._first_runs = {PADDING, *first_runs}  # numbers of blank rows that are taken for an episode's beginning

    def add(self, rows: Rows) -> Iterator[tuple[int, Episode]]:
        """Add rows and yield each whole episode that ends in them, with the `first_row` of its padding.

        Raises:
            ReplayFormatError: If an episode does not begin with padding, has another number of steps than the sidecar
                lists, or does not end within 108,000 rows.
        """
        self._append(rows)
        if self._at_start is None:
            if self._blank.all() and len(self._blank) <= max(self._first_runs):
                return
            self._at_start = self._guessed_start = count_leading(self._blank) in self._first_runs
        while (found := self._find_end()) is not None:
            end, num_uncertain = found
            first_row, whole, certain_start = self.first_row, self._at_start, self._certain_start
            self._at_start, self._certain_start = True, bool(self._is_end[end - 1])
            episode_rows = self._take(end)
            if whole and (certain_start or end > PADDING):
                num_uncertain += self._guessed_start and first_row == 0 and not certain_start
                episode = _make_episode(episode_rows, num_uncertain, certain_start)
                self._learn_time_limit(episode)
                yield first_row, episode
        if len(self._blank) > MAX_EPISODE_ROWS:
            raise ReplayFormatError(
                f"{rows.path}, row {rows.first_row}: no episode has ended for {MAX_EPISODE_ROWS:,} rows; the log is "
                "damaged or of another format"
            )

    def _append(self, rows: Rows) -> None:
        """Append pending rows, and note what is known about the ends among all of them."""
        num_pending = len(self._blank)
        self._pending.append(rows)
        self._is_end = np.concatenate([self._is_end, rows.terminals | (rows.episode_steps > 0)])
        self._settled = np.concatenate([self._settled, rows.terminals | (rows.episode_steps >= 0)])
        self._blank = np.concatenate([self._blank, blank_rows(rows)])
        # The sidecar of a buffer also tells where its first episode began, perhaps in a buffer without a sidecar.
        for row in np.flatnonzero(rows.episode_steps > 0)[:1].tolist():
            end = num_pending + row + 1
            start = end - PADDING - int(rows.episode_steps[row])
            if start == 0:
                self._at_start = self._certain_start = True
            if start > 0 and not self._settled[start - 1]:
                self._is_end[start - 1] = self._settled[start - 1] = True
            self._settled[max(start, 0) : end] = True

    def _find_end(self) -> tuple[int, int] | None:
        """Find the end of the first pending episode.

        Returns:
            The number of pending rows that belong to the episode, and how many runs of blank rows in and after them are
            uncertain; None if the episode has not ended.
        """
        ends = np.flatnonzero(self._is_end)
        known_end = int(ends[0]) + 1 if len(ends) else None
        num_uncertain = 0
        first_step = PADDING if self._at_start else 0
        if self._at_start and self._certain_start and not self._blank.all():
            self._first_runs.add(count_leading(self._blank))
        for start, stop in _find_runs(self._blank[:known_end], first_step):
            if self._reaches(DOPAMINE_TIME_LIMIT, start, stop):
                return first_step + DOPAMINE_TIME_LIMIT, num_uncertain
            if start == first_step:  # the first steps of the episode
                num_uncertain += stop - start > PADDING and not self._settled[start]
                continue
            if self._settled[start - 1]:  # no end for certain
                continue
            num_uncertain += 1
            if self._time_limit is not None and self._reaches(self._time_limit, start, stop):
                return first_step + self._time_limit, num_uncertain
            if stop - start in self._first_runs:
                return start, num_uncertain
        return None if known_end is None else (known_end, num_uncertain)

    def _reaches(self, steps: int, start: int, stop: int) -> bool:
        """Return whether the first pending episode can end after ``steps`` steps, before blank rows ``start:stop``."""
        end = PADDING + steps
        return bool(self._at_start) and start <= end <= stop - PADDING and not self._settled[end - 1]

    def _learn_time_limit(self, episode: Episode) -> None:
        steps, truncated = len(episode), not episode.terminated
        if episode.num_uncertain_ends > truncated:
            return  # it may be several episodes
        if steps > self._max_steps or (steps == self._max_steps and truncated):
            self._max_steps, self._time_limit = steps, steps if truncated else None

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
        self._is_end, self._settled, self._blank = self._is_end[count:], self._settled[count:], self._blank[count:]
        self.first_row += count
        return Rows.concatenate(pieces)


def _make_episode(rows: Rows, num_uncertain: int, certain_start: bool) -> Episode:
    """Return the episode in rows that run from its first padding row to its last step."""
    padding, steps = rows[:PADDING], rows[PADDING:]
    if not len(steps) or padding.frames.any() or padding.actions.any() or padding.rewards.any():
        raise ReplayFormatError(
            f"{rows.path}, row {rows.first_row}: an episode should begin with three rows of zeros and a step; "
            "the log is damaged or of another format"
        )
    if padding.ram is not None and padding.ram.any():
        raise ReplayFormatError(
            f"{rows.path}, row {rows.first_row}: the RAM of the padding before an episode is not zeros, so the file "
            "of the buffer's RAM belongs to other rows; copy it again, or remove it and go without RAM"
        )
    listed = int(steps.episode_steps[-1])
    if listed > len(steps) and not certain_start:
        num_uncertain += 1  # the rows before, of a buffer without a sidecar, were cut in the wrong place
    elif listed > 0 and listed != len(steps):
        raise ReplayFormatError(
            f"{rows.path}, row {rows.first_row}: an episode of {len(steps)} steps begins here, but the sidecar of the "
            f"buffer that it ends in lists {listed} steps; copy the log again"
        )
    raw_rewards = None if np.isnan(steps.raw_rewards).any() else steps.raw_rewards
    terminated = bool(steps.terminals[-1])
    return Episode(steps.frames, steps.actions, steps.rewards, raw_rewards, terminated, num_uncertain, steps.ram)


def count_leading(flags: npt.NDArray[np.bool_]) -> int:
    """Return how many of the flags, from the first on, are true."""
    return len(flags) if flags.all() else int(np.argmin(flags))


def blank_rows(rows: Rows) -> npt.NDArray[np.bool_]:
    """Return which rows could be padding, bool ``[T]``."""
    blank = (rows.actions == 0) & (rows.rewards == 0) & ~rows.terminals
    if rows.ram is not None:
        blank &= ~rows.ram.any(axis=1)
    blank[blank] = ~rows.frames[blank].any(axis=(1, 2))  # of few rows, because frames are large
    return blank


def _find_runs(blank: npt.NDArray[np.bool_], first: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the exclusive end of each run of three blank rows or more from row ``first`` on.

    A run that reaches the end of the rows is left out.
    """
    edges = np.flatnonzero(np.diff(blank[first:].astype(np.int8), prepend=0)) + first
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=False):  # an open run has no stop
        if stop - start >= PADDING:
            yield start, stop
