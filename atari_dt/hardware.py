"""The hardware a network runs on: finding it, its arithmetic, its speed, and what to say when its memory is full."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._triton import has_triton

from replay_data import InputError


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU if there is one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        local_rank: of a machine's processes, which one this is; each has a GPU of its own where none is named.

    Raises:
        InputError: if there is no such device.
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
        raise InputError(f"there is no device {name!r} here; use cpu, or cuda on a machine with a GPU") from error
    return device


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the forward pass's type; ``auto`` is bfloat16 where the hardware computes in it."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # PyTorch has no public name for the question
            fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


@dataclass(frozen=True)
class Compute:
    """What a network runs on.

    Attributes:
        device: where tensors live.
        dtype: of the forward pass; weights and optimizer states are float32.
        compiled: whether `torch.compile` compiles the network.
    """

    device: torch.device
    dtype: torch.dtype
    compiled: bool


def set_up_compute(device: str, precision: str, compile: str, local_rank: int = 0) -> Compute:
    """Choose device, precision and compilation, and prepare the process for them.

    Args:
        device: see `find_device`.
        precision: ``auto``, ``bf16`` or ``fp32``; see `find_precision`.
        compile: ``on``, ``off`` or ``auto``, which compiles on a GPU.
        local_rank: see `find_device`.

    Raises:
        InputError: if there is no such device.
    """
    found = find_device(device, local_rank)
    if found.type == "cuda":
        torch.cuda.set_device(found)
    else:
        keep_freed_memory()
    compiled = compile == "on" or (compile == "auto" and found.type == "cuda" and has_triton())
    return Compute(found, find_precision(precision, found), compiled)


def synchronize(device: torch.device) -> None:
    """Wait until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a large matrix product: the most that any network of ours could compute with.

    For bfloat16 on hardware that does not compute in it, that is a product in float32.
    """
    if find_precision("auto", device) == torch.float32:
        dtype = torch.float32
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.full((size, size), 0.5, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):  # the first ones warm up
        synchronize(device)
        start = time.perf_counter()
        matrix @ matrix
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next update, instead of giving it back to the system.

    Blocks of many MB are otherwise mapped, zeroed and unmapped again in every update on a CPU, which was measured to
    take 9% of one in bfloat16 and 13% in float32. Only glibc has this setting; elsewhere nothing happens.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
        library.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink


@contextmanager
def translate_out_of_memory(device: torch.device, advice: str) -> Iterator[None]:
    """Turn running out of memory into an InputError that says what to lower.

    Raises:
        InputError: if memory for a tensor could not be had.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU, PyTorch raises a plain RuntimeError of its allocator.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        raise InputError(f"out of memory on {device}; lower {advice}") from error


@contextmanager
def translate_compile_errors() -> Iterator[None]:
    """Turn a failure of `torch.compile` to make code into an InputError.

    Raises:
        InputError: if, say, there is no C compiler.
    """
    try:
        yield
    except RuntimeError as error:
        if all(kind.__name__ != "BackendCompilerFailed" for kind in type(error).__mro__):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"torch.compile cannot compile here ({reason}); use --compile off") from error


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Compute in ``dtype`` where that is safe; nothing changes for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
