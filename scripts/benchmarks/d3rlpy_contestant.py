"""d3rlpy's side of `benchmark_value_methods`. It runs in an environment of d3rlpy, without this project.

The process answers requests: each line of its input is a number of updates, and each line of its output the seconds
that they took. The first line of its output holds the versions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import d3rlpy  # type: ignore[import-not-found]
import numpy as np
import torch


def serve(data: str, num_actions: int, method: str, batch_size: int, device: str, threads: int) -> None:
    """Make updates on request.

    Args:
        data: Trajectory store.
        num_actions: Size of the action set.
        method: ``qrdqn`` or ``cql``.
        batch_size: Transitions per update.
        device: Device of the network.
        threads: Number of threads of PyTorch.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # d3rlpy logs to the standard output
    torch.set_num_threads(threads)
    buffer = load_episodes(Path(data))
    algorithm = make_algorithm(method, batch_size, device)
    algorithm.create_impl((4, 84, 84), num_actions)
    print(json.dumps({"d3rlpy": d3rlpy.__version__, "torch": torch.__version__}), file=answers)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            algorithm.update(buffer.sample_transition_batch(batch_size))
        print(time.perf_counter() - start, file=answers)  # reading the losses, `update` waited for the device


def load_episodes(data: Path) -> Any:
    """Return d3rlpy's replay buffer with the episodes of a store; states are views of the memory-mapped frames."""
    names = ("frames", "frame_index", "actions", "rewards", "episode_ends", "terminated")
    arrays = {name: np.load(data / f"{name}.npy", mmap_mode="r") for name in names}
    episodes, start = [], 0
    for end, terminated in zip(arrays["episode_ends"].tolist(), arrays["terminated"].tolist(), strict=True):
        first, last = arrays["frame_index"][[start, end - 1]].tolist()
        stacks = np.lib.stride_tricks.sliding_window_view(arrays["frames"][first - 3 : last + 1], 4, axis=0)
        steps = slice(start, end)
        episodes.append(
            d3rlpy.dataset.Episode(
                np.moveaxis(stacks, -1, 1), arrays["actions"][steps, None], arrays["rewards"][steps, None], terminated
            )
        )
        start = end
    return d3rlpy.dataset.create_infinite_replay_buffer(episodes)


def make_algorithm(method: str, batch_size: int, device: str) -> Any:
    """Return d3rlpy's algorithm with the settings of its scripts for Atari, reproductions/offline."""
    settings = {
        "batch_size": batch_size,
        "learning_rate": 5e-5,
        "optim_factory": d3rlpy.optimizers.AdamFactory(eps=1e-2 / 32),
        "q_func_factory": d3rlpy.models.QRQFunctionFactory(n_quantiles=200),
        "observation_scaler": d3rlpy.preprocessing.PixelObservationScaler(),
        "reward_scaler": d3rlpy.preprocessing.ClipRewardScaler(-1.0, 1.0),
        "target_update_interval": 2000,
    }
    if method == "cql":
        config = d3rlpy.algos.DiscreteCQLConfig(alpha=4.0, **settings)
    else:
        config = d3rlpy.algos.DQNConfig(**settings)
    return config.create(device=device)
