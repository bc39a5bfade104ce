"""Read typed fields of JSON objects that come from a file, and leave fields out that are None."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar

Scalar: TypeAlias = str | int | float | bool | None

T = TypeVar("T", str, int, float, bool)
N = TypeVar("N", int, float)
S = TypeVar("S", bound=Scalar)
V = TypeVar("V")
D = TypeVar("D")

MAX_DEPTH = 32  # several times the depth of any file that this project writes

MAX_CONTAINERS = 1_000_000  # each takes at least 64 bytes of memory, but only 3 of a file

MAX_INTEGER = 2**63 - 1  # of NumPy's and PyTorch's int64


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: If the text is not JSON, has more than `MAX_CONTAINERS` lists and objects, or nests them more than
            `MAX_DEPTH` deep.
    """
    lists, objects = (
        (text.count(b"["), text.count(b"{")) if isinstance(text, bytes) else (text.count("["), text.count("{"))
    )
    if lists + objects > MAX_CONTAINERS:
        raise ValueError("it has implausibly many lists and objects")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    containers = [value]
    for _ in range(MAX_DEPTH + 1):
        children = [item.values() if isinstance(item, dict) else item for item in containers if _is_container(item)]
        containers = [child for items in children for child in items if _is_container(child)]
        if not containers:
            return value
    raise ValueError("it is nested too deeply")


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, dict))


def omit_none(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return an object without those of the named fields that are None, as it was before these fields existed."""
    return {key: value for key, value in content.items() if key not in names or value is not None}


def read_object(content: Any) -> dict[str, Any]:
    """Return ``content`` if it is an object.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(content, dict):
        raise TypeError(f"{_describe(content)} is where an object should be")
    return content


def read_format_version(content: Any, newest: int) -> int:
    """Return the format version of an object; an object without ``format_version`` has version 1.

    Raises:
        TypeError: If ``content`` is not an object, or its version is not an integer.
        ValueError: If the version is not one of 1 to ``newest``.
    """
    version = read_field({"format_version": 1, **read_object(content)}, "format_version", int)
    if version not in range(1, newest + 1):
        raise ValueError(f"format version {version} is newer than {newest}, the newest that this code reads")
    return version


def read_field(content: Any, name: str, field_type: type[T]) -> T:
    """Return a field of an object; an integer counts as a float, a boolean as neither.

    Raises:
        TypeError: If ``content`` is not an object, or the field has another type.
        KeyError: If the field is missing.
        ValueError: If the field is a number that is not finite or too large for 64 bits, or text that is not Unicode.
    """
    return convert(read_object(content)[name], name, field_type)


def read_count(content: Any, name: str, minimum: int = 0) -> int:
    """Return an integer field of an object that is at least ``minimum``.

    Raises:
        ValueError, KeyError, TypeError: As `read_field` does, and if the field is less than ``minimum``.
    """
    return check_range(name, read_field(content, name, int), minimum)


def read_probability(content: Any, name: str) -> float:
    """Return a field of an object that lies between 0 and 1.

    Raises:
        ValueError, KeyError, TypeError: As `read_field` does, and if the field is outside this range.
    """
    return check_range(name, read_field(content, name, float), 0, 1)


def check_range(name: str, value: N, minimum: float, maximum: float = math.inf) -> N:
    """Return a number if it is between ``minimum`` and ``maximum``.

    Raises:
        ValueError: If it is outside this range.
    """
    if not minimum <= value <= maximum:
        limit = f"at least {minimum}" if maximum == math.inf else f"between {minimum} and {maximum}"
        raise ValueError(f"{name} is {value}, but must be {limit}")
    return value


def read_optional_field(content: Any, name: str, field_type: type[T]) -> T | None:
    """Return a field of an object as `read_field` does, or None if it is missing or null."""
    value = read_object(content).get(name)
    return None if value is None else convert(value, name, field_type)


def read_list(content: Any, name: str, item_type: type[T]) -> tuple[T, ...]:
    """Return a list of an object.

    Raises:
        TypeError: If ``content`` is not an object, or the field is not a list of ``item_type``.
        KeyError: If the field is missing.
    """
    items = read_object(content)[name]
    if not isinstance(items, list):
        raise TypeError(f"{name} is {_describe(items)}, not a list")
    return tuple(convert(item, f"an item of {name}", item_type) for item in items)


def read_mapping(content: Any, name: str, read_value: Callable[[str, Any], V]) -> dict[str, V]:
    """Return an object inside an object, empty if it is missing.

    Args:
        content: Object that has the field.
        name: Name of the field.
        read_value: Function from the name and the value of an entry to the value to return.

    Raises:
        TypeError: If ``content`` or the field is not an object.
    """
    field = read_object(content).get(name, {})
    if not isinstance(field, dict):
        raise TypeError(f"{name} is {_describe(field)}, not an object")
    return {key: read_value(key, value) for key, value in field.items()}


def read_scalars(content: Any, name: str) -> dict[str, Scalar]:
    """Return an object whose values are strings, numbers, booleans or null, empty if it is missing.

    Raises:
        TypeError: If it is something else.
    """

    def read_scalar(key: str, value: Any) -> Scalar:
        if value is not None and not isinstance(value, (str, int, float)):
            raise TypeError(f"{key} of {name} is {_describe(value)}, not a scalar")
        return _check_value(value, key)

    return read_mapping(content, name, read_scalar)


def read_dataclass(content: Any, dataclass_type: type[D]) -> D:
    """Return a dataclass from the object that holds its fields; missing fields have their default values.

    Args:
        content: The object. Lists become tuples; what `dataclasses.asdict` returned has them already.
        dataclass_type: Dataclass whose fields are strings, numbers, booleans, literals and such dataclasses, tuples and
            mappings of these, or optional. A field that is a dataclass already stays as it is.

    Raises:
        TypeError: If ``content`` is not an object, lacks a field without a default value, has an unknown one, or one of
            another type.
        ValueError: As `read_field` does.
    """
    hints = typing.get_type_hints(dataclass_type)
    names = {each.name for each in dataclasses.fields(dataclass_type)}  # type: ignore[arg-type]
    values = {}
    for name, value in read_object(content).items():
        if name not in names:
            raise TypeError(f"{name[:80]!r} is unknown")
        values[name] = _convert_to_hint(value, name, hints[name])
    return dataclass_type(**values)


def read_versioned_dataclass(content: Any, dataclass_type: type[D], newest: int) -> D:
    """Return a dataclass from the object that holds its fields and ``format_version``.

    Raises:
        TypeError, ValueError: As `read_format_version` and `read_dataclass` do.
    """
    read_format_version(content, newest)
    return read_dataclass({name: value for name, value in content.items() if name != "format_version"}, dataclass_type)


def _convert_to_hint(value: Any, name: str, hint: Any) -> Any:
    """Return a value as the type of a type hint, or raise as `read_dataclass` does."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not types.NoneType]
        assert len(options) == 1, hint
        return None if value is None else _convert_to_hint(value, name, options[0])
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if dataclasses.is_dataclass(value) else read_dataclass(value, hint)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ValueError(f"{name} is {_describe(value)}, not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is Mapping:
        items = read_object(value).items()
        return {key: _convert_to_hint(item, f"{key[:80]!r} of {name}", arguments[1]) for key, item in items}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} is {_describe(value)}, not a list")
        item_hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(value) != len(item_hints):
            raise ValueError(f"{name} has {len(value)} items, not {len(item_hints)}")
        return tuple(
            _convert_to_hint(item, f"an item of {name}", each) for item, each in zip(value, item_hints, strict=True)
        )
    return convert(value, name, hint)


def convert(value: Any, name: str, value_type: type[T]) -> T:
    """Return a value as ``value_type``, or raise as `read_field` does."""
    if value_type is float and isinstance(value, int) and not isinstance(value, bool):
        value = _to_float(value, name)
    if not isinstance(value, value_type) or (isinstance(value, bool) and value_type is not bool):
        raise TypeError(f"{name} is {_describe(value)}, not of type {value_type.__name__}")
    return _check_value(value, name)


def _check_value(value: S, name: str) -> S:
    """Return a value, or raise as `read_field` does if it is of a JSON type but cannot be stored or computed with."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, not a finite number")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"{name} is too large")
    if isinstance(value, str):
        value.encode()  # JSON can hold one half of a surrogate pair, which no text file can
    return value


def _to_float(value: int, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large") from None


def _describe(value: Any) -> str:
    """Return a JSON value for an error message, without the content of lists and objects, which may be large."""
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else repr(value)[:80]
