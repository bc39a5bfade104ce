"""Damaged files end in an InputError or in valid data, whatever the damage: no other exception, no hang, no memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory and time as Linux does")
@pytest.mark.parametrize(
    ("targets", "num_mutations"),
    [(("store", "log", "foreign log", "shard"), 1200), (("checkpoint", "original checkpoint", "run", "agent"), 1200)],
)
def test_damaged_files_are_errors_or_valid(tmp_path: Path, targets: tuple[str, ...], num_mutations: int) -> None:
    """A process of its own reads the files, because its memory is limited."""
    command = [sys.executable, "-m", "tests.hostile_files", str(tmp_path), "0", str(num_mutations), *targets]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["failures"] == {}
    outcomes = [key.split(" | ") for key in report["counts"]]
    assert sum(report["counts"].values()) == num_mutations
    assert {target for target, *_ in outcomes} == set(targets)
    assert {outcome for *_, outcome in outcomes} == {"error", "same data", "other data"}
