"""Read and write TFRecord files and the `tf.train.Example` message without TensorFlow.

A record is uint64 length, masked CRC-32C of the length, payload, masked CRC-32C of the payload
(tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")

_BLOCK = 1 << 20  # bytes


def starts_record(content: bytes) -> bool:
    """Return whether a file that begins with these 12 bytes or more is a TFRecord file without compression."""
    if len(content) < _HEADER.size:
        return False
    _, checksum = _HEADER.unpack_from(content)
    return _masked_crc(content[:8]) == checksum


def read_records(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """Yield the payloads of a TFRecord file.

    Args:
        file: The file, decompressed.
        max_bytes: Largest plausible size of a payload. A checksum protects a length from damage, not from malice.

    Raises:
        ValueError: If a checksum differs, or a payload claims to be larger.
        EOFError: If the file ends within a record.
    """
    while header := _read(file, _HEADER.size):
        if len(header) < _HEADER.size:
            raise EOFError
        length, checksum = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != checksum:
            raise ValueError("the checksum of its length differs")
        if length > max_bytes:
            raise ValueError(f"it claims to have {length:,} bytes, but a record has at most {max_bytes:,}")
        payload, footer = _read(file, length), _read(file, _FOOTER.size)
        if len(payload) < length or len(footer) < _FOOTER.size:
            raise EOFError
        if _masked_crc(payload) != _FOOTER.unpack(footer)[0]:
            raise ValueError("its checksum differs")
        yield payload


def write_record(file: BinaryIO, payload: bytes) -> None:
    """Append a payload to a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    file.write(length + _FOOTER.pack(_masked_crc(length)))
    file.write(payload)
    file.write(_FOOTER.pack(_masked_crc(payload)))


def _read(file: BinaryIO, size: int) -> bytes:
    """Return the next ``size`` bytes, or fewer at the end of the file.

    Reading in blocks keeps a damaged length from allocating memory for bytes that the file does not have.
    """
    blocks = []
    while size and (block := file.read(min(size, _BLOCK))):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _masked_crc(content: bytes) -> int:
    crc = int(google_crc32c.value(content))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _message_classes() -> tuple[Any, Any]:
    """Declare `tf.train.Example` (tensorflow/core/example/{example,feature}.proto); return it and its `Feature`."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def declare(name: str, *fields: tuple[str, int, int, str]) -> descriptor_pb2.DescriptorProto:
        declared = file.message_type.add(name=name)
        for number, (field_name, label, field_type, type_name) in enumerate(fields, 1):
            full_name = {"type_name": f".tensorflow.{type_name}"} if type_name else {}
            declared.field.add(name=field_name, number=number, label=label, type=field_type, **full_name)
        return declared

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    for (_, name), field_type in zip(lists, (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64), strict=True):
        declare(name, ("value", many, field_type, ""))
    feature = declare("Feature", *((name, one, field.TYPE_MESSAGE, kind) for name, kind in lists))
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    features = declare("Features", ("feature", many, field.TYPE_MESSAGE, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field.TYPE_MESSAGE, type_name=".tensorflow.Feature")
    declare("Example", ("features", one, field.TYPE_MESSAGE, "Features"))
    # A pool of its own, because TensorFlow may have declared the same names in the default pool.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    example_class, feature_class = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
        for name in ("Example", "Feature")
    )
    return example_class, feature_class


Example, Feature = _message_classes()
