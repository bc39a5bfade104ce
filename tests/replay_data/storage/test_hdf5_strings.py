"""Byte strings of HDF5 files: the same as the HDF5 library reads, and an error where it would not return."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

if sys.version_info < (3, 11):
    pytest.skip("the extra minari needs Python 3.11", allow_module_level=True)

import h5py

from replay_data.storage.hdf5_strings import ByteStrings


def write(path: Path, **options: Any) -> list[npt.NDArray[np.uint8]]:
    """Write strings that share a heap, have one for themselves, or are empty."""
    rng = np.random.default_rng(0)
    strings = [rng.integers(256, size=length, dtype=np.uint8) for length in (3, 900, 0, 5000, 8, 70_000, 1, 4000, 4000)]
    data = np.empty(len(strings), dtype=h5py.vlen_dtype(np.uint8))
    data[:] = strings
    with h5py.File(path, "w") as file:
        file.create_dataset("strings", data=data, **options)
    return strings


@pytest.mark.parametrize("options", [{}, {"chunks": (4,)}, {"chunks": (4,), "maxshape": (None,)}])
def test_strings_are_those_that_h5py_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "file.hdf5"
    strings = write(path, **options)
    with h5py.File(path) as file, ByteStrings(path, file["strings"]) as found:
        assert all(np.array_equal(*pair) for pair in zip(found[slice(0, 9)], file["strings"][:], strict=True))
        assert [each.tolist() for each in found[slice(5, 7)]] == [each.tolist() for each in strings[5:7]]


def test_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    write(path, chunks=(4,))
    content = path.read_bytes()
    heap = content.index(b"GCOL")
    for start, end, replacement, message in (
        (heap + 16, heap + 4096, b"\0", "is missing"),  # the library reads such a heap for ever
        (heap + 24, heap + 25, b"\1", "is missing"),  # the first string has 3 bytes
        (heap, heap + 4, b"x", "a heap of its byte strings is damaged"),
        (heap + 8, heap + 16, b"\xff", "a heap of its byte strings is damaged"),
        (heap + 8, heap + 12, b"\x01\x00\x00\x00", "a heap of its byte strings is damaged"),
    ):
        size = end - start
        path.write_bytes(content[:start] + (replacement * size)[:size] + content[end:])
        with (
            h5py.File(path) as file,
            ByteStrings(path, file["strings"]) as strings,
            pytest.raises(ValueError, match=message),
        ):
            strings[slice(0, 9)]


def test_strings_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    write(path, compression="gzip")
    with h5py.File(path) as file, pytest.raises(ValueError, match="its byte strings are compressed"):
        ByteStrings(path, file["strings"])
    write(path)
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("strings", (3,), h5py.vlen_dtype(np.uint8))
    with h5py.File(path) as file, pytest.raises(ValueError, match="addresses of an unusual kind"):
        ByteStrings(path, file["strings"])
