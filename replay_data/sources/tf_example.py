"""Take a `tf.train.Example` message apart without copying it, and with limits.

protobuf's own parser takes eight times the size of a message of many empty strings, before anybody can count them. Here
only the features that are used are parsed, after their sizes were checked.

The wire format is documented at https://protobuf.dev/programming-guides/encoding, and the message is declared in
tensorflow/core/example/{example,feature}.proto. All its fields but the numbers in lists are length-delimited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import message

from replay_data.sources.tfrecord import Feature

_MAX_FEATURES = 100  # of an example; an episode of RL Unplugged has ten

_MAX_NUMBER_BYTES = 11  # a varint of ten bytes, and its tag where the list is not packed

_MAX_BYTES_AROUND = 32  # tags and lengths around the numbers of a feature

_VARINT, _LENGTH_DELIMITED = 0, 2  # wire types

_TAG_OF_STRING = 1 << 3 | _LENGTH_DELIMITED  # in a list of strings

_FIXED_BYTES = {1: 8, 5: 4}  # by wire type

_NO_EXAMPLE = "it is not a tf.train.Example"


def split_example(payload: bytes) -> dict[str, memoryview]:
    """Return the serialized `tf.train.Feature` of each name.

    Raises:
        ValueError: If the payload is not an example, or has more than 100 features.
    """
    features: dict[str, memoryview] = {}
    for content in _split(memoryview(payload), 1, _MAX_FEATURES):
        for entry in _split(content, 1, _MAX_FEATURES):
            name, feature = (next(_split(entry, number, _MAX_FEATURES), memoryview(b"")) for number in (1, 2))
            features[str(name, "utf-8", "replace")] = feature
            if len(features) > _MAX_FEATURES:
                raise ValueError(f"it has more than {_MAX_FEATURES} features")
    return features


def read_bytes(feature: memoryview, max_values: int) -> list[memoryview]:
    """Return the strings of a feature, none if it has another type.

    Raises:
        ValueError: If the feature is damaged or has more than ``max_values`` strings.
    """
    strings: list[memoryview] = []
    for content in _split(feature, 1, _MAX_FEATURES):
        position, size = 0, len(content)
        try:
            while position < size:
                length = content[position + 1]
                if content[position] != _TAG_OF_STRING:
                    raise ValueError(_NO_EXAMPLE)
                if len(strings) == max_values:
                    raise ValueError(f"a feature has more than {max_values:,} strings")
                if length < 0x80:
                    position += 2
                elif content[position + 2] < 0x80:  # the usual case, written out because it occurs once a frame
                    length += (content[position + 2] - 1) << 7
                    position += 3
                else:
                    length, position = _read_varint(content, position + 1)
                strings.append(content[position : position + length])
                position += length
        except IndexError:
            raise ValueError(_NO_EXAMPLE) from None
        if position > size:
            raise ValueError(_NO_EXAMPLE)
    return strings


def read_integers(feature: memoryview, max_values: int) -> npt.NDArray[np.int64]:
    """Return the integers of a feature, int64 ``[T]``, none if it has another type; raise as `read_bytes` does."""
    return np.array(_parse_numbers(feature, max_values).int64_list.value, np.int64)


def read_floats(feature: memoryview, max_values: int) -> npt.NDArray[np.float32]:
    """Return the floats of a feature, float32 ``[T]``, none if it has another type; raise as `read_bytes` does."""
    return np.array(_parse_numbers(feature, max_values).float_list.value, np.float32)


def _parse_numbers(feature: memoryview, max_values: int) -> Any:
    """Return a `tf.train.Feature` of a size that ``max_values`` numbers can have."""
    if len(feature) > _MAX_BYTES_AROUND + _MAX_NUMBER_BYTES * max_values:
        raise ValueError(f"a feature of {len(feature):,} bytes has more than {max_values:,} numbers")
    try:
        return Feature.FromString(bytes(feature))
    except message.DecodeError as error:
        raise ValueError(_NO_EXAMPLE) from error


def _split(content: memoryview, number: int, max_fields: int) -> Iterator[memoryview]:
    """Yield the contents of a message's length-delimited fields that have a given number."""
    position, num_fields, size = 0, 0, len(content)
    try:
        while position < size:
            num_fields += 1
            if num_fields > max_fields:
                raise ValueError(f"a message in it has more than {max_fields:,} fields")
            tag, position = _read_varint(content, position)
            if tag & 7 == _VARINT:
                _, position = _read_varint(content, position)
                continue
            if tag & 7 == _LENGTH_DELIMITED:
                length, position = _read_varint(content, position)
            else:
                length = _FIXED_BYTES[tag & 7]
            start, position = position, position + length
            if position > size:
                raise IndexError
            if tag == number << 3 | _LENGTH_DELIMITED:
                yield content[start:position]
    except (IndexError, KeyError):
        raise ValueError(_NO_EXAMPLE) from None


def _read_varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError
