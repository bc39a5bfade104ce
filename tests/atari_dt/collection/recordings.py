"""Recordings of a player without an emulator, and how to read them back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from atari_dt.collection.recorder import record
from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode, Player, Rollout
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.games.catalogue import find_game
from replay_data.episode import Episode
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_sidecar import BufferSidecar
from tests.replay_data.recordings import random_episode

BREAKOUT = find_game("Breakout")

ROWS = 40  # of a buffer


def numbered_episode(index: int) -> Episode:
    """Return a random episode: shorter or longer than a buffer, terminated or truncated."""
    rng = np.random.default_rng(index)
    return random_episode(rng, int(rng.choice([1, 5, 30, 38, 150])), terminated=bool(rng.random() < 0.7))


class NumberedEpisodes:
    """A player of the episodes 0, 1, 2, …; its rollouts hold none, one or several."""

    def __init__(self) -> None:
        self.index = 0

    def play(self) -> Generator[Rollout, None, None]:
        while True:
            indices = range(self.index, self.index + self.index % 4) or range(self.index, self.index + 1)
            self.index = indices.stop
            yield Rollout([], 1, {})
            episodes = [
                FinishedEpisode(CompressedEpisode.pack(numbered_episode(index)), {"index": index}) for index in indices
            ]
            yield Rollout(episodes, len(episodes), {"loss": 0.5})

    def state(self) -> bytes:
        return str(self.index).encode()

    def restore(self, state: bytes) -> None:
        self.index = int(state)


def record_breakout(
    out: Path, make_player: Callable[[], Player] = NumberedEpisodes, **options: Any
) -> list[BufferSidecar]:
    """Record a player, by default `NumberedEpisodes`, without a progress bar."""
    defaults: dict[str, Any] = {
        "agent": "numbered",
        "num_steps": 50 * ROWS,
        "seed": 0,
        "settings": {},
        "environment": EnvironmentConfig(),
        "show_progress": False,
    }
    return record(BREAKOUT, make_player, out, **{**defaults, **options})


def read_episodes(out: Path) -> list[Episode]:
    log = DopamineLog(out, "Breakout", 1, 4)
    return [episode for buffer in log.shards.values() for episode in buffer.episodes()]


def log_files(out: Path) -> dict[str, bytes]:
    """Return the content of every file of the log, by name."""
    directory = out / "Breakout" / "1" / "replay_logs"
    return {file.name: file.read_bytes() for file in directory.iterdir()}
