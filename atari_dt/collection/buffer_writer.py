"""Write episodes and checkpoints in a background thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from atari_dt.collection.recorder_checkpoint import LOGS_DIRECTORY, RecorderCheckpoint
from atari_dt.collection.rollout import CompressedEpisode
from replay_data.recording import Recording
from replay_data.sources.dopamine_format import NUM_BUFFERS, PADDING
from replay_data.sources.dopamine_writer import DopamineLogWriter


class BufferWriter:
    """Writes episodes to the log, and a checkpoint whenever buffers are complete, in a thread of its own.

    Attributes:
        add_count: rows added to the log, written or not.
        seconds: for which the thread has worked.
    """

    def __init__(self, directory: Path, rows: int, recording: Recording, checkpoint: RecorderCheckpoint):
        self.add_count, self.seconds = checkpoint.add_count, 0.0
        self._directory, self._rows = directory, rows
        self._log = DopamineLogWriter(
            directory / LOGS_DIRECTORY,
            rows,
            recording=recording,
            num_buffers=NUM_BUFFERS,
            hold=True,
            whole=checkpoint.whole,
            add_count=checkpoint.add_count,
        )
        self._thread = ThreadPoolExecutor(1)
        self._tasks: deque[Future[None]] = deque()
        self._complete, self._failed = checkpoint.whole, False
        self._submit(checkpoint.episodes, checkpoint.played, None)  # with which no buffer is complete yet

    def __enter__(self) -> BufferWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._log.abandon()  # what was not completed is played again by whoever resumes

    def add(
        self, episodes: Sequence[tuple[CompressedEpisode, Mapping[str, float]]], played: int, state: Callable[[], bytes]
    ) -> bool:
        """Add episodes; return whether all buffers are complete with them.

        Args:
            episodes: with what the JSON file says of them.
            played: steps that were played, in all games.
            state: the player's, asked for when a buffer is complete.
        """
        rows = self.add_count + sum(PADDING + len(episode) for episode, _ in episodes)
        complete = min((rows + 1) // self._rows, NUM_BUFFERS)
        snapshot = state() if complete > self._complete else None
        self._complete = complete
        self._submit(episodes, played, snapshot)
        while len(self._tasks) > 4 or (self._tasks and self._tasks[0].done()):
            self._tasks.popleft().result()
        return complete == NUM_BUFFERS

    def _submit(
        self, episodes: Sequence[tuple[CompressedEpisode, Mapping[str, float]]], played: int, snapshot: bytes | None
    ) -> None:
        self.add_count += sum(PADDING + len(episode) for episode, _ in episodes)
        if episodes:
            self._tasks.append(self._thread.submit(self._write, episodes, played, snapshot))

    def finish(self) -> None:
        """Wait until everything is written."""
        while self._tasks:
            self._tasks.popleft().result()

    def _write(
        self, episodes: Sequence[tuple[CompressedEpisode, Mapping[str, float]]], played: int, snapshot: bytes | None
    ) -> None:
        if self._failed:  # an episode is missing already
            return
        self._failed, start = True, time.perf_counter()
        starts = []
        for packed, details in episodes:
            starts.append(self._log.add_count)
            episode = packed.unpack()
            self._log.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                terminated=episode.terminated,
                raw_rewards=episode.raw_rewards,
                details=details,
            )
        if snapshot is not None:
            self._show_buffers(episodes, starts, played, snapshot)
        self._failed = False
        self.seconds += time.perf_counter() - start

    def _show_buffers(
        self,
        episodes: Sequence[tuple[CompressedEpisode, Mapping[str, float]]],
        starts: Sequence[int],
        played: int,
        snapshot: bytes,
    ) -> None:
        whole = self._log.num_complete
        # Buffers are complete since one of these episodes; those before that one are in them to their end.
        end = whole * self._rows - 1
        fits = [start + PADDING + len(episode) <= end for start, (episode, _) in zip(starts, episodes, strict=True)]
        first = len(episodes) if whole == NUM_BUFFERS else sum(fits)
        checkpoint = RecorderCheckpoint(
            whole=whole,
            add_count=[*starts, self._log.add_count][first],
            episodes=episodes[first:],
            played=played,
            stage=self._log.stage.name if self._log.stage else None,
            player=snapshot,
        )
        self._log.publish(lambda: checkpoint.write(self._directory))
        checkpoint.remove_older(self._directory)
