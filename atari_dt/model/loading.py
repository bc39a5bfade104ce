"""Read files of ``torch.save`` and safetensors without trusting them."""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from replay_data.storage.regular_files import check_regular_file

LOADING_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What using an object of an unexpected type from a file raises."""

MAX_STATE_DICT_BYTES = 512 << 20  # 20 times the paper's largest network with its optimizer

# Limits of the part of a file that lists its tensors. Each is at least 10 times what the paper's network and optimizer
# need, and low enough to read the part in a second, and to compare tuples that are nested in each other.
_MAX_INDEX_BYTES = 2 << 20
_MAX_OPCODES = 300_000
_MAX_TUPLES = 20_000

_NUM_LEGACY_PICKLES = 5  # before PyTorch 1.6: a magic number, the version, the system, the object, the storages' names

_TENSOR_GLOBALS = {
    *("collections OrderedDict", "collections Counter", "__builtin__ set", "__builtin__ complex"),
    *("torch Size", "torch device", "torch.nn.parameter Parameter", "torch.serialization _get_layout"),
    *(
        f"torch._utils _rebuild_{name}"
        for name in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "sparse_tensor")
    ),
    *("torch._utils _rebuild_qtensor", "torch._utils _rebuild_meta_tensor_no_storage"),
    "argparse Namespace",  # people save their options beside the weights
}

_OTHER_GLOBAL_OPCODES = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
"""Opcodes that name a function or class in protocols that ``torch.save`` does not use."""

_OTHER_FORMATS = {
    b"version https://git-lfs": "it is a Git LFS pointer, which git lfs pull replaces by the file",
    b"<": "it is a web page, perhaps of a failed download",
    b"\x1f\x8b": "it is compressed with gzip, and must be unpacked",
}
"""What to say about files that are often found in place of weights, by their first bytes."""


class PickledObjectsError(ValueError):
    """A file of ``torch.save`` holds Python objects besides tensors. The message names them."""


def load_torch_file(path: Path, max_bytes: int = MAX_STATE_DICT_BYTES) -> Any:
    """Return the object that ``torch.save`` wrote to a file, on the CPU.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file` does.
        PickledObjectsError, ValueError: As `load_torch` does.
    """
    check_regular_file(path, max_bytes)
    with path.open("rb") as file:
        return load_torch(file)


def load_torch(file: BinaryIO) -> Any:
    """Return the object that ``torch.save`` wrote, on the CPU, without executing code from the file.

    Every function that the file's pickle calls is checked before it is unpickled, so that the memory used is at most
    about the size of the file. PyTorch alone, with ``weights_only=True``, also calls functions such as ``bytearray``,
    which allocate as much memory as the file says. No text of PyTorch's errors is passed on: it advises to load the
    file with ``weights_only=False``.

    Args:
        file: File opened for reading, or its content as `io.BytesIO`.

    Raises:
        PickledObjectsError: If it holds Python objects besides tensors and what state dicts consist of.
        ValueError: If it is damaged or something else.
    """
    try:
        names = sorted(set(_unknown_globals(_pickles(file))))
    except Exception as error:  # whatever the damage leads to, such as a failed assertion in PyTorch
        raise ValueError(explain_unreadable(file, "a file of torch.save")) from error
    if names:
        known = ", ".join(name for name in names[:3] if name)
        raise PickledObjectsError(f"it holds pickled Python objects{f' ({known})' if known else ''}, not only tensors")
    file.seek(0)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError("it cannot be read as a file of torch.save") from error


def load_safetensors_file(path: Path, max_bytes: int | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    The library checks that every tensor lies within the file. It maps the file, and reads a tensor on first use.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file` does.
        ValueError: If the file is damaged or something else.
    """
    check_regular_file(path, max_bytes)
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > _MAX_INDEX_BYTES:
            raise ValueError(explain_unreadable(file, "a safetensors file"))
    try:
        return load_file(path)
    except (safetensors.SafetensorError, *LOADING_ERRORS, MemoryError) as error:
        with path.open("rb") as file:
            raise ValueError(explain_unreadable(file, "a safetensors file")) from error


def load_tensors_file(path: Path) -> Any:
    """Return the content of a file of ``torch.save`` or safetensors, whatever the name of the file is.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file` does for a file of more than `MAX_STATE_DICT_BYTES`.
        PickledObjectsError, ValueError: As `load_torch` and `load_safetensors_file` do.
    """
    check_regular_file(path, MAX_STATE_DICT_BYTES)
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if is_safetensors or path.suffix == ".safetensors":
        return load_safetensors_file(path, MAX_STATE_DICT_BYTES)
    return load_torch_file(path)


def explain_unreadable(file: BinaryIO, expected: str) -> str:
    """Return why a file is not of the expected format."""
    file.seek(0)
    start = file.read(512).lstrip()
    for first_bytes, explanation in _OTHER_FORMATS.items():
        if start.startswith(first_bytes):
            return explanation
    return f"it cannot be read as {expected}"


def _pickles(file: BinaryIO) -> Iterator[io.BytesIO]:
    """Yield a stream at the start of each pickle in a file of ``torch.save``.

    Raises:
        ValueError, zipfile.BadZipFile: If the file is another one, or damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(4) != b"PK\3\4":
        file.seek(0)
        content = io.BytesIO(file.read(_MAX_INDEX_BYTES))
        for _ in range(_NUM_LEGACY_PICKLES):
            yield content
        return
    with zipfile.ZipFile(SmallReads(file)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > size or any(entry.compress_type for entry in entries):
            raise ValueError("its parts overlap or are compressed, which torch.save never does")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if sum(entry.file_size for entry in pickles) > _MAX_INDEX_BYTES:
            raise ValueError("its index is implausibly large")
        for entry in pickles:
            yield io.BytesIO(archive.read(entry))


def _unknown_globals(pickles: Iterator[io.BytesIO]) -> Iterator[str]:
    """Yield the names of functions and classes in pickles that tensors do not need, empty where there is no name.

    Raises:
        ValueError: If a pickle is damaged or implausibly large.
    """
    num_opcodes = num_tuples = 0
    for content in pickles:
        for opcode, argument, _ in pickletools.genops(content):
            num_opcodes += 1
            num_tuples += opcode.name.startswith("TUPLE")
            if num_opcodes > _MAX_OPCODES or num_tuples > _MAX_TUPLES:
                raise ValueError("its index is implausibly large")
            if opcode.name == "GLOBAL" and not _belongs_to_tensors(str(argument)):
                yield "".join(
                    character for character in str(argument)[:80].replace(" ", ".") if character.isprintable()
                )
            elif opcode.name in _OTHER_GLOBAL_OPCODES:
                yield ""


def _belongs_to_tensors(name: str) -> bool:
    """Return whether ``name``, a module and a name, is a function or class that pickled tensors need."""
    module, _, attribute = name.partition(" ")
    if module in ("torch", "torch.cuda", "torch.storage") and attribute.endswith("Storage"):
        return True
    is_constant = module == "torch" and isinstance(vars(torch).get(attribute), (torch.dtype, torch.qscheme))
    return is_constant or name in _TENSOR_GLOBALS


class SmallReads(io.RawIOBase):
    """A file for `zipfile` that refuses to read implausibly large parts, such as a list of a billion members."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size`` of them if it is not negative.

        Raises:
            ValueError: If they are implausibly many.
        """
        content = self._file.read(min(size, _MAX_INDEX_BYTES + 1) if size >= 0 else _MAX_INDEX_BYTES + 1)
        if len(content) > _MAX_INDEX_BYTES:
            raise ValueError("a part is implausibly large")
        return content
