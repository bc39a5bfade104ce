"""Measure the updates/s of QR-DQN, CQL and REM, and of d3rlpy's QR-DQN and CQL on the same store."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
import json
import statistics
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from benchmark_tools import describe_machine, median_and_range

from atari_dt.command_line import run
from atari_dt.method_config import VALUE_TRAINING, default_config
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable

EPISODE_LENGTH = 1000
D3RLPY_METHODS = ("qrdqn", "cql")
"""The methods that d3rlpy has, too."""


def main(
    data: Path | None = None,
    d3rlpy_python: Path | None = None,
    methods: tuple[Literal["qrdqn", "cql", "rem"], ...] = ("qrdqn", "cql", "rem"),
    batch_size: int = 32,
    num_steps: int = 4000,
    updates: int = 20,
    rounds: int = 8,
    device: str = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    precisions: tuple[Literal["bf16", "fp32"], ...] | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Time whole updates: sampling transitions, targets, forward, backward and optimizer.

    All networks are the Nature CNN with 200 outputs per action. d3rlpy samples from its own replay buffer, which holds
    the episodes of the same store, and updates with the settings of its scripts for Atari, in float32. Its states are
    views of the store's frames; stacking frames when sampling, as its scripts do, takes slightly longer. Its option
    ``compile_graph``, for GPUs, is off. It has no REM.

    Each contestant has its own process, with equal numbers of threads. Every round measures every contestant once.
    Speeds are medians over the rounds. A ratio is the median of the ratios of the rounds, so a machine that is busy for
    a while affects all contestants alike.

    Args:
        data: Trajectory store; by default one of random frames is made.
        d3rlpy_python: Python of an environment with d3rlpy 2.8.1, which needs other versions of its dependencies than
            this project; by default only this project is measured.
        methods: Methods to measure.
        batch_size: Number of transitions in an update.
        num_steps: Number of steps of the random store.
        updates: Number of updates of each contestant in a round.
        rounds: Number of rounds.
        device: Device of the networks.
        compile: Whether to compile this project's network, as in train.py.
        precisions: Number formats of this project to measure; by default both, but not bf16 on hardware that emulates
            it.
        json_file: File to write the figures to.
    """
    if min(batch_size, num_steps, updates, rounds) < 1:
        raise InputError("all sizes must be at least 1")
    for name, values in (("methods", methods), ("precisions", precisions)):
        if values is not None and not 0 < len(set(values)) == len(values):
            raise InputError(f"`{name}` must hold at least one value, each once")
    if d3rlpy_python is not None and not set(methods) & set(D3RLPY_METHODS):
        raise InputError("d3rlpy has none of `methods`; leave out `d3rlpy_python`")
    if json_file:
        check_writable(json_file)
    from throughput_contestants import DTYPES, Contestant
    from value_method_contestants import D3rlpyContestant, project_updates

    from atari_dt.batches.transitions import require_terminated
    from atari_dt.hardware import find_device, supports_bfloat16
    from replay_data import TrajectoryStore
    from replay_data.testing import write_random_store

    torch_device = find_device(device)
    dtypes = {name: dtype for name, dtype in DTYPES.items() if name in (precisions or DTYPES)}
    if precisions is None and not supports_bfloat16(torch_device):
        print("bf16 is left out, since the hardware here emulates it; --precisions bf16 fp32 measures both")
        del dtypes["bf16"]
    config = dataclasses.replace(VALUE_TRAINING, batch_size=batch_size, compile=compile)
    with ExitStack() as stack:
        if data is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            lengths = [min(EPISODE_LENGTH, num_steps - start) for start in range(0, num_steps, EPISODE_LENGTH)]
            store = write_random_store(directory / "store", lengths, largest_reward=1, repeat_frames=True)
        else:
            store = TrajectoryStore.open(data)
        require_terminated(store)
        peers = {
            method: stack.enter_context(D3rlpyContestant(d3rlpy_python, store, method, batch_size, torch_device))
            for method in D3RLPY_METHODS
            if d3rlpy_python is not None and method in methods
        }
        contestants: dict[str, dict[str, Contestant | D3rlpyContestant]] = {}
        for method in methods:
            arguments = store.path, default_config(method), config, torch_device
            contestants[method] = {
                name: stack.enter_context(Contestant(partial(project_updates, *arguments, dtype), torch_device))
                for name, dtype in dtypes.items()
            }
            if method in peers:
                contestants[method]["d3rlpy"] = peers[method]
        seconds: dict[str, dict[str, list[float]]] = {
            method: {name: [] for name in of_method} for method, of_method in contestants.items()
        }
        for _ in range(rounds):
            for label, of_method in contestants.items():
                for name, contestant in of_method.items():
                    seconds[label][name].append(contestant.update(updates))
    machine = describe_machine(torch_device)
    result: dict[str, Any] = {"store": str(data or "random"), "batch_size": batch_size, **machine}
    print(f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}")
    for peer in list(peers.values())[:1]:
        result["peer"] = peer.versions
        print(f"d3rlpy {peer.versions['d3rlpy']} with PyTorch {peer.versions['torch']}")
    result["methods"] = {method: summarize(of_method) for method, of_method in seconds.items()}
    print_report(result["methods"])
    if json_file:
        atomic_write(json_file, json.dumps(result, indent=2) + "\n")


def summarize(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the figures of one method.

    Args:
        seconds: Seconds per update of each contestant in each round.
    """
    figures: dict[str, Any] = {}
    for name, values in seconds.items():
        figures[name] = {"updates_per_s": 1 / statistics.median(values)}
        if name != "d3rlpy" and "d3rlpy" in seconds:
            ratios = (peer / project for peer, project in zip(seconds["d3rlpy"], values, strict=True))
            figures[name]["ratio"], *figures[name]["ratio_range"] = median_and_range(ratios)
    return figures


def print_report(methods: dict[str, Any]) -> None:
    """Print the figures as a table."""
    print(f"{'':16}{'updates/s':>10}{'against d3rlpy':>28}")
    for method, contestants in methods.items():
        for name, figures in contestants.items():
            ratio = ""
            if "ratio" in figures:
                low, high = figures["ratio_range"]
                ratio = f"{figures['ratio']:.2f} times ({low:.2f} to {high:.2f})"
            print(f"{f'{method}, {name}':16}{figures['updates_per_s']:>10.1f}{ratio:>28}")


if __name__ == "__main__":
    run(main)
