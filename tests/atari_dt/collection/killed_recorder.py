"""Record, and be killed again and again while writing.

Every session resumes the one before it and dies by SIGKILL at a random rename, fsync or removal, until one completes
the recording. After each session, the log must consist of complete buffers and at most one buffer whose frames are
missing.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter  # noqa: F401 (imported once here, not in every session)

from tests.atari_dt.collection.recordings import record_breakout
from tests.atari_dt.training.processes import redirect_output

FILES_PER_BUFFER = 7


def die_at(operation: int) -> None:
    """Let this process kill itself instead of performing its k-th rename, fsync or removal; fsync does nothing else."""
    remaining = operation

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    # A killed process, unlike a power cut, loses nothing that it has written: there is no need to wait for the disk.
    setattr(os, "fsync", deadly(lambda descriptor: None))  # noqa: B010


def published_files(out: Path) -> list[str]:
    """Return the names of the files that readers of the log see."""
    return [path.name for path in out.glob("Breakout/1/replay_logs/*_ckpt.*")]


def buffer_index(name: str) -> str:
    return name.rsplit("_ckpt.")[1].split(".")[0]


def record_all(out: Path, seeds: list[str], output: Path) -> None:
    """Make the recording of each seed in ``out/SEED``, and print the numbers of sessions to ``output.out``.

    The process that calls this runs no threads, so that it can fork.
    """
    redirect_output(output)
    for seed in seeds:
        print(record_in_sessions(out / seed, int(seed)))


def record_in_sessions(out: Path, seed: int) -> int:
    """Record in sessions until one completes the recording; return their number."""
    rng = random.Random(seed)
    for session in range(1, 1000):
        operation = rng.randrange(200)
        child = os.fork()
        if not child:
            die_at(operation)
            record_breakout(out, resume=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return session
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        names = published_files(out)
        num_files = Counter(map(buffer_index, names))
        with_frames = {buffer_index(name) for name in names if "observation" in name}
        assert all(num_files[index] == FILES_PER_BUFFER for index in with_frames), num_files
        assert len(num_files) <= len(with_frames) + 1, num_files
    raise AssertionError("no session completed the recording")
