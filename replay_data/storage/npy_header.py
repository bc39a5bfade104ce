"""Read the header of a ``.npy`` file from a source that is not trusted.

NumPy parses headers as Python literals, which fails with nearly any exception on a mangled one and believes any length
and shape. This parser knows only the three fields of the format (numpy/lib/format.py), with numbers or booleans in
them.
"""

from __future__ import annotations

import re
import sys
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAX_HEADER_BYTES = 10_000  # NumPy refuses longer ones too; the header of an array of numbers has 118 to 182

_MAX_DIMENSIONS = 32  # of an array in NumPy 1; NumPy 2 allows 64

_MAGIC = b"\x93NUMPY"

_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}  # of the header's length, by version

_ENTRY = re.compile(
    r"""\s* (?: '(?P<name>\w+)' | "(?P<other_name>\w+)" ) \s*:\s*
    (?: '(?P<descr>[^'\\]{1,20})' | "(?P<other_descr>[^"\\]{1,20})"
      | (?P<order>True|False) | \( (?P<shape>[\d\sL,]*) \) )
    \s* (?: , | $ )""",
    re.VERBOSE,
)

_NUMBER = re.compile(r"[<>|=]?(?:\?|[biuf]\d{1,2})")

_DIMENSION = re.compile(r"\s*(\d{1,19})L?\s*")  # Python 2 wrote some of them with an L


class NpyHeader(NamedTuple):
    """The header of a ``.npy`` file in C order.

    Attributes:
        shape: Shape of the array.
        dtype: A boolean, integer or float dtype of any size and byte order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_npy_header(file: BinaryIO) -> NpyHeader:
    """Read the header of a ``.npy`` file of version 1.0, 2.0 or 3.0; the array's bytes follow.

    The shape is only what the file claims: its bytes fit into an address space, but not necessarily into memory or into
    the file.

    Raises:
        ValueError: If the file does not begin with the header of an array of numbers in C order.
        EOFError: If the file ends within the header.
    """
    prefix = _read_exactly(file, len(_MAGIC) + 2)
    version = (prefix[-2], prefix[-1])
    if not prefix.startswith(_MAGIC):
        raise ValueError("it is no .npy file")
    if version not in _LENGTH_BYTES:
        raise ValueError(f"it is of .npy version {version[0]}.{version[1]}, not 1.0, 2.0 or 3.0")
    length = int.from_bytes(_read_exactly(file, _LENGTH_BYTES[version]), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its .npy header claims to have {length:,} bytes")
    fields = _parse_fields(_read_exactly(file, length).decode("latin-1").strip())
    shape = _parse_shape(fields["shape"])
    dtype = _parse_dtype(fields["descr"])
    num_bytes = dtype.itemsize
    for size in shape:
        num_bytes *= size or 1  # an array without elements may still have absurd other dimensions
    if num_bytes > sys.maxsize:
        raise ValueError(f"its .npy header claims the shape {list(shape)}, which no memory holds")
    if fields["fortran_order"] == "True" and len(shape) > 1:
        raise ValueError("it is in Fortran order")
    return NpyHeader(shape, dtype)


def _parse_fields(text: str) -> dict[str, str]:
    """Return the text of each of the three fields."""
    fields: dict[str, str] = {}
    kinds = {"descr": ("descr", "other_descr"), "fortran_order": ("order",), "shape": ("shape",)}
    content = text[1:-1].rstrip() if text.startswith("{") and text.endswith("}") else "?"
    position = 0
    while position < len(content):
        entry = _ENTRY.match(content, position)
        name = (entry["name"] or entry["other_name"]) if entry else ""
        values = [entry[kind] for kind in kinds.get(name, ()) if entry[kind] is not None] if entry else []
        if entry is None or len(values) != 1 or name in fields:
            raise ValueError("it has no valid .npy header of an array of numbers")
        fields[name] = values[0]
        position = entry.end()
    if len(fields) != len(kinds):
        raise ValueError("it has no valid .npy header of an array of numbers")
    return fields


def _parse_shape(text: str) -> tuple[int, ...]:
    """Return the dimensions in ``3, 84, 84`` or ``3,``."""
    items = text.split(",")
    if not items[-1].strip():
        items.pop()  # nothing follows the last comma
    elif len(items) == 1:
        items = ["?"]  # a number in parentheses is no tuple
    dimensions = [_DIMENSION.fullmatch(item) for item in items]
    if len(items) > _MAX_DIMENSIONS or not all(dimensions):
        raise ValueError("its .npy header has no valid shape")
    return tuple(int(dimension[1]) for dimension in dimensions if dimension)


def _parse_dtype(text: str) -> np.dtype[Any]:
    try:
        if _NUMBER.fullmatch(text):
            return np.dtype(text)
    except TypeError:  # a size that no such number has
        pass
    raise ValueError(f"it holds the dtype {text!r}, not booleans, integers or floats")


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    content = b""
    while len(content) < size:
        block = file.read(size - len(content))
        if not block:
            raise EOFError
        content += block
    return content
