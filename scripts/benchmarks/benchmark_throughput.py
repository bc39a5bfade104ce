"""Measure the time and memory of updates of the network, and of the original code's updates on the same contexts."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from benchmark_tools import check_original, describe_machine, median_and_range

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable

EPISODE_LENGTH = 1000


def main(
    batch_size: int = 64,
    context_length: int = 30,
    num_steps: int = 4000,
    updates: int = 3,
    rounds: int = 8,
    device: str = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    precisions: tuple[Literal["bf16", "fp32"], ...] | None = None,
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
        precisions: Number formats to measure; by default both, but not bf16 on hardware that emulates it.
        original: Checkout of github.com/kzl/decision-transformer, whose network, optimizer settings, dataset class and
            DataLoader are timed in float32.
        json_file: File to write the figures to.
    """
    check_original(original, "run_dt_atari.py")
    if min(batch_size, context_length, updates, rounds) < 1:
        raise InputError("all sizes must be at least 1")
    if precisions == ():
        raise InputError("`precisions` must be bf16, fp32 or both")
    if num_steps < max(batch_size, 4 * context_length):
        raise InputError("`num_steps` must be at least one batch and at least four contexts")
    if json_file:
        check_writable(json_file)
    from throughput_contestants import DTYPES, Contestant, original_updates, project_updates, time_parts

    from atari_dt.hardware import find_device, matmul_peak, supports_bfloat16
    from atari_dt.training.learner import flops_per_window
    from replay_data.testing import write_random_store

    torch_device = find_device(device)
    if precisions is None and not supports_bfloat16(torch_device):
        print("bf16 is left out, since the hardware here emulates it; --precisions bf16 fp32 measures both")
        precisions = ("fp32",)
    dtypes = DTYPES if precisions is None else {name: DTYPES[name] for name in precisions}
    model_config = ModelConfig(context_length=context_length)
    config = TrainingConfig(batch_size=batch_size, compile=compile)
    with tempfile.TemporaryDirectory() as directory:
        lengths = [min(EPISODE_LENGTH, num_steps - start) for start in range(0, num_steps, EPISODE_LENGTH)]
        store = write_random_store(Path(directory) / "store", lengths, largest_reward=1)
        arguments = store.path, model_config, batch_size, torch_device
        functions: dict[str, Callable[[], Iterator[None]]] = {
            name: partial(project_updates, *arguments, config, dtype) for name, dtype in dtypes.items()
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
        flops = flops_per_window(model_config, store.num_actions)
        peak_dtypes = dtypes if original is None else dtypes | {"fp32": DTYPES["fp32"]}
        peaks = {name: matmul_peak(torch_device, dtype) for name, dtype in peak_dtypes.items()}
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
        for name, dtype in dtypes.items():
            figures[name]["parts_s"] = time_parts(*arguments, dtype)
    print_report(figures, peaks, flops, batch_size)
    result: dict[str, Any] = {
        "batch_size": batch_size,
        "context_length": context_length,
        **describe_machine(torch_device),
        "matmul_peak_flops": peaks,
        "flops_per_context": flops,
        "project": {name: figures[name] for name in dtypes},
    }
    if original is not None:
        result["original"] = figures["original"]
        result["ratio"] = {}
        for name in dtypes:
            pairs = zip(seconds["original"], seconds[name], strict=True)
            median, low, high = median_and_range(original_s / project_s for original_s, project_s in pairs)
            result["ratio"][name] = median
            print(f"{name}: {median:.2f} times faster than the original code ({low:.2f} to {high:.2f})")
    if json_file:
        atomic_write(json_file, json.dumps(result, indent=2) + "\n")


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
    for name, values in figures.items():
        if "parts_s" in values:
            parts = ", ".join(f"{part} {1000 * seconds:.1f}" for part, seconds in values["parts_s"].items())
            print(f"{name} in ms: {parts}")


if __name__ == "__main__":
    run(main)
