"""ablate_context_length.py: what it refuses."""

from __future__ import annotations

import pytest

from tests.scripts.commands import (
    Refuse,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data {store} --out {tmp}/new --context-length 5", "use --context-lengths, --seeds"),
        ("--data {store} --out {tmp}/new --seed 5", "--seed would be the same in all runs"),
        ("--data {store} --out {tmp}/new --equal updates --context-length 5", "use --context-lengths, --seeds"),
        (
            "--data {store} --out {tmp}/new --equal states",
            "--equal states needs --max-updates, the number of updates of",
        ),
        (
            "--data {store} --out {tmp}/new --equal seconds --context-length 5",
            "needs --max-updates, the number of updates of a run with K = 5",
        ),
        ("--data {store} --out {tmp}/new --equal seconds --max-updates 5 --batch-size 500", "a batch of 500 is larger"),
        ("--data {store} --out {tmp}/new --equal", "--equal must name at least one of updates, states, seconds"),
        ("--data {store} --out {tmp}/new --context-lengths 0", "must be at least 1, not 0"),
        ("--data {store} --out {tmp}/new --jobs 0", "jobs must be at least 1, not 0"),
        ("--data {store} --out {tmp}/new --threads 0", "threads must be at least 1, not 0"),
        ("--data {store} --out {tmp}/new --max-steps 0", "--max-steps must be between 1 and 27000, not 0"),
        ("--data {store} --out {tmp}/new --return-multiples nan", "must be finite numbers"),
        ("--data {tmp}/no --out {tmp}/new", "no trajectory store at {tmp}/no"),
        ("--data {store} --out {tmp}/new --seeds", "at least one context length and one seed"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("ablate_context_length.py", options, message)
