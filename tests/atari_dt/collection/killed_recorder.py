"""Record, and be killed again and again in the middle of writing: ``python killed_recorder.py OUT SEED``.

Every session goes on from the one before and dies by SIGKILL at its k-th rename, fsync or removal, k drawn at random,
until one gets to the end. Each leaves whole buffers, and at most one that does not have its frames yet. Prints how many
sessions there were. No threads run in this process, so that it can fork.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from atari_dt.collection.recorder import record
from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode, Rollout
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.games.catalogue import find_game
from replay_data.episode import Episode
from tests.replay_data.recordings import random_episode

STEPS = 50 * 40
FILES = 7  # of a buffer


def episode(index: int) -> Episode:
    """Short and long ones (a buffer has 40 rows), ended by the game or a time limit."""
    rng = np.random.default_rng(index)
    return random_episode(rng, int(rng.choice([1, 5, 30, 38, 150])), terminated=bool(rng.random() < 0.7))


class NumberedEpisodes:
    """Plays episode 0, 1, 2, …, sometimes several at once, sometimes none."""

    def __init__(self) -> None:
        self.index = 0

    def play(self) -> Generator[Rollout, None, None]:
        while True:
            numbers = range(self.index, self.index + self.index % 4)
            self.index = numbers.stop + (not numbers)
            played = numbers or range(self.index - 1, self.index)
            yield Rollout([], 1, {})
            yield Rollout(
                [FinishedEpisode(CompressedEpisode.pack(episode(i)), {"index": i}) for i in played], len(played), {"loss": 0.5}
            )

    def state(self) -> bytes:
        return str(self.index).encode()

    def restore(self, state: bytes) -> None:
        self.index = int(state)


def play(out: Path) -> None:
    record(
        find_game("Breakout"),
        NumberedEpisodes,
        out,
        agent="numbered",
        num_steps=STEPS,
        environment=EnvironmentConfig(),
        seed=0,
        settings={},
        resume=True,
        show_progress=False,
    )


def killed_at(operation: int) -> None:
    """Let this process die instead of doing its k-th rename, fsync or removal."""
    left = operation

    def deadly(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("rename", "replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))


def names(out: Path) -> list[str]:
    """Files that readers of the log see."""
    return [path.name for path in out.glob("Breakout/1/replay_logs/*_ckpt.*")]


def main(out: Path, seed: int) -> None:
    rng = random.Random(seed)
    for session in range(1, 1000):
        child = os.fork()
        if not child:
            killed_at(rng.randrange(200))
            play(out)
            os._exit(0)
        rng.random()
        _, status = os.waitpid(child, 0)
        if status == 0:
            print(session)
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        shown = Counter(name.rsplit("_ckpt.")[1].split(".")[0] for name in names(out))
        with_frames = {name.rsplit("_ckpt.")[1].split(".")[0] for name in names(out) if "observation" in name}
        assert all(shown[number] == FILES for number in with_frames), shown
        assert len(shown) <= len(with_frames) + 1, shown


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
