"""Train in child processes that start fast: they are forked from a server that has imported PyTorch."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atari_dt.batches.loader import BatchLoader
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.method_config import MethodConfig
from atari_dt.training import TrainingStopped, distributed, loop, metrics, train
from atari_dt.training.distributed import PEER_TIMEOUT
from replay_data import InputError, TrajectoryStore
from tests.atari_dt.q_networks import use_small_layers

SCRIPTS = Path(__file__).parents[3] / "scripts"

SMALL = ModelConfig(context_length=3, num_layers=1, num_heads=2, embed_dim=16, dropout=0.0)
DROPOUT = ModelConfig(context_length=3, num_layers=1, num_heads=2, embed_dim=16, dropout=0.2)

INPUT_ERROR, STOPPED = 3, 4
"""Exit statuses of `train_as_rank`."""

# PyTorch refuses to compute gradients in a fork of a process that has computed some, such as the test process. The
# server never computes any.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch._dynamo", "torch.utils.tensorboard", __name__])


def start(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Call a function in a child process."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def join(processes: list[ForkServerProcess]) -> list[int | None]:
    """Wait until processes end, kill those that hang, and return the exit statuses."""
    for process in processes:
        process.join(timeout=300)
        process.kill()
    return [process.exitcode for process in processes]


def _prepare() -> None:
    """Use one thread and small Q-networks, and skip the measurements behind ``mfu``.

    They would take longer than these runs train.
    """
    torch.set_num_threads(1)
    use_small_layers()
    loop.flops_per_window = lambda *_: 1  # type: ignore[attr-defined]
    metrics.matmul_peak = lambda *_: 1.0  # type: ignore[attr-defined]


def train_in_child(data: Path, out: Path, model_config: MethodConfig, config: TrainingConfig) -> None:
    """Train, or resume a run, in this child process."""
    _prepare()
    train(TrajectoryStore.open(data), out, model_config, config, resume=True, show_progress=False)


def redirect_output(output: Path) -> None:
    """Write what this process prints to ``output.out`` and ``output.err``."""
    for stream, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), stream)


def run_script(name: str, arguments: list[str], output: Path, prepare: Callable[[], None] | None = None) -> None:
    """Call ``prepare``, then run a command in this child process, which prints to ``output.out`` and ``output.err``."""
    redirect_output(output)
    if prepare is not None:
        prepare()
    sys.argv = [name, *arguments]
    sys.path.insert(0, str((SCRIPTS / name).parent))
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def free_port() -> int:
    """Return a port at which processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def join_group(rank: int, port: int) -> None:
    """Make this process one of two that train together, as ``torchrun`` does."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def start_group(
    store: TrajectoryStore,
    out: Path,
    config: TrainingConfig | list[TrainingConfig],
    model_config: MethodConfig = SMALL,
    peer_timeout: timedelta = PEER_TIMEOUT,
) -> list[ForkServerProcess]:
    """Start two processes that train together, as ``torchrun`` does; each may have its own config."""
    port = free_port()
    configs = config if isinstance(config, list) else [config, config]
    return [
        start(train_as_rank, rank, port, store.path, out, configs[rank], model_config, peer_timeout)
        for rank in range(2)
    ]


def train_as_rank(
    rank: int,
    port: int,
    data: Path,
    out: Path,
    config: TrainingConfig,
    model_config: MethodConfig,
    peer_timeout: timedelta,
) -> None:
    """Train as one of two processes; write the steps of each batch to ``OUT.RANK.npz``, or an error to ``….error``."""
    _prepare()
    distributed.PEER_TIMEOUT = peer_timeout
    join_group(rank, port)
    sampled: list[np.ndarray] = []
    batch = BatchLoader.batch

    def record(self: BatchLoader[Any], steps: np.ndarray) -> object:
        sampled.append(steps)
        return batch(self, steps)

    BatchLoader.batch = record  # type: ignore[method-assign, assignment]
    try:
        train(TrajectoryStore.open(data), out, model_config, config, resume=True, show_progress=False)
    except InputError as error:
        out.with_name(f"{out.name}.{rank}.error").write_text(str(error))
        sys.exit(INPUT_ERROR)
    except TrainingStopped:
        sys.exit(STOPPED)
    np.savez(out.with_name(f"{out.name}.{rank}.npz"), *sampled)
