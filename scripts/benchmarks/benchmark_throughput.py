"""Measure what an update of the network costs, beside the original code's on the same contexts in the same run."""

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
EPISODE = 1000


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
    """Time whole updates (contexts gathered, forward, backward, clipping, optimizer) of the paper's network.

    Every contestant has its turn in each round; times are medians over the rounds, and a ratio is the median of the
    rounds' ratios, so that a busy machine is unjust to none.

    Args:
        batch_size: Contexts in an update.
        context_length: K.
        num_steps: Steps of the random data; the original keeps 28 KB of memory for each.
        updates: In a round.
        rounds: Of all contestants.
        device: Where to.
        compile: As in train.py.
        original: A checkout of github.com/kzl/decision-transformer, whose network, optimizer settings, dataset class
            and DataLoader are timed in float32.
        json_file: File for the figures.
    """
    if original is not None and not (original / "atari" / "run_dt_atari.py").is_file():
        raise InputError(f"{original} is no checkout of the original code: it has no atari/run_dt_atari.py")
    if min(batch_size, context_length, updates, rounds) < 1 or num_steps < max(batch_size, 4 * context_length):
        raise InputError("all sizes must be at least 1, and num_steps hold a batch and four contexts")
    if json_file:
        check_writable(json_file)
    where = find_device(device)
    model_config, config = ModelConfig(context_length=context_length), TrainingConfig(compile=compile)
    with tempfile.TemporaryDirectory() as directory:
        store = random_store(Path(directory) / "store", num_steps)
        sizes = store.path, model_config, batch_size, where
        begin: dict[str, Callable[[], Iterator[None]]] = {
            name: partial(project, *sizes, config, dtype) for name, dtype in DTYPES.items()
        }
        if original is not None:
            begin["original"] = partial(the_original, *sizes, original / "atari")
        with ExitStack() as stack:
            contestants = {name: stack.enter_context(Contestant(updates, where)) for name, updates in begin.items()}
            seconds: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(rounds):
                for name, contestant in contestants.items():
                    seconds[name].append(contestant.update(updates))
            memory = {name: contestant.memory() for name, contestant in contestants.items()}
        flops = flops_per_context(model_config, store.num_actions)
        peaks = {name: matmul_peak(where, dtype) for name, dtype in DTYPES.items()}
        figures: dict[str, dict[str, Any]] = {}
        for name in contestants:
            typical = statistics.median(seconds[name])
            figures[name] = {
                "contexts_per_s": batch_size / typical,
                "states_per_s": batch_size * context_length / typical,
                "seconds_per_update": typical,
                "mfu": flops * batch_size / typical / peaks["fp32" if name == "original" else name],
                "memory_bytes": memory[name],
                "seconds_for_the_papers_epochs": 5 * 500_000 / batch_size * typical,
            }
        for name, dtype in DTYPES.items():
            figures[name]["parts_s"] = parts(*sizes, dtype)
    report(figures, peaks, flops, batch_size)
    result: dict[str, Any] = {
        "batch_size": batch_size,
        "context_length": context_length,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matmul_peak_flops": peaks,
        "flops_per_context": flops,
        "project": {name: figures[name] for name in DTYPES},
    }
    if original is not None:
        result["original"] = figures["original"]
        result["ratio"] = {}
        for name in DTYPES:
            pairs = zip(seconds["original"], seconds[name], strict=True)
            ratios = sorted(theirs / ours for theirs, ours in pairs)
            result["ratio"][name] = statistics.median(ratios)
            print(f"{name}: {statistics.median(ratios):.2f} times faster ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    if json_file:
        atomic_write(json_file, json.dumps(result, indent=2) + "\n")


class Contestant:
    """A process of its own that makes updates when it is told to; it has its memory, and its settings, to itself."""

    def __init__(self, begin: Callable[[], Iterator[None]], device: torch.device):
        context = multiprocessing.get_context("spawn")
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(begin, device, self._theirs), daemon=True)

    def __enter__(self) -> "Contestant":
        with ignore_signals():  # by the process, which inherits it; the parent ends it
            self._process.start()
        self._theirs.close()  # so that its death can be heard
        try:
            self._ask(6)  # warms up
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def update(self, updates: int) -> float:
        """Make some updates; return the seconds that one took."""
        return self._ask(updates) / updates

    def memory(self) -> float:
        """Bytes at most in use: on the GPU, or by the whole process."""
        return self._ask(0)

    def _ask(self, updates: int) -> float:
        try:
            self._connection.send(updates)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise InputError("a process ended before its time; see its own message, or lower --batch-size") from error
        if isinstance(answer, InputError):
            raise answer
        return float(answer)


def serve(begin: Callable[[], Iterator[None]], device: torch.device, connection: Connection) -> None:
    """Answer a `Contestant`: to a number of updates with the seconds they took, to 0 with the bytes of memory."""
    updates = begin()
    while True:
        number = connection.recv()
        if not number:
            connection.send(peak_memory(device))
            continue
        try:
            start = time.perf_counter()
            with translate_out_of_memory(device, "--batch-size or --context-length"):
                for _ in range(number):
                    next(updates)
                synchronize(device)
            connection.send(time.perf_counter() - start)
        except InputError as error:
            connection.send(error)


def peak_memory(device: torch.device) -> int:
    """Bytes at most in use until now: on the GPU, or by this process (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def random_store(path: Path, num_steps: int) -> TrajectoryStore:
    """Write a store of noise, in episodes of `EPISODE` steps."""
    lengths = [min(EPISODE, num_steps - start) for start in range(0, num_steps, EPISODE)]
    return write_random_store(path, lengths, largest_reward=1)


def project(
    data: Path,
    model_config: ModelConfig,
    batch_size: int,
    device: torch.device,
    config: TrainingConfig,
    dtype: torch.dtype,
) -> Iterator[None]:
    """Updates of this project, as scripts/train.py makes them."""
    store = TrajectoryStore.open(data)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    compute = dataclasses.replace(set_up_compute(str(device), "auto", config.compile), dtype=dtype)
    learner = Learner(model, config, compute, ProcessGroup())
    loader = ContextLoader(store, model_config.context_length, device)
    order = ContextSampler(np.arange(len(store) // batch_size * batch_size), batch_size, seed=0)
    for batch in loader.batches(map(order.batch, range(sys.maxsize))):
        learner.update(batch, config.learning_rate)
        yield


def the_original(
    data: Path, model_config: ModelConfig, batch_size: int, device: torch.device, code: Path
) -> Iterator[None]:
    """Updates of the original code: its network, dataset class and optimizer settings, put together as by its trainer.

    Its training script cannot be imported, since that would run it; the dataset class is taken from its source.
    """
    store = TrajectoryStore.open(data)
    sys.path.insert(0, str(code))
    from mingpt.model_atari import GPT, GPTConfig  # type: ignore[import-not-found]

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
    network = GPT(
        GPTConfig(
            dataset.vocab_size,
            dataset.block_size,
            n_layer=6,
            n_head=8,
            n_embd=128,
            model_type="reward_conditioned",
            max_timestep=max(dataset.timesteps),
        )
    ).to(device)
    settings = SimpleNamespace(learning_rate=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    optimizer = network.configure_optimizers(settings)
    network.train()
    cuda = device.type == "cuda"
    while True:
        # Its own settings; on a machine without a GPU its four workers would only take the cores from the network.
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


def parts(
    data: Path, model_config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Seconds of an update's parts, one after another and without `torch.compile`: the smallest of five each."""
    keep_freed_memory()
    store = TrajectoryStore.open(data)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    optimizer = make_optimizer(model, TrainingConfig())
    loader = ContextLoader(store, model_config.context_length, device)
    seconds: dict[str, list[float]] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    rng = np.random.default_rng(0)
    for _ in range(6):
        with timed("gather"):
            batch = loader.batch(rng.integers(len(store), size=batch_size))
        with timed("encoder, forward"), autocast(device, dtype):
            tokens = model.encode_states(batch.states)
        leaf = tokens.detach().requires_grad_()
        context = leaf, batch.actions, batch.returns_to_go, batch.timesteps, batch.attention_mask
        with timed("transformer, forward"), autocast(device, dtype):
            loss = model.predict(*context, targets=batch.actions).loss
        assert loss is not None
        with timed("transformer, backward"):
            loss.backward()
        with timed("encoder, backward"):
            tokens.backward(leaf.grad)
        with timed("clip and optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad()
    return {name: min(values[1:]) for name, values in seconds.items()}


def report(figures: dict[str, Any], peaks: dict[str, float], flops: int, batch_size: int) -> None:
    """Print a table."""
    print(", ".join(f"{name} matmul peak {peak / 1e9:,.0f} GFLOP/s" for name, peak in peaks.items()))
    floor = ", ".join(f"{name} {flops * batch_size / peak:.3f} s" for name, peak in peaks.items())
    print(f"an update is {flops * batch_size / 1e9:,.0f} GFLOP; at the peak: {floor}")
    print(f"{'':10}{'contexts/s':>12}{'states/s':>12}{'s/update':>10}{'MFU':>7}{'memory':>10}{'5 epochs':>12}")
    for name, values in figures.items():
        print(
            f"{name:10}{values['contexts_per_s']:>12,.1f}{values['states_per_s']:>12,.0f}"
            f"{values['seconds_per_update']:>10.4f}{values['mfu']:>7.0%}{values['memory_bytes'] / 1e9:>7.2f} GB"
            f"{values['seconds_for_the_papers_epochs']:>10,.0f} s"
        )
    for name in DTYPES:
        shares = ", ".join(f"{part} {1000 * seconds:.1f}" for part, seconds in figures[name]["parts_s"].items())
        print(f"{name} in ms: {shares}")


if __name__ == "__main__":
    run(main)
