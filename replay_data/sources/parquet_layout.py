"""Check the layout of a Parquet file before pyarrow reads its pages.

pyarrow allocates as many bytes and values as the header of a page announces, and does not compare them with the footer.
When it is asked for the column chunks of some damaged footers, it ends the process. So the footer and the headers of
pages are read here. They are structs in Thrift's compact protocol (github.com/apache/parquet-format,
src/main/thrift/parquet.thrift).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_FOOTER_BYTES = 2 << 20  # 100 row groups of four columns take 100 KB

_MAX_HEADER_BYTES = 1 << 16  # the statistics in it have at most 4 KB each

_MAX_COMPRESSION = 24  # Snappy, which the JAT dataset uses, stores 64 bytes in 3 at best

_MAX_PAGES = 50_000  # of a file; the largest files of the JAT dataset have about 1,000

_MAX_DEPTH = 8  # of structs and lists in a footer or header

_MAGIC = b"PAR1"

# Ids of fields: of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData, PageHeader, and the header of a data page.
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA = 3
_CHUNK_VALUES, _CHUNK_SIZE, _DATA_OFFSET, _DICTIONARY_OFFSET = 5, 7, 9, 11
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE, _DATA_PAGE, _DATA_PAGE_V2 = 2, 3, 5, 8
_PAGE_VALUES = 1

# Types of fields.
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, 9, 12


@dataclass(frozen=True)
class ColumnChunk:
    """The pages of one column in one row group.

    Attributes:
        num_values: Number of values that the footer announces.
        start: Position of the first page in the file.
        end: Position behind the last page.
    """

    num_values: int
    start: int
    end: int


def read_footer(path: Path) -> list[list[ColumnChunk]]:
    """Return the column chunks of each row group of a Parquet file, in the order of the schema's leaves.

    Raises:
        ValueError: If it is not a Parquet file, is cut off, or its footer is damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is not a Parquet file")
        file.seek(max(0, size - 8))
        end = file.read(8)
        footer_size = int.from_bytes(end[:4], "little")
        if size < 12 or end[4:] != _MAGIC:
            raise ValueError("it is cut off")
        if footer_size > min(size - 12, MAX_FOOTER_BYTES):
            raise ValueError(f"its footer has an impossible size, {footer_size:,} bytes")
        file.seek(size - 8 - footer_size)
        footer = file.read(footer_size)
    try:
        groups = [group[_COLUMNS] for group in _CompactReader(footer).read_struct()[_ROW_GROUPS]]
        return [[_read_chunk(column[_META_DATA], size) for column in columns] for columns in groups]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("its footer is damaged") from error


def _read_chunk(metadata: dict[int, Any], file_size: int) -> ColumnChunk:
    start = min(metadata[_DATA_OFFSET], metadata.get(_DICTIONARY_OFFSET) or metadata[_DATA_OFFSET])
    chunk = ColumnChunk(metadata[_CHUNK_VALUES], start, start + metadata[_CHUNK_SIZE])
    if not (0 <= chunk.start <= chunk.end < file_size and chunk.num_values >= 0):
        raise ValueError
    return chunk


def check_pages(path: Path, chunks: Iterable[ColumnChunk]) -> None:
    """Check that the pages of column chunks lie inside them and announce no more than they and the file can have.

    Args:
        path: The file.
        chunks: Column chunks.

    Raises:
        ValueError: If they do not.
    """
    num_pages = 0
    with path.open("rb") as file:
        bytes_left = _MAX_COMPRESSION * file.seek(0, os.SEEK_END) + _MAX_HEADER_BYTES
        for chunk in chunks:
            position, num_values = chunk.start, 0
            while num_values < chunk.num_values:
                header, size = _read_page_header(file, position)
                position += size + header[_COMPRESSED_SIZE]
                bytes_left -= header[_UNCOMPRESSED_SIZE]
                num_values += header.get(_DATA_PAGE, header.get(_DATA_PAGE_V2, {_PAGE_VALUES: 0}))[_PAGE_VALUES]
                num_pages += 1
                if position > chunk.end or bytes_left < 0 or num_values > chunk.num_values:
                    raise ValueError("a page announces more bytes or values than it can have")
                if num_pages > _MAX_PAGES:
                    raise ValueError("it has implausibly many pages")


def _read_page_header(file: BinaryIO, position: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the page header at a position, and its size in bytes.

    Raises:
        ValueError: If there is no valid header.
    """
    file.seek(position)
    reader = _CompactReader(file.read(_MAX_HEADER_BYTES))
    try:
        header = reader.read_struct()
        page = header.get(_DATA_PAGE, header.get(_DATA_PAGE_V2, {_PAGE_VALUES: 0}))
        if min(header[_UNCOMPRESSED_SIZE], header[_COMPRESSED_SIZE], page[_PAGE_VALUES]) < 0:
            raise ValueError
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError("the header of a page is damaged") from error
    return header, reader.position


class _CompactReader:
    """Reads a struct in Thrift's compact protocol.

    Args:
        data: Bytes that begin with a struct.

    Attributes:
        position: Number of bytes read.
    """

    def __init__(self, data: bytes):
        self._data = data
        self.position = 0

    def read_struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the values of the fields by their ids: integers, bytes, lists and structs, and None for other types.

        Raises:
            IndexError: If the bytes end before the struct does.
            ValueError: If it is not a struct of Parquet.
        """
        fields: dict[int, Any] = {}
        field_id = 0
        while header := self._read_byte():
            delta, field_type = divmod(header, 16)
            field_id = field_id + delta if delta else self._read_integer()
            fields[field_id] = None if field_type in (_TRUE, _FALSE) else self._read_value(field_type, depth + 1)
        return fields

    def _read_value(self, field_type: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if field_type in _INTEGERS:
            return self._read_integer()
        if field_type == _STRUCT:
            return self.read_struct(depth)
        if field_type == _LIST:
            size, item_type = divmod(self._read_byte(), 16)
            size = self._read_varint() if size == 15 else size
            return [self._read_value(item_type, depth + 1) for _ in range(size)]
        if field_type == _BINARY:
            size = self._read_varint()
            self.position += size
            return self._data[self.position - size : self.position]
        if field_type in (_TRUE, _FALSE, _BYTE, _DOUBLE):  # in a list, a boolean takes a byte
            self.position += 8 if field_type == _DOUBLE else 1
            return None
        raise ValueError(f"Parquet has no type {field_type}")

    def _read_byte(self) -> int:
        byte = self._data[self.position]
        self.position += 1
        return byte

    def _read_varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._read_byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number has more than 64 bits")

    def _read_integer(self) -> int:
        value = self._read_varint()
        return (value >> 1) ^ -(value & 1)  # zigzag encoding
