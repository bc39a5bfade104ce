"""Read byte strings of any length from an HDF5 file without the HDF5 library, which reads damaged ones for ever.

A dataset of such strings holds references of 16 bytes: length, address of a *global heap collection*, and index of an
object in it (HDF5 File Format Specification, sections III.E and VIII.B). A collection is a header of 16 bytes, the last
8 of which are its size, and objects with headers of 16 bytes: index, number of references, 4 reserved bytes and size.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])

_COLLECTION = struct.Struct("<4sB3xQ")  # signature, version, size

_OBJECT = struct.Struct("<HH4xQ")  # index, number of references, size

_MAX_COLLECTION_BYTES = 16 << 20  # HDF5 makes one of 4 KiB, or as large as the string that it is made for

_CACHED_COLLECTIONS = 8


class ByteStrings:
    """The strings of a one-dimensional dataset; a context manager that closes the file.

    Args:
        path: The HDF5 file, without a user block.
        dataset: The open `h5py.Dataset`, without compression.

    Raises:
        ValueError: If its references cannot be read.
    """

    chunks = None

    def __init__(self, path: Path, dataset: Any):
        if dataset.file.userblock_size or dataset.file.id.get_create_plist().get_sizes() != (8, 8):
            raise ValueError("its byte strings have addresses of an unusual kind")
        if dataset.id.get_create_plist().get_nfilters():
            raise ValueError("its byte strings are compressed")
        self._file = path.open("rb")
        self._collections: OrderedDict[int, dict[int, memoryview]] = OrderedDict()
        try:
            self._references = self._read_references(dataset)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ByteStrings:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, steps: slice) -> list[npt.NDArray[np.uint8]]:
        """Return the strings of a slice, uint8 ``[length]`` each.

        Raises:
            ValueError: If a string is not where its reference says.
        """
        strings = []
        for reference in self._references[steps]:
            length, address, index = (int(reference[name]) for name in ("length", "address", "index"))
            data = self._read_collection(address).get(index) if length else memoryview(b"")
            if data is None or len(data) < length:
                raise ValueError("one of its byte strings is missing")
            strings.append(np.frombuffer(data[:length], np.uint8))
        return strings

    def _read_references(self, dataset: Any) -> npt.NDArray[Any]:
        (length,) = dataset.shape
        references = np.zeros(length, _REFERENCE)
        if dataset.chunks is None:
            return np.frombuffer(self._read(dataset.id.get_offset() or 0, references.nbytes), _REFERENCE)
        for start in range(0, length, dataset.chunks[0]):
            chunk = np.frombuffer(dataset.id.read_direct_chunk((start,))[1], _REFERENCE)
            references[start : start + len(chunk)] = chunk[: length - start]
        return references

    def _read_collection(self, address: int) -> dict[int, memoryview]:
        """Return the objects of a global heap collection by index."""
        if address in self._collections:
            return self._collections[address]
        signature, version, size = _COLLECTION.unpack(self._read(address, _COLLECTION.size))
        if (signature, version) != (b"GCOL", 1) or not _COLLECTION.size <= size <= _MAX_COLLECTION_BYTES:
            raise ValueError("a heap of its byte strings is damaged")
        data = memoryview(self._read(address, size))
        objects: dict[int, memoryview] = {}
        position = _COLLECTION.size
        while position + _OBJECT.size <= size:
            index, _, length = _OBJECT.unpack_from(data, position)
            if not index:  # the rest is free
                break
            position += _OBJECT.size
            objects[index] = data[position : position + length]
            position += -length % 8 + length
        self._collections[address] = objects
        if len(self._collections) > _CACHED_COLLECTIONS:
            self._collections.popitem(last=False)
        return objects

    def _read(self, address: int, size: int) -> bytes:
        if address >= 1 << 62:
            raise ValueError("one of its byte strings is missing")
        self._file.seek(address)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("one of its byte strings is cut off")
        return data
