"""Damaged files end in an InputError or in valid data, whatever the damage: no other exception, no hang, no memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests import hostile_files
from tests.atari_dt.training.processes import join, redirect_output, start


def _damage_files(directory: Path, num_mutations: int, targets: tuple[str, ...], output: Path) -> None:
    redirect_output(output)
    hostile_files.main(directory, 0, num_mutations, list(targets))


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory and time as Linux does")
@pytest.mark.parametrize(
    ("targets", "num_mutations"),
    [
        (("store", "log", "foreign log", "shard"), 1200),
        (("archive", "checkpoint", "original checkpoint", "run", "agent"), 1200),
    ],
)
def test_damaged_files_are_errors_or_valid(tmp_path: Path, targets: tuple[str, ...], num_mutations: int) -> None:
    """A process of its own reads the files, because its memory is limited."""
    output = tmp_path / "report"
    process = start(_damage_files, tmp_path / "files", num_mutations, targets, output)
    assert join([process]) == [0], output.with_suffix(".err").read_text()
    report = json.loads(output.with_suffix(".out").read_text())
    assert report["failures"] == {}
    outcomes = [key.split(" | ") for key in report["counts"]]
    assert sum(report["counts"].values()) == num_mutations
    assert {target for target, *_ in outcomes} == set(targets)
    assert {outcome for *_, outcome in outcomes} == {"error", "same data", "other data"}
