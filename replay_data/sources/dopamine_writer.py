"""Write episodes as a Dopamine replay log."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE
from replay_data.errors import InputError
from replay_data.recording import Recording
from replay_data.sources.dopamine_buffer_files import BufferFiles, RowArrays, zero_rows
from replay_data.sources.dopamine_format import (
    CHUNK_ROWS,
    FILE_NAME,
    MAX_BUFFER_ROWS,
    PADDING,
    ROW_ELEMENTS,
    STAGE_PREFIX,
    element_path,
)
from replay_data.sources.dopamine_sidecar import RecordedEpisode
from replay_data.sources.dopamine_stage import move_buffers, sync_buffers
from replay_data.storage.atomic import name_file_in_errors, sync


class DopamineLogWriter:
    """Writes episodes as a log that Dopamine's replay buffer loads; a context manager.

    A buffer is written to a hidden directory, `stage`. It is complete when the next row no longer fits, and is then
    published: all its files move into the log. Leaving the ``with`` block normally completes and publishes the last
    buffer too: its unplayed rows are zeros, and its ``add_count`` does not count them. An exception leaves the buffers
    that were published.

    Args:
        directory: The ``replay_logs`` directory; created if missing.
        rows: R, rows of a buffer, from 5 (a stack of four and one more) to 10,000,000.
        recording: Who plays, and how, for the JSON file beside each buffer; without it there are no such files.
        num_buffers: Maximum number of buffers; rows that do not fit are dropped. None for no limit.
        hold: Keep complete buffers in `stage` until `publish` is called.
        num_complete: Number of complete buffers of an existing log that is continued.
        add_count: Number of rows of an existing log before its next episode. Rows of that episode that fall into the
            complete buffers are skipped.

    Attributes:
        directory: The ``replay_logs`` directory.
        rows: R.
        add_count: Number of rows added, padding included.
        stage: Hidden directory in ``directory``; None until the first buffer is begun.

    Raises:
        InputError: If R is too small or too large, or the directory holds a log that is not continued.
    """

    def __init__(
        self,
        directory: Path,
        rows: int,
        *,
        recording: Recording | None = None,
        num_buffers: int | None = None,
        hold: bool = False,
        num_complete: int = 0,
        add_count: int = 0,
    ):
        if not PADDING + 2 <= rows <= MAX_BUFFER_ROWS:
            raise InputError(f"a buffer has at least {PADDING + 2} rows and at most {MAX_BUFFER_ROWS:,}, not {rows:,}")
        self.directory, self.rows, self.add_count = directory, rows, add_count
        if not num_complete and directory.exists() and any(FILE_NAME.fullmatch(f.name) for f in directory.iterdir()):
            raise InputError(f"{directory} holds a replay log already; choose another directory or delete it first")
        self.stage: Path | None = None
        self._recording, self._num_buffers, self._hold = recording, num_buffers, hold
        self._first_index = num_complete  # of the buffers that this writer writes
        # Whether the log has RAM; None until the first episode tells.
        self._ram: bool | None = element_path(directory, "ram", 0).exists() if num_complete else None
        self._link: RowArrays = zero_rows(1, ram=True)
        self._buffer: BufferFiles | None = None
        self._unpublished: list[int] = []  # indices of complete buffers
        self._publishing = False
        self._episodes: list[tuple[int, RecordedEpisode]] = []  # with the index of the incomplete buffer they end in

    def __enter__(self) -> DopamineLogWriter:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._complete_last()
                self.publish()
        finally:
            self.abandon()

    @property
    def num_complete(self) -> int:
        """Number of complete buffers, published or not, those of a continued log included."""
        return (self.add_count + 1) // self.rows

    def append(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        *,
        terminated: bool,
        raw_rewards: npt.NDArray[Any] | None = None,
        details: Mapping[str, float] | None = None,
        ram: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Append one episode of T ≥ 1 steps.

        Args:
            frames: uint8 ``[T, 84, 84]``.
            actions: Integers ``[T]`` from 0 to 17.
            rewards: Numbers ``[T]`` in [-1, 1].
            terminated: Whether the game was over after the last step; false where a time limit truncated the episode.
            raw_rewards: Numbers ``[T]``, the rewards before clipping, for the sidecar; ``rewards`` by default.
            details: Numbers by name that the sidecar lists beside the episode's steps, return and score.
            ram: uint8 ``[T, 128]``, the emulator's RAM when the actions were chosen; for all episodes of a log or for
                none.

        Raises:
            InputError: If the arrays contradict each other; nothing is written then.
        """
        actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=np.float32)
        raw = rewards if raw_rewards is None else np.asarray(raw_rewards, dtype=np.float32)
        _check_episode(frames, actions, rewards, raw, ram)
        if self._ram is None:
            self._ram = ram is not None
        elif self._ram != (ram is not None):
            raise InputError(f"{self.directory}: a replay log has RAM for all episodes or for none")
        steps = len(actions)
        terminals = np.zeros(steps, dtype=np.uint8)
        terminals[-1] = terminated
        end = self.add_count + PADDING + steps
        listed = RecordedEpisode((end - 1) % self.rows, steps, _sum(rewards), _sum(raw), dict(details or {}))
        self._episodes.append((end // self.rows, listed))  # a link row belongs to the file after it
        self._add(zero_rows(PADDING, self._ram))
        rows = {"observation": frames, "action": actions, "reward": rewards, "terminal": terminals, "raw_reward": raw}
        self._add(rows if ram is None else {**rows, "ram": ram})

    def publish(self, commit: Callable[[], None] | None = None) -> None:
        """Move the complete buffers that are held in `stage` into the log.

        Args:
            commit: Function called after the buffers are on the disk and before the first of them moves. From then on
                they are safe, because `recover_log` can finish the move.
        """
        if self.stage is None or not self._unpublished:
            return
        with name_file_in_errors(self.directory, self.directory):
            sync_buffers(self.stage, self._unpublished)
        if commit is not None:
            commit()
        self._publishing = True
        with name_file_in_errors(self.directory, self.directory):
            move_buffers(self.directory, self.stage, self._unpublished)
        self._publishing, self._unpublished = False, []

    def abandon(self) -> None:
        """Drop the incomplete buffer, and the held ones unless `publish` has begun to move them."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None
        if self.stage is not None and not self._publishing:
            shutil.rmtree(self.stage, ignore_errors=True)

    def _add(self, rows: RowArrays) -> None:
        """Add rows to the circular buffer, and complete each buffer that they fill."""
        while count := len(rows["action"]):
            index, cursor = divmod(self.add_count, self.rows)
            if cursor == self.rows - 1:  # the last slot: this row is the link row of the next buffer
                step = 1
                self._link = {element: values[:1].copy() for element, values in rows.items()}
            else:
                if index == self._num_buffers:
                    return
                step = min(count, self.rows - 1 - cursor)
                if index >= self._first_index:
                    if self._buffer is None:
                        self._buffer = self._create_buffer(index)
                    self._buffer.write({element: values[:step] for element, values in rows.items()})
            self.add_count += step
            rows = {element: values[step:] for element, values in rows.items()}
            if self.add_count % self.rows == self.rows - 1 and self._buffer is not None:
                self._complete_buffer()

    def _create_buffer(self, index: int) -> BufferFiles:
        with name_file_in_errors(self.directory, self.directory):
            if self.stage is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self.stage = Path(tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=self.directory))
                sync(self.directory)
            return BufferFiles(self.directory, self.stage, index, self.rows, bool(self._ram))

    def _complete_buffer(self) -> None:
        assert self._buffer is not None
        buffer, self._buffer = self._buffer, None
        episodes = [episode for index, episode in self._episodes if index == buffer.index]
        self._episodes = [(index, episode) for index, episode in self._episodes if index > buffer.index]
        buffer.finish(self._link, self.add_count, self._recording, episodes)
        self._unpublished.append(buffer.index)
        if not self._hold:
            self.publish()

    def _complete_last(self) -> None:
        """Fill the last buffer with zeros and complete it."""
        if self.add_count and self.add_count % self.rows == 0:
            self._add(zero_rows(1, bool(self._ram)))  # a cursor on row 0 would say that all rows are fresh
        if self._buffer is not None:
            missing = self.rows - 1 - self._buffer.written
            for start in range(0, missing, CHUNK_ROWS):
                self._buffer.write(zero_rows(min(CHUNK_ROWS, missing - start), bool(self._ram)))
            self._complete_buffer()


def _check_episode(
    frames: npt.NDArray[np.uint8],
    actions: npt.NDArray[Any],
    rewards: npt.NDArray[np.float32],
    raw_rewards: npt.NDArray[np.float32],
    ram: npt.NDArray[np.uint8] | None,
) -> None:
    """Raise InputError if these are not the arrays of one episode."""
    steps = len(actions)
    if steps == 0 or frames.dtype != np.uint8 or frames.shape != (steps, *FRAME_SHAPE) or rewards.shape != (steps,):
        raise InputError(
            f"{steps} actions need as many uint8 frames [84, 84] and rewards, "
            f"not {frames.dtype} {list(frames.shape)} and {list(rewards.shape)}"
        )
    if not (np.abs(rewards) <= 1).all():
        raise InputError("a replay log holds rewards clipped to [-1, 1]")
    if actions.dtype.kind not in "iu" or actions.shape != (steps,) or not (0 <= actions.min() <= actions.max() < 18):
        raise InputError("a replay log holds integer actions from 0 to 17")
    if raw_rewards.shape != (steps,) or not np.array_equal(raw_rewards.clip(-1, 1), rewards):
        raise InputError("rewards must be the raw rewards clipped to [-1, 1]")
    if ram is not None and (ram.dtype != np.uint8 or ram.shape != (steps, *ROW_ELEMENTS["ram"][1])):
        raise InputError(
            f"{steps} actions need as many rows of RAM, uint8 [{steps}, 128], not {ram.dtype} {list(ram.shape)}"
        )


def _sum(rewards: npt.NDArray[np.float32]) -> float:
    return float(rewards.sum(dtype=np.float64))
