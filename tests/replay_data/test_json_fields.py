"""Reading JSON that nobody has checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from replay_data.json_fields import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    parse_json,
    read_count,
    read_dataclass,
    read_field,
    read_scalars,
)
from replay_data.recording import check_game_name, read_action_meanings


@dataclass(frozen=True)
class Settings:
    layers: int
    rate: float = 0.5
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    multiples: tuple[float, ...] = (1.0,)
    exact: bool = False
    scores: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)


@pytest.mark.parametrize("opening", ["[", '{"x":'])
def test_nesting_is_limited(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    deepest = opening * (MAX_DEPTH + 1) + "1" + closing * (MAX_DEPTH + 1)
    assert parse_json(deepest) == json.loads(deepest)
    for text in (opening + deepest + closing, opening * 900 + "1" + closing * 900, opening * 100_000):
        with pytest.raises(ValueError, match="it is nested too deeply"):
            parse_json(text)


@pytest.mark.parametrize("item", ["[]", "{}"])
def test_the_number_of_lists_and_objects_is_limited(item: str) -> None:
    """A file of 32 MB could hold ten million of them, which take more than a gigabyte."""
    text = "[" + f"{item}," * MAX_CONTAINERS + "0]"
    for content in (text, text.encode()):
        with pytest.raises(ValueError, match="implausibly many lists and objects"):
            parse_json(content)


@pytest.mark.parametrize(
    ("content", "field_type"),
    [
        *(("NaN", float), ("Infinity", float), ("-1e999", float), ("1" + "0" * 400, float), ("1" + "0" * 400, int)),
        *((str(2**63), int), (r'"\ud800"', str)),
    ],
)
def test_values_that_no_array_or_file_can_hold_are_refused(content: str, field_type: Any) -> None:
    with pytest.raises(ValueError, match=r"finite|too large|surrogates"):
        read_field(parse_json('{"field": ' + content + "}"), "field", field_type)
    with pytest.raises(ValueError, match=r"finite|too large|surrogates"):
        read_scalars(parse_json('{"fields": {"x": ' + content + "}}"), "fields")


def test_counts_have_a_minimum() -> None:
    assert read_count({"n": 0}, "n") == 0
    with pytest.raises(ValueError, match="n is -1, but must be at least 0"):
        read_count({"n": -1}, "n")
    with pytest.raises(ValueError, match="n is 0, but must be at least 1"):
        read_count({"n": 0}, "n", minimum=1)


def test_dataclasses_are_read_with_their_types() -> None:
    content = {"layers": 2, "rate": 1, "limit": None, "betas": [0, 0.5], "multiples": [1, 2, 3], "mode": "b"}
    settings = read_dataclass(content, Settings)
    assert settings == Settings(2, 1.0, mode="b", limit=None, betas=(0.0, 0.5), multiples=(1.0, 2.0, 3.0))
    assert isinstance(settings.rate, float)
    assert read_dataclass({"layers": 2, "limit": 3}, Settings).limit == 3
    assert read_dataclass({"layers": 2, "scores": {"a": [1, None]}}, Settings).scores == {"a": (1.0, None)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"layers": 2.0}, "layers is 2.0, not of type int"),
        ({"layers": True}, "layers is True"),
        ({"layers": "2"}, "layers is '2'"),
        ({"layers": 2, "rate": math.nan}, "rate is nan, not a finite number"),
        ({"layers": 2, "mode": "c"}, "mode is 'c', not one of 'a', 'b'"),
        ({"layers": 2, "mode": []}, "mode is a list, not one of"),
        ({"layers": 2, "limit": 0.5}, "limit is 0.5"),
        ({"layers": 2, "betas": 0.9}, "betas is 0.9, not a list"),
        ({"layers": 2, "betas": [0.9]}, "betas has 1 items, not 2"),
        ({"layers": 2, "multiples": ["x"]}, "an item of multiples is 'x'"),
        ({"layers": 2, "exact": 1}, "exact is 1"),
        ({"layers": 2, "scores": []}, "a list is where an object should be"),
        ({"layers": 2, "scores": {"a": [1]}}, "'a' of scores has 1 items, not 2"),
        ({"layers": 2, "heads": 1}, "'heads' is unknown"),
        ({}, "layers"),
        ([], "a list is where an object should be"),
    ],
)
def test_dataclasses_with_malformed_fields_are_refused(content: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        read_dataclass(content, Settings)


@dataclass(frozen=True)
class Nested:
    first: Settings
    others: tuple[Settings, ...] = ()


def test_dataclasses_may_be_nested() -> None:
    settings = Settings(layers=2)
    assert read_dataclass({"first": {"layers": 2}, "others": [{"layers": 2}]}, Nested) == Nested(settings, (settings,))
    assert read_dataclass({"first": settings}, Nested) == Nested(settings)
    with pytest.raises(TypeError, match="'heads' is unknown"):
        read_dataclass({"first": {"layers": 2}, "others": [{"layers": 2, "heads": 1}]}, Nested)
    with pytest.raises(TypeError, match="where an object should be"):
        read_dataclass({"first": 2}, Nested)


@pytest.mark.parametrize("name", ["Breakout", "MsPacman", "TicTacToe3d", "Name This Game"])
def test_names_of_games(name: str) -> None:
    assert check_game_name(name) == name


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/etc", "a\\b", "C:x", "a\0", "a\nb", "Pong*", "x" * 65])
def test_names_that_are_paths_are_no_games(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a game"):
        check_game_name(name)


@pytest.mark.parametrize("meanings", [[], ["NOOP", 1], "NOOP", None, {"0": "NOOP"}, ["NOOP"] * 257])
def test_action_meanings_are_a_list_of_strings(meanings: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="action_meanings"):
        read_action_meanings({"action_meanings": meanings})
