"""reproduce_benchmark.py: what it refuses."""

from __future__ import annotations

import pytest

from tests.scripts.commands import (
    Refuse,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data {tmp}/no --out {tmp}/new", "no data of Breakout in {tmp}/no/breakout"),
        ("--data {store} --out {tmp}/new", "{store} is a store itself"),
        ("--data {tmp} --out {tmp}/new --seeds", "give at least one game and one seed"),
        ("--data {tmp} --out {tmp}/new --games Breakuot", "unknown game 'Breakuot'"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("reproduce_benchmark.py", options, message)
