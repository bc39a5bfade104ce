"""Measure the time and memory of updates of the network, and of the original code's updates on the same contexts."""

import ast
import dataclasses
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from benchmark_tools import check_original, describe_machine, median_and_range, original_network
from torch.utils.data import DataLoader, Dataset

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.hardware import (
    autocast,
    find_device,
    keep_freed_memory,
    matmul_peak,
    set_up_compute,
    synchronize,
    translate_out_of_memory,
)
from atari_dt.model import DecisionTransformer
from atari_dt.training import ContextLoader, ContextSampler
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner, flops_per_context
from atari_dt.training.optimizer import make_optimizer
from replay_data import InputError, TrajectoryStore
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable
from replay_data.storage.processes import ignore_signals
from replay_data.testing import write_random_store

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
EPISODE_LENGTH = 1000
WARM_UP_UPDATES = 6


def main(
    batch_size: int = 64,
    context_length: int = 30,
    num_steps: int = 4000,
    updates: int = 3,
    rounds: int = 8,
    device: str = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    original: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Time whole updates (gathering contexts, forward, backward, clipping, optimizer) of the paper's network.

    Every round measures every contestant once. Times are medians over the rounds. A ratio is the median of the ratios
    of the rounds, so a machine that is busy for a while affects all contestants alike.

    Args:
        batch_size: Number of contexts in an update.
        context_length: Number of steps of a context.
        num_steps: Number of steps of the random data; the original code keeps 28 KB of memory for each.
        updates: Number of updates of each contestant in a round.
        rounds: Number of rounds.
        device: Device of the network.
        compile: Whether to compile the network, as in train.py.
        original: Checkout of github.com/kzl/decision-transformer, whose network, optimizer settings, dataset class and
            DataLoader are timed in float32.
        json_file: File to write the figures to.
    """
    check_original(original, "run_dt_atari.py")
    if min(batch_size, context_length, updates, rounds) < 1:
        raise InputError("all sizes must be at least 1")
    if num_steps < max(batch_size, 4 * context_length):
        raise InputError("`num_steps` must be at least one batch and at least four contexts")
    if json_file:
        check_writable(json_file)
    torch_device = find_device(device)
    model_config, config = ModelConfig(context_length=context_length), TrainingConfig(compile=compile)
    with tempfile.TemporaryDirectory() as directory:
        lengths = [min(EPISODE_LENGTH, num_steps - start) for start in range(0, num_steps, EPISODE_LENGTH)]
        store = write_random_store(Path(directory) / "store", lengths, largest_reward=1)
        arguments = store.path, model_config, batch_size, torch_device
        functions: dict[str, Callable[[], Iterator[None]]] = {
            name: partial(project_updates, *arguments, config, dtype) for name, dtype in DTYPES.items()
        }
        if original is not None:
            functions["original"] = partial(original_updates, *arguments, original / "atari")
        with ExitStack() as stack:
            contestants = {
                name: stack.enter_context(Contestant(make_updates, torch_device))
                for name, make_updates in functions.items()
            }
            seconds: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(rounds):
                for name, contestant in contestants.items():
                    seconds[name].append(contestant.update(updates))
            memory = {name: contestant.memory() for name, contestant in contestants.items()}
        flops = flops_per_context(model_config, store.num_actions)
        peaks = {name: matmul_peak(torch_device, dtype) for name, dtype in DTYPES.items()}
        figures: dict[str, dict[str, Any]] = {}
        for name in contestants:
            median = statistics.median(seconds[name])
            figures[name] = {
                "contexts_per_s": batch_size / median,
                "states_per_s": batch_size * context_length / median,
                "seconds_per_update": median,
                "mfu": flops * batch_size / median / peaks["fp32" if name == "original" else name],
                "memory_bytes": memory[name],
                "seconds_for_the_papers_epochs": 5 * 500_000 / batch_size * median,
            }
        for name, dtype in DTYPES.items():
            figures[name]["parts_s"] = time_parts(*arguments, dtype)
    print_report(figures, peaks, flops, batch_size)
    result: dict[str, Any] = {
        "batch_size": batch_size,
        "context_length": context_length,
        **describe_machine(torch_device),
        "matmul_peak_flops": peaks,
        "flops_per_context": flops,
        "project": {name: figures[name] for name in DTYPES},
    }
    if original is not None:
        result["original"] = figures["original"]
        result["ratio"] = {}
        for name in DTYPES:
            pairs = zip(seconds["original"], seconds[name], strict=True)
            median, low, high = median_and_range(original_s / project_s for original_s, project_s in pairs)
            result["ratio"][name] = median
            print(f"{name}: {median:.2f} times faster than the original code ({low:.2f} to {high:.2f})")
    if json_file:
        atomic_write(json_file, json.dumps(result, indent=2) + "\n")


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
        self._process = context.Process(target=serve, args=arguments, daemon=True)

    def __enter__(self) -> "Contestant":
        with ignore_signals():  # inherited by the process, which the parent ends
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
    sampler = ContextSampler(np.arange(len(store) // batch_size * batch_size), batch_size, seed=0)
    for batch in loader.batches(map(sampler.batch, range(sys.maxsize))):
        learner.update(batch, config.learning_rate)
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
            dataset, shuffle=True, pin_memory=cuda, batch_size=batch_size, num_workers=4 if cuda else 0, drop_last=True
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


def print_report(figures: dict[str, Any], peaks: dict[str, float], flops: int, batch_size: int) -> None:
    """Print the figures as a table."""
    print(", ".join(f"{name} matmul peak {peak / 1e9:,.0f} GFLOP/s" for name, peak in peaks.items()))
    time_at_peak = ", ".join(f"{name} {flops * batch_size / peak:.3f} s" for name, peak in peaks.items())
    print(f"an update takes {flops * batch_size / 1e9:,.0f} GFLOP; time at the peak: {time_at_peak}")
    print(f"{'':10}{'contexts/s':>12}{'states/s':>12}{'s/update':>10}{'MFU':>7}{'memory':>10}{'5 epochs':>12}")
    for name, values in figures.items():
        print(
            f"{name:10}{values['contexts_per_s']:>12,.1f}{values['states_per_s']:>12,.0f}"
            f"{values['seconds_per_update']:>10.4f}{values['mfu']:>7.0%}{values['memory_bytes'] / 1e9:>7.2f} GB"
            f"{values['seconds_for_the_papers_epochs']:>10,.0f} s"
        )
    for name in DTYPES:
        parts = ", ".join(f"{part} {1000 * seconds:.1f}" for part, seconds in figures[name]["parts_s"].items())
        print(f"{name} in ms: {parts}")


if __name__ == "__main__":
    run(main)
