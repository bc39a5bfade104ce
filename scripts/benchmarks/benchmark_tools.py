"""Functions that several benchmarks share. A benchmark runs as a file, so this module is on its path."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replay_data import InputError

if TYPE_CHECKING:
    import torch

# Linux reports the peak of this program alone: resource.getrusage would include its parent's memory when it was forked.
_PROGRAM = """
import json, re, sys, time
{setup}
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps([result, seconds, peak * 1024]))
"""


def measure_in_new_process(setup: str, work: str, *arguments: str) -> tuple[Any, float, float]:
    """Run Python code in a process of its own (Linux only).

    Args:
        setup: Code to run before the measurement.
        work: Code to measure, which sets ``result`` to a JSON value.
        arguments: ``sys.argv[1:]`` of the code.

    Returns:
        ``result``, the seconds that ``work`` took, and the peak of resident memory in bytes, interpreter included.
    """
    program = _PROGRAM.format(setup=setup, work=work)
    output = subprocess.run([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, check=True).stdout
    result, seconds, peak = json.loads(output)
    return result, seconds, peak


def check_original(original: Path | None, file: str) -> None:
    """Check that ``original``, if given, is a checkout of the original code with ``atari/{file}``; else InputError."""
    if original is not None and not (original / "atari" / file).is_file():
        raise InputError(f"{original} is not a checkout of the original code: it has no atari/{file}")


def original_network(code: Path, num_actions: int, block_size: int, max_timestep: int) -> Any:
    """Return the original code's network in the paper's size, with fresh weights.

    Args:
        code: Directory ``atari`` of a checkout of the original code.
        num_actions: Size of the action set.
        block_size: Number of tokens in a context, three per step.
        max_timestep: Largest timestep.
    """
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    from mingpt.model_atari import GPT, GPTConfig  # type: ignore[import-not-found]

    config = GPTConfig(
        num_actions,
        block_size,
        n_layer=6,
        n_head=8,
        n_embd=128,
        model_type="reward_conditioned",
        max_timestep=max_timestep,
    )
    return GPT(config)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return the name of the device, the number of threads and the version of PyTorch."""
    import torch

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def median_and_range(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the median, the smallest and the largest of some values."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[0], ordered[-1]
