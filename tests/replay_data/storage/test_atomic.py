"""Directories that are there whole or not at all, and what killed processes leave of them."""

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
from replay_data.files import whole_directory
with whole_directory(pathlib.Path(sys.argv[1])) as partial:
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


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    killed = start_child(tmp_path / "out")
    (left,) = tmp_path.iterdir()
    living = start_child(tmp_path / "out")
    (lives,) = set(tmp_path.iterdir()) - {left}
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        (tmp_path / ".other.partial-1").mkdir()  # of another output
        with atomic_directory(tmp_path / "out") as partial:
            (partial / "file").write_text("whole")
            assert set(tmp_path.iterdir()) == {lives, partial, tmp_path / ".other.partial-1"}
        assert (tmp_path / "out" / "file").read_text() == "whole"
    finally:
        living.kill()
        living.wait()


def test_errors_carry_the_name_that_a_person_gave(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), name_file_in_errors(Path("mine"), tmp_path):
        (tmp_path / "hidden").read_text()
    with pytest.raises(FileNotFoundError, match="input"), name_file_in_errors(Path("mine"), tmp_path):
        Path("input").read_text()
