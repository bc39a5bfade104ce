"""Measure what an update of the network costs, beside the original code's on the same contexts in the same run."""

import ast
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader, Dataset

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.devices import enough_memory, find_device, matmul_peak, synchronize
from atari_dt.experiments.report import check_writable
from atari_dt.model import DecisionTransformer
from atari_dt.training import ContextLoader, ContextOrder
from atari_dt.training.distributed import Ranks
from atari_dt.training.learner import Learner, autocast, flops_per_context
from atari_dt.training.optimizer import make_optimizer
from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.files import write_whole

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
EPISODE = 1000


def main(
    batch_size: int = 64,
    context_length: int = 30,
    num_steps: int = 4000,
    updates: int = 5,
    rounds: int = 5,
    device: str = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    original: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Time whole updates (contexts gathered, forward, backward, clipping, optimiser) of the paper's network.

    Every contestant has its turn in each round, and the median round counts, so that a busy machine is unjust to none.

    Args:
        batch_size: Contexts in an update.
        context_length: K.
        num_steps: Steps of the random data; the original keeps 28 KB of memory for each.
        updates: In a round.
        rounds: Of all contestants.
        device: Where to.
        compile: As in train.py.
        original: A checkout of github.com/kzl/decision-transformer, whose network, optimiser settings, dataset class
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
    with tempfile.TemporaryDirectory() as directory, enough_memory(where, "--batch-size or --context-length"):
        store = random_store(Path(directory) / "store", num_steps)
        flops = flops_per_context(model_config, store.num_actions)
        contestants = {}
        for name, dtype in DTYPES.items():
            contestants[name] = Contestant(partial(project, store, model_config, config, batch_size, where, dtype))
        if original is not None:
            contestants["original"] = Contestant(
                partial(the_original, original / "atari", store, context_length, batch_size, where)
            )
        peaks = {name: matmul_peak(where, dtype) for name, dtype in DTYPES.items()}
        for _ in range(rounds):
            for contestant in contestants.values():
                contestant.round(updates, where)
        figures: dict[str, dict[str, Any]] = {}
        for name, contestant in contestants.items():
            seconds = statistics.median(contestant.seconds)
            peak = peaks["fp32" if name == "original" else name]
            figures[name] = {
                "contexts_per_s": batch_size / seconds,
                "states_per_s": batch_size * context_length / seconds,
                "seconds_per_update": seconds,
                "mfu": flops * batch_size / seconds / peak,
                "memory_bytes": contestant.memory,
                "seconds_for_the_papers_epochs": 5 * 500_000 / batch_size * seconds,
            }
        for name in DTYPES:
            figures[name]["parts_s"] = parts(store, model_config, batch_size, where, DTYPES[name])
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
        theirs = figures["original"]
        result["original"] = theirs
        result["ratio"] = {name: figures[name]["contexts_per_s"] / theirs["contexts_per_s"] for name in DTYPES}
        print("against the original:", ", ".join(f"{name} {ratio:.2f}×" for name, ratio in result["ratio"].items()))
    if json_file:
        write_whole(json_file, json.dumps(result, indent=2) + "\n")


class Contestant:
    """Something that is updated, and what that cost: seconds of each round's updates, bytes of memory."""

    def __init__(self, begin: Callable[[], Iterator[None]]):
        self.seconds: list[float] = []
        self.memory = 0.0
        self._begin = begin
        self._updates: Iterator[None] | None = None

    def round(self, updates: int, device: torch.device) -> None:
        """Make some updates; in the first round some more beforehand, to warm up and to see the memory they need."""
        if self._updates is None:
            before = memory(device, reset=True)
            self._updates = self._begin()
            for _ in range(3):
                next(self._updates)
            synchronize(device)
            self.memory = memory(device) - before
        start = time.perf_counter()
        for _ in range(updates):
            next(self._updates)
        synchronize(device)
        self.seconds.append((time.perf_counter() - start) / updates)


def random_store(path: Path, num_steps: int) -> TrajectoryStore:
    """Write episodes of random frames."""
    rng = np.random.default_rng(0)
    with StoreWriter(
        path,
        game="Breakout",
        action_meanings=["NOOP", "FIRE", "RIGHT", "LEFT"],
        reward_clipping=True,
        sticky_actions=None,
        source={"kind": "benchmark"},
    ) as writer:
        while writer.steps < num_steps:
            length = min(EPISODE, num_steps - writer.steps)
            frames = rng.integers(0, 256, (length, 84, 84), dtype=np.uint8)
            rewards = rng.integers(0, 2, length).astype(np.float32)
            writer.append(frames, rng.integers(0, 4, length), rewards, rewards)
    return TrajectoryStore.open(path)


def project(
    store: TrajectoryStore,
    model_config: ModelConfig,
    config: TrainingConfig,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[None]:
    """Updates of this project, as scripts/train.py makes them."""
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    learner = Learner(model, config, dtype, Ranks())
    loader = ContextLoader(store, model_config.context_length, device)
    order = ContextOrder(np.arange(len(store) // batch_size * batch_size), batch_size, seed=0)
    for batch in loader.batches(map(order.batch, range(sys.maxsize))):
        learner.update(batch, config.learning_rate)
        yield


def the_original(
    code: Path, store: TrajectoryStore, context_length: int, batch_size: int, device: torch.device
) -> Iterator[None]:
    """Updates of the original code: its network, dataset class and optimiser settings, put together as by its trainer.

    Its training script cannot be imported, since that would run it; the dataset class is taken from its source.
    """
    sys.path.insert(0, str(code))
    from mingpt.model_atari import GPT, GPTConfig  # type: ignore[import-not-found]

    script = ast.parse((code / "run_dt_atari.py").read_text())
    names: dict[str, Any] = {"Dataset": Dataset, "np": np, "torch": torch}
    body: list[ast.stmt] = [node for node in script.body if isinstance(node, ast.ClassDef)]
    exec(compile(ast.Module(body, type_ignores=[]), "run_dt_atari.py", "exec"), names)
    dataset = names["StateActionReturnDataset"](
        [store.stacked(n) for n in range(len(store))],
        3 * context_length,
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
    store: TrajectoryStore, model_config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Seconds of an update's parts, one after another and without `torch.compile`: the smallest of five each."""
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
        with timed("clip and optimiser"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad()
    return {name: min(values[1:]) for name, values in seconds.items()}


def memory(device: torch.device, reset: bool = False) -> float:
    """Bytes at most in use since the last reset: on the GPU, or resident ones of this process (Linux)."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.max_memory_allocated(device))
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak is not None
    return 1024.0 * int(peak[1])


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
