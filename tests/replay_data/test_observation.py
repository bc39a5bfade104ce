"""Descriptions of observations: their JSON, and the entries that they select."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data.observation import FRAMES, RAM, ObservationSpec, variables_spec
from tests.mutations import HOSTILE_VALUES

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)


@st.composite
def specs(draw: st.DrawFn) -> ObservationSpec:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    addresses = draw(st.lists(st.integers(0, 127), min_size=len(names), max_size=len(names)))
    return draw(st.sampled_from([FRAMES, RAM, variables_spec(tuple(names), tuple(addresses))]))


@given(specs())
@settings(max_examples=50, deadline=None)
def test_a_spec_survives_its_json(spec: ObservationSpec) -> None:
    assert ObservationSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(specs(), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_a_vector_has_the_bytes_of_its_addresses(spec: ObservationSpec, seed: int) -> None:
    if not spec.is_vector:
        assert spec.state_shape == (4, 84, 84)
        assert spec.entry_names == ()
        return
    ram = np.random.default_rng(seed).integers(0, 256, (2, 3, 128), dtype=np.uint8)
    selected = spec.select(ram)
    addresses = spec.addresses or range(128)
    assert spec.state_shape == (len(addresses),) == (len(spec.entry_names),)
    assert selected.shape == (2, 3, *spec.state_shape)
    assert selected.dtype == np.uint8
    for entry, address in enumerate(addresses):
        assert (selected[..., entry] == ram[..., address]).all()
        assert spec.entry_names[entry] == (spec.names[entry] if spec.names else f"RAM {address}")


def test_hostile_json_is_refused_or_means_the_same() -> None:
    """No value in any place gives an observation that the content does not describe."""
    for spec in (FRAMES, RAM, variables_spec(("ball_x", "ball_y"), (99, 101))):
        original = spec.to_json()
        for name in (*original, "more"):
            for value in (*HOSTILE_VALUES, "frames", ["a", "b"], ["a", "a"], [99, 128], [-1, 3], [1.0, 2.0], [True, 1]):
                content: Any = {**copy.deepcopy(original), name: value}
                try:
                    read = ObservationSpec.from_json(content)
                except (ValueError, KeyError, TypeError):
                    continue
                assert read.to_json() == content
            content = {key: each for key, each in original.items() if key != name}
            if name != "more":
                with pytest.raises((ValueError, KeyError, TypeError)):
                    ObservationSpec.from_json(content)
    for content in HOSTILE_VALUES:
        with pytest.raises((ValueError, KeyError, TypeError)):
            ObservationSpec.from_json(content)


@pytest.mark.parametrize("name", ["", "ball x", "<b>", "a" * 65, "\ud800", "1x", "ball\n"])
def test_a_variable_needs_a_plain_name(name: str) -> None:
    """Names appear in error messages, tables and pages."""
    with pytest.raises(ValueError, match="name"):
        variables_spec((name,), (1,))
