"""Measure how long it takes to write, open and verify a trajectory store, and to gather contexts from it."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import tempfile
import time
from pathlib import Path

import numpy as np
from benchmark_tools import measure_in_new_process

from atari_dt.command_line import run
from replay_data.testing import write_random_store

NUM_BATCHES = 200


def main(num_steps: int = 500_000, episode_length: int = 1000, context_length: int = 30, batch_size: int = 128) -> None:
    """Write a store of random frames to a temporary directory and measure it (Linux only).

    Args:
        num_steps: Number of steps of the store, in whole episodes; each takes 7 KB of disk.
        episode_length: Number of steps of an episode.
        context_length: Number of steps of a context.
        batch_size: Number of contexts gathered at once.
    """
    import torch

    from atari_dt.training import ContextLoader

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        lengths = [episode_length] * -(-num_steps // episode_length)
        start = time.perf_counter()
        store = write_random_store(path, lengths, largest_reward=1, repeat_frames=True)
        seconds = time.perf_counter() - start
        speed = len(store) * store.frames[0].nbytes / seconds / 1e6
        print(f"write       {len(store):,} steps in {seconds:.1f} s, {speed:.0f} MB/s")
        _, seconds, peak = measure_in_new_process(
            "from replay_data import TrajectoryStore", "result = len(TrajectoryStore.open(sys.argv[1]))", str(path)
        )
        print(f"open        {seconds:.3f} s, peak {peak / 2**20:.0f} MB resident, Python and NumPy included")
        start = time.perf_counter()
        store.verify()
        print(f"verify      {time.perf_counter() - start:.2f} s")
        rng = np.random.default_rng(0)
        loader = ContextLoader(store, context_length, torch.device("cpu"))
        start = time.perf_counter()
        for _ in range(NUM_BATCHES):
            loader.batch(rng.integers(len(store), size=batch_size))
        seconds = time.perf_counter() - start
        print(f"gather      {NUM_BATCHES * batch_size / seconds:,.0f} contexts/s of {context_length} steps on the CPU")


if __name__ == "__main__":
    run(main)
