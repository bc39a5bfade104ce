"""write_report.py: what it refuses."""

from __future__ import annotations

import pytest

from tests.scripts.commands import (
    Refuse,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give the directory of at least one sweep"),
        ("{tmp}/no", "{tmp}/no has no runs; choose the directory of a sweep"),
        ("{tmp}/no.json", "an archive has no report of its own; give --archive too, to add sweeps to it"),
        ("{tmp}/no --archive {tmp}/new/x.json", "{tmp}/no has no runs; choose the directory of a sweep"),
        (
            "{tmp}/no --archive {tmp}/new/x",
            "--archive must end in .json, as in docs/data/sweep.json, not be {tmp}/new/x",
        ),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("write_report.py", options, message)
