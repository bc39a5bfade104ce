"""The processes that `benchmark_throughput` measures, and what they do."""

from __future__ import annotations

import ast
import dataclasses
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from benchmark_tools import original_network
from torch.utils.data import DataLoader, Dataset

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.hardware import (
    autocast,
    keep_freed_memory,
    set_up_compute,
    synchronize,
    translate_out_of_memory,
)
from atari_dt.model import DecisionTransformer
from atari_dt.training import BatchSampler, ContextLoader
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from atari_dt.training.optimizer import make_optimizer
from replay_data import InputError, TrajectoryStore
from replay_data.storage.processes import defer_signals

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
WARM_UP_UPDATES = 6


class Contestant:
    """Makes updates on request, in a process with its own memory and its own settings of PyTorch.

    Args:
        make_updates: Function that returns an iterator; each of its steps makes an update.
        device: Device of the network.
    """

    def __init__(self, make_updates: Callable[[], Iterator[None]], device: torch.device):
        context = multiprocessing.get_context("spawn")
        self._connection, self._child_connection = context.Pipe()
        arguments = make_updates, device, self._child_connection
        self._process = context.Process(target=serve, args=arguments)  # a daemon could not have the original's workers

    def __enter__(self) -> Contestant:
        with defer_signals():  # the process never hears them; this one ends it
            self._process.start()
        self._child_connection.close()  # lets `recv` fail when the process dies
        try:
            self._request(WARM_UP_UPDATES)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def update(self, updates: int) -> float:
        """Make some updates and return the seconds per update."""
        return self._request(updates) / updates

    def memory(self) -> float:
        """Return the peak of memory in bytes: of the GPU, or of the whole process."""
        return self._request(0)

    def _request(self, updates: int) -> float:
        try:
            self._connection.send(updates)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise InputError("a process died; see its message above, or lower `batch_size`") from error
        if isinstance(answer, InputError):
            raise answer
        return float(answer)


def serve(make_updates: Callable[[], Iterator[None]], device: torch.device, connection: Connection) -> None:
    """Answer the requests of a `Contestant`: make updates and send their seconds, or at 0 send the peak of memory."""
    updates = make_updates()
    while True:
        num_updates = connection.recv()
        if not num_updates:
            connection.send(peak_memory(device))
            continue
        try:
            start = time.perf_counter()
            with translate_out_of_memory(device, "`batch_size` or `context_length`"):
                for _ in range(num_updates):
                    next(updates)
                synchronize(device)
            connection.send(time.perf_counter() - start)
        except InputError as error:
            connection.send(error)


def peak_memory(device: torch.device) -> int:
    """Return the peak of memory so far in bytes: of the GPU, or of this process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def project_updates(
    data: Path,
    model_config: ModelConfig,
    batch_size: int,
    device: torch.device,
    config: TrainingConfig,
    dtype: torch.dtype,
) -> Iterator[None]:
    """Make an update of this project at each step of the iterator, as scripts/train.py does."""
    store = TrajectoryStore.open(data)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    compute = dataclasses.replace(set_up_compute(str(device), "auto", config.compile), dtype=dtype)
    learner = Learner(model, config, compute, ProcessGroup())
    loader = ContextLoader(store, model_config.context_length, device)
    sampler = BatchSampler(np.arange(len(store) // batch_size * batch_size), batch_size, seed=0)
    for update, batch in enumerate(loader.batches(map(sampler.batch, range(sys.maxsize)))):
        learner.update(batch, update, config.learning_rate)
        yield


def original_updates(
    data: Path, model_config: ModelConfig, batch_size: int, device: torch.device, code: Path
) -> Iterator[None]:
    """Make an update of the original code at each step of the iterator.

    Network, dataset class, DataLoader and optimizer settings are combined as in its trainer. The dataset class is
    extracted from the source of the training script, since importing the script would run it.
    """
    store = TrajectoryStore.open(data)
    script = ast.parse((code / "run_dt_atari.py").read_text())
    names: dict[str, Any] = {"Dataset": Dataset, "np": np, "torch": torch}
    body: list[ast.stmt] = [node for node in script.body if isinstance(node, ast.ClassDef)]
    exec(compile(ast.Module(body, type_ignores=[]), "run_dt_atari.py", "exec"), names)
    dataset = names["StateActionReturnDataset"](
        [store.state(n) for n in range(len(store))],
        3 * model_config.context_length,
        store.actions.tolist(),
        store.episode_ends.tolist(),
        store.returns_to_go.tolist(),
        store.timesteps.tolist(),
    )
    network = original_network(code, dataset.vocab_size, dataset.block_size, max(dataset.timesteps)).to(device)
    config = SimpleNamespace(learning_rate=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer = network.configure_optimizers(config)
    network.train()
    cuda = device.type == "cuda"
    while True:
        # The original settings, except on a CPU, where the four workers would take the cores from the network.
        loader = DataLoader(
            dataset,
            shuffle=True,
            pin_memory=cuda,
            batch_size=batch_size,
            num_workers=4 if cuda else 0,
            multiprocessing_context="fork" if cuda else None,  # its class, which `exec` made, cannot be pickled
            drop_last=True,
        )
        for batch in loader:
            states, actions, returns_to_go, timesteps = (tensor.to(device) for tensor in batch)
            _, loss = network(states, actions, actions, returns_to_go, timesteps)
            loss = loss.mean()
            loss.item()
            network.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            yield


def time_parts(
    data: Path, model_config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Return the seconds of each part of an update without `torch.compile`, the minimum of five measurements."""
    keep_freed_memory()
    store = TrajectoryStore.open(data)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    optimizer = make_optimizer(model, TrainingConfig())
    loader = ContextLoader(store, model_config.context_length, device)
    seconds: dict[str, list[float]] = {}

    @contextmanager
    def timed_part(name: str) -> Iterator[None]:
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    rng = np.random.default_rng(0)
    for _ in range(6):
        with timed_part("gather"):
            batch = loader.batch(rng.integers(len(store), size=batch_size))
        with timed_part("encoder, forward"), autocast(device, dtype):
            tokens = model.encode_states(batch.states)
        leaf = tokens.detach().requires_grad_()
        context = leaf, batch.actions, batch.returns_to_go, batch.timesteps, batch.attention_mask
        with timed_part("transformer, forward"), autocast(device, dtype):
            loss = model.predict(*context, targets=batch.actions).loss
        assert loss is not None
        with timed_part("transformer, backward"):
            loss.backward()
        with timed_part("encoder, backward"):
            tokens.backward(leaf.grad)
        with timed_part("clip and optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad()
    return {name: min(values[1:]) for name, values in seconds.items()}
