"""Measure what a store of some size costs: to write, to open, to verify, and to cut contexts from."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from atari_dt.command_line import run
from atari_dt.training import ContextLoader
from replay_data import StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource

OPEN = """
import re, sys, time
from replay_data.store_metadata import StoreSource
from replay_data import TrajectoryStore
start = time.perf_counter()
store = TrajectoryStore.open(sys.argv[1])
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(f"open        {seconds:.3f} s, {peak / 1024:.0f} MB resident at most (the interpreter and NumPy included)")
"""


def main(num_steps: int = 500_000, episode_length: int = 1000, context_length: int = 30, batch_size: int = 128) -> None:
    """Write a store of random frames to a temporary directory, and measure (Linux only).

    Args:
        num_steps: Steps of the store; 7 KB of disk each.
        episode_length: Steps of an episode.
        context_length: K of the contexts.
        batch_size: Contexts gathered at once.
    """
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (episode_length, 84, 84), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        start = time.perf_counter()
        with StoreWriter(
            path,
            game="Breakout",
            action_meanings=["NOOP", "FIRE", "RIGHT", "LEFT"],
            reward_clipping=True,
            sticky_actions=None,
            source=StoreSource("random"),
        ) as writer:
            while writer.steps < num_steps:
                raw = rng.integers(0, 2, episode_length).astype(np.float32)
                writer.append(frames, rng.integers(0, 4, episode_length), raw, raw, terminated=True)
        seconds = time.perf_counter() - start
        speed = num_steps * frames[0].nbytes / seconds / 1e6
        print(f"write       {writer.steps:,} steps in {seconds:.1f} s, {speed:.0f} MB/s")
        subprocess.run([sys.executable, "-c", OPEN, str(path)], check=True)
        store = TrajectoryStore.open(path)
        start = time.perf_counter()
        store.verify()
        print(f"verify      {time.perf_counter() - start:.2f} s")
        loader = ContextLoader(store, context_length, torch.device("cpu"))
        batches = 200
        start = time.perf_counter()
        for _ in range(batches):
            loader.batch(rng.integers(len(store), size=batch_size))
        seconds = time.perf_counter() - start
        print(f"gather      {batches * batch_size / seconds:,.0f} contexts/s of {context_length} steps on the CPU")


if __name__ == "__main__":
    run(main)
