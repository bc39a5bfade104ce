"""Write episodes to a replay log in a background thread, and a checkpoint whenever buffers are complete."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from atari_dt.collection.recorder_checkpoint import LOGS_DIRECTORY, RecorderCheckpoint
from atari_dt.collection.rollout import FinishedEpisode
from replay_data.recording import Recording
from replay_data.sources.dopamine_format import NUM_BUFFERS, PADDING
from replay_data.sources.dopamine_writer import DopamineLogWriter

_MAX_PENDING_TASKS = 4  # so that a slow disk slows the player down instead of filling the memory


class BufferWriter:
    """Appends episodes to the log of a recording in a background thread; a context manager.

    A checkpoint is written when buffers are complete, before they are published. Leaving the ``with`` block drops the
    buffer that is not complete: a resumed recording plays its episodes again.

    Args:
        directory: Directory of the recording, ``{out}/{Game}/{run}``.
        rows: R, rows of a buffer.
        recording: Agent, settings and versions of the recording, copied into every sidecar.
        checkpoint: The checkpoint to continue from.

    Attributes:
        add_count: Rows added to the log, written or still pending.
        busy_seconds: Seconds that the thread has worked.
    """

    def __init__(self, directory: Path, rows: int, recording: Recording, checkpoint: RecorderCheckpoint):
        self.add_count, self.busy_seconds = checkpoint.add_count, 0.0
        self._directory, self._rows = directory, rows
        self._log = DopamineLogWriter(
            directory / LOGS_DIRECTORY,
            rows,
            recording=recording,
            num_buffers=NUM_BUFFERS,
            hold=True,
            num_complete=checkpoint.num_complete,
            add_count=checkpoint.add_count,
        )
        self._thread = ThreadPoolExecutor(1)
        self._tasks: deque[Future[None]] = deque()
        self._num_complete, self._failed = checkpoint.num_complete, False
        self._submit(checkpoint.episodes, checkpoint.num_steps_played, None)  # they complete no further buffer

    def __enter__(self) -> BufferWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._log.abandon()

    def add(
        self, episodes: Sequence[FinishedEpisode], num_steps_played: int, player_state: Callable[[], bytes]
    ) -> bool:
        """Add episodes; return whether they complete the last buffer of the log.

        Args:
            episodes: Episodes in the order of the log.
            num_steps_played: Steps played so far, of all environments together.
            player_state: Function that returns the player's state; called only if the episodes complete a buffer.
        """
        num_rows = self.add_count + _count_rows(episodes)
        num_complete = min((num_rows + 1) // self._rows, NUM_BUFFERS)
        snapshot = player_state() if num_complete > self._num_complete else None
        self._num_complete = num_complete
        self._submit(episodes, num_steps_played, snapshot)
        while len(self._tasks) > _MAX_PENDING_TASKS or (self._tasks and self._tasks[0].done()):
            self._tasks.popleft().result()
        return num_complete == NUM_BUFFERS

    def finish(self) -> None:
        """Wait until everything is written."""
        while self._tasks:
            self._tasks.popleft().result()

    def _submit(self, episodes: Sequence[FinishedEpisode], num_steps_played: int, snapshot: bytes | None) -> None:
        self.add_count += _count_rows(episodes)
        if episodes:
            self._tasks.append(self._thread.submit(self._write, episodes, num_steps_played, snapshot))

    def _write(self, episodes: Sequence[FinishedEpisode], num_steps_played: int, snapshot: bytes | None) -> None:
        """Append episodes; publish the buffers that they complete, if there is a snapshot. Runs in the thread."""
        if self._failed:  # the log lacks the episodes of an earlier task
            return
        self._failed, start_time = True, time.perf_counter()
        start_rows = []
        for compressed, details in episodes:
            start_rows.append(self._log.add_count)
            episode = compressed.unpack()
            self._log.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                terminated=episode.terminated,
                raw_rewards=episode.raw_rewards,
                details=details,
                ram=episode.ram,
            )
        if snapshot is not None:
            self._publish(episodes, start_rows, num_steps_played, snapshot)
        self._failed = False
        self.busy_seconds += time.perf_counter() - start_time

    def _publish(
        self, episodes: Sequence[FinishedEpisode], start_rows: Sequence[int], num_steps_played: int, snapshot: bytes
    ) -> None:
        """Write a checkpoint, and publish the complete buffers.

        Args:
            episodes: The episodes that completed them. All earlier ones are in the complete buffers to their ends.
            start_rows: Rows in the log before each of these episodes.
            num_steps_played: As in `add`.
            snapshot: The player's state.
        """
        num_complete = self._log.num_complete
        end_row = num_complete * self._rows - 1
        fits = [
            start + PADDING + len(episode) <= end_row for start, (episode, _) in zip(start_rows, episodes, strict=True)
        ]
        first_left = len(episodes) if num_complete == NUM_BUFFERS else sum(fits)
        checkpoint = RecorderCheckpoint(
            num_complete=num_complete,
            add_count=[*start_rows, self._log.add_count][first_left],
            episodes=episodes[first_left:],
            num_steps_played=num_steps_played,
            stage=self._log.stage.name if self._log.stage else None,
            player_state=snapshot,
        )
        self._log.publish(lambda: checkpoint.write(self._directory))
        checkpoint.remove_older(self._directory)


def _count_rows(episodes: Sequence[FinishedEpisode]) -> int:
    return sum(PADDING + len(episode) for episode, _ in episodes)
