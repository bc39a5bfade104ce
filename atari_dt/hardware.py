"""Device, precision and compilation of a network, and readable errors for hardware limits.

`set_up_compute` makes all three choices at once.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._triton import has_triton

from replay_data import InputError
from replay_data.errors import summarize_error

EMULATED_SECONDS, FLOAT32_SECONDS = 27.0, 1.9
"""Seconds of an update of the paper's network in bfloat16 and in float32, on a CPU without instructions for bfloat16
(docs/benchmarks.md)."""


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device with a given name.

    Args:
        name: ``auto`` for a GPU if the machine has one, ``cpu``, ``cuda``, or a certain GPU such as ``cuda:1``.
        local_rank: Index of this process among the run's processes on this machine; ``cuda`` selects the GPU with this
            index.

    Raises:
        InputError: If the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"there is no device {name!r} here; set `device` to cpu, or to cuda on a machine with a GPU"
        ) from error
    return device


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the forward pass.

    Args:
        name: ``bf16``, ``fp32``, or ``auto`` for bfloat16 if the hardware supports it, else float32.
        device: Device of the network.
    """
    if name == "auto":
        return torch.bfloat16 if supports_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def supports_bfloat16(device: torch.device) -> bool:
    """Return whether PyTorch is known to compute in bfloat16 on a device with instructions made for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported: bool = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()  # there is no public function
    return supported


def warn_of_emulation(precision: str, device: torch.device) -> None:
    """Print a line on standard error if bfloat16 is chosen for a device that emulates it.

    Nothing is printed on ARM CPUs, some of which have the instructions.

    Args:
        precision: ``bf16``, ``fp32`` or ``auto``; only ``bf16`` can be a bad choice.
        device: Device of the network.
    """
    known = device.type == "cuda" or platform.machine() in ("x86_64", "AMD64")
    if precision == "bf16" and known and not supports_bfloat16(device):
        name = "GPU" if device.type == "cuda" else "CPU"
        print(
            f"warning: the {name} here emulates bfloat16, which is slow: on a CPU, an update of the paper's network "
            f"took {EMULATED_SECONDS:g} s, against {FLOAT32_SECONDS:g} s in float32; set the precision to auto or fp32",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class Compute:
    """Device, precision and compilation of a network.

    Attributes:
        device: Device of all tensors.
        dtype: Number format of the forward pass; weights and optimizer states are float32.
        compiled: Whether to compile the network with `torch.compile`.
    """

    device: torch.device
    dtype: torch.dtype
    compiled: bool


def set_up_compute(device: str, precision: str, compile: str, local_rank: int = 0) -> Compute:
    """Choose device, precision and compilation, and prepare the process for them.

    On a GPU, this makes the device PyTorch's current one; on a CPU, it calls `keep_freed_memory`. The first process of
    each machine warns if ``bf16`` would be emulated (see `warn_of_emulation`).

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; see `find_device`.
        precision: ``auto``, ``bf16`` or ``fp32``; see `find_precision`.
        compile: ``on``, ``off``, or ``auto``, which compiles on a GPU that Triton supports.
        local_rank: Index of this process among the run's processes on this machine.

    Raises:
        InputError: If the device does not exist.
    """
    torch_device = find_device(device, local_rank)
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    else:
        keep_freed_memory()
    if local_rank == 0:
        warn_of_emulation(precision, torch_device)
    compiled = compile == "on" or (compile == "auto" and torch_device.type == "cuda" and has_triton())
    return Compute(torch_device, find_precision(precision, torch_device), compiled)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product, an upper bound on the FLOP/s of a network on this device.

    Args:
        device: Device to measure.
        dtype: Number format of the product; float32 replaces bfloat16 on hardware that does not support it.
    """
    if not supports_bfloat16(device):
        dtype = torch.float32
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.full((size, size), 0.5, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):  # the first iterations warm up
        synchronize(device)
        start = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next update instead of returning it to the system.

    Otherwise every update on a CPU maps, zeroes and unmaps blocks of many MB, which takes 9% of an update in bfloat16
    and 13% in float32. Only glibc has this setting; with other C libraries this function does nothing.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
            library.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink


@contextmanager
def translate_out_of_memory(device: torch.device, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error into an InputError.

    Args:
        device: Device of the tensors.
        advice: Settings that lower the memory use, such as ``"`batch_size`"``; completes "lower ...".

    Raises:
        InputError: If a tensor cannot be allocated.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch's CPU allocator raises a plain RuntimeError.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        raise InputError(f"out of memory on {device}; lower {advice}") from error


@contextmanager
def translate_compile_errors() -> Iterator[None]:
    """Turn a compilation failure of `torch.compile` into an InputError.

    Raises:
        InputError: If `torch.compile` cannot generate code, for example because there is no C compiler.
    """
    try:
        yield
    except RuntimeError as error:
        if all(base.__name__ != "BackendCompilerFailed" for base in type(error).__mro__):
            raise
        compiler_error = getattr(error, "inner_exception", error)  # without PyTorch's advice on its logs
        raise InputError(
            f"torch.compile cannot compile here ({summarize_error(compiler_error)}); set `compile` to off"
        ) from error


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context in which operations run in ``dtype`` where autocast allows it; float32 changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
