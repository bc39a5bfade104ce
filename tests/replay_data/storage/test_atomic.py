"""Atomic directories, and the leftovers of killed processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replay_data.storage.atomic import atomic_directory, name_file_in_errors

CHILD = """
import pathlib, sys, time
from replay_data.storage.atomic import atomic_directory
with atomic_directory(pathlib.Path(sys.argv[1])) as partial:
    (partial / "half").write_text("written")
    time.sleep(60)
"""


def start_child(path: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)])
    before = set(path.parent.glob(f".{path.name}.partial-*/half"))
    while not set(path.parent.glob(f".{path.name}.partial-*/half")) - before:
        assert child.poll() is None
        time.sleep(0.01)
    return child


def test_leftovers_of_killed_processes_are_removed_and_directories_of_living_ones_are_not(tmp_path: Path) -> None:
    killed = start_child(tmp_path / "out")
    (leftover,) = tmp_path.iterdir()
    living = start_child(tmp_path / "out")
    (in_use,) = set(tmp_path.iterdir()) - {leftover}
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        (tmp_path / ".other.partial-1").mkdir()  # belongs to another output
        with atomic_directory(tmp_path / "out") as partial:
            (partial / "file").write_text("whole")
            assert set(tmp_path.iterdir()) == {in_use, partial, tmp_path / ".other.partial-1"}
        assert (tmp_path / "out" / "file").read_text() == "whole"
    finally:
        living.kill()
        living.wait()


def test_errors_name_the_path_that_the_user_knows(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="output"), name_file_in_errors(Path("output"), tmp_path):
        (tmp_path / "hidden").read_text()
    with pytest.raises(FileNotFoundError, match="input"), name_file_in_errors(Path("output"), tmp_path):
        Path("input").read_text()
