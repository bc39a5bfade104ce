"""Measure how long it takes to build a store from a replay log, and compare with the original code's loader."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_tools import check_original, measure_in_new_process

from atari_dt.command_line import run
from replay_data import InputError, TrajectoryStore
from replay_data.progress import ProgressBar
from replay_data.sources.dopamine_format import NUM_BUFFERS
from replay_data.sources.dopamine_writer import DopamineLogWriter
from replay_data.storage.gzip_streams import open_gzip

# Modules that the loader imports but does not use (the emulator, image libraries) may be missing.
ORIGINAL = """
import importlib, sys, types, unittest.mock
sys.path.insert(0, sys.argv[1])
for name in ("atari_py", "blosc", "cv2", "PIL"):
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = unittest.mock.MagicMock()
import numpy
from create_dataset import create_dataset
from mingpt.utils import set_seed
set_seed(123)
_, actions, _, done_idxs, rtg, timesteps = create_dataset(50, int(sys.argv[3]), "Breakout", sys.argv[2] + "/", 10)
numpy.savez(sys.argv[4], actions=actions, done_idxs=done_idxs, rtg=rtg, timesteps=timesteps)
"""

OPEN_LAST_BUFFER = """
import pathlib
from replay_data.sources.dopamine_reader import DopamineLog
buffer, result = DopamineLog(pathlib.Path(sys.argv[1]), "Breakout", 1, 4).shards[49], 0
"""

READ_FIRST_STEPS = """
for episode in buffer.episodes():
    result += len(episode)
    if result >= int(sys.argv[2]):
        break
"""

# In a process of its own, because the peak of a child includes its parent's memory when it was forked.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status)
"""


def main(
    num_steps: int = 500_000,
    rows: int = 100_000,
    original: Path | None = None,
    original_python: Path = Path(sys.executable),
) -> None:
    """Write a log of 50 buffers to a temporary directory, build stores from it, and measure (Linux only).

    The log repeats a few episodes of scripted Breakout, so it compresses like a real one.

    Args:
        num_steps: Number of steps to select.
        rows: Number of rows of a buffer: 1,000,000 in the public data; the original code needs at least 100,000.
        original: Checkout of github.com/kzl/decision-transformer, whose loader reads the same log.
        original_python: Python interpreter with its dependencies (dopamine-rl, tensorflow, torch).
    """
    check_original(original, "create_dataset.py")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        write_log(scratch / "Breakout" / "1" / "replay_logs", rows)
        size = sum(file.stat().st_size for file in (scratch / "Breakout" / "1" / "replay_logs").iterdir())
        print(f"log         {NUM_BUFFERS} buffers of {rows:,} rows, {size / 1e9:.2f} GB on disk")
        script = Path(__file__).parents[1] / "build_dataset.py"
        options = ["--source", "dopamine", "--path", directory, "--num-steps", str(num_steps)]
        seconds, peak = {}, {}
        for method in ("corrected", "original"):
            command = [sys.executable, str(script), *options, "--selection", method, "--out", str(scratch / method)]
            seconds[method], peak[method] = measure(method, command)
        frames = scratch / "Breakout" / "1" / "replay_logs" / "$store$_observation_ckpt.49.gz"
        print(f"gunzip      {speed(open_gzip, frames):.1f} GB/s of frames, zlib {speed(gzip.open, frames):.1f} GB/s")
        for steps in (10_000, rows):
            result = measure_in_new_process(OPEN_LAST_BUFFER, READ_FIRST_STEPS, directory, str(steps))
            num_read, read_seconds, read_peak = result
            memory = f"peak {read_peak / 2**20:.0f} MB"
            print(f"read        {num_read:,} steps of one buffer in {read_seconds:.2f} s, {memory}")
        if original is None:
            return
        arguments = [str(original / "atari"), directory, str(num_steps), str(scratch / "original.npz")]
        command = [str(original_python), "-c", ORIGINAL, *arguments]
        original_seconds, original_peak = measure("their loader", command)
        for method in seconds:
            speedup, memory_ratio = original_seconds / seconds[method], original_peak / peak[method]
            print(f"{method:11s} {speedup:.1f} times faster than their loader, 1/{memory_ratio:.1f} of the memory")
        store = TrajectoryStore.open(scratch / "original")
        with np.load(scratch / "original.npz") as arrays:
            pairs: dict[str, tuple[Any, Any]] = {
                "actions": (store.actions, arrays["actions"]),
                "done_idxs": (store.episode_ends, arrays["done_idxs"]),
                "rtg": (store.returns_to_go, arrays["rtg"]),
                "timesteps": (store.timesteps, arrays["timesteps"][:-1]),
            }
            for name, (array, original_array) in pairs.items():
                print(f"{name:11s} {'equal' if np.array_equal(array, original_array) else 'DIFFERENT'}")


def write_log(path: Path, rows: int) -> None:
    """Write 50 buffers that repeat eight episodes of scripted Breakout in random order."""
    from atari_dt.collection.scripted import play_episode
    from atari_dt.environment.config import EnvironmentConfig
    from atari_dt.games.catalogue import find_game

    game, config, rng = find_game("Breakout"), EnvironmentConfig(), np.random.default_rng(0)
    episodes = [play_episode(game, config, skill, seed) for seed, skill in enumerate(np.linspace(0.2, 1, 8))]
    total = NUM_BUFFERS * rows
    start = time.perf_counter()
    with (
        DopamineLogWriter(path, rows) as writer,
        ProgressBar(total=total, unit="row", unit_scale=True, desc="log") as bar,
    ):
        while True:
            episode = episodes[rng.integers(len(episodes))]
            if writer.add_count + len(episode) + 3 >= total:
                break
            previous_count = writer.add_count
            writer.append(episode.frames, episode.actions, episode.rewards, terminated=episode.terminated)
            bar.update(writer.add_count - previous_count)
    print(f"write log   {total / (time.perf_counter() - start):,.0f} rows/s")


def speed(open_file: Callable[[Path], Any], path: Path) -> float:
    """Return the speed of decompression, in GB/s of uncompressed bytes."""
    block, size, start = bytearray(1 << 23), 0, time.perf_counter()
    with open_file(path) as file:
        while num_bytes := file.readinto(block):
            size += num_bytes
    return size / (time.perf_counter() - start) / 1e9


def measure(name: str, command: list[str]) -> tuple[float, float]:
    """Run a command; print and return its wall time in seconds and its peak of resident memory in bytes."""
    result = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True)
    if result.returncode:
        raise InputError(f"{name} ended with status {result.returncode}: {result.stderr[-600:]}")
    seconds, peak = map(float, result.stdout.split()[-2:])
    print(f"{name:11s} {seconds:.1f} s, peak {peak / 1e9:.2f} GB")
    return seconds, peak


if __name__ == "__main__":
    run(main)
