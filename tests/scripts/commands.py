"""Call the commands as a user does."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.atari_dt.training.processes import join, run_script, start
from tests.conftest import DATA

SCRIPTS = Path(__file__).parents[2] / "scripts"

Refuse: TypeAlias = Callable[[str, str, str], None]


def call(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> int:
    """Run a script in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    monkeypatch.syspath_prepend((SCRIPTS / script).parent)
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return 0


def limit_file_size() -> None:
    """Let no file grow beyond 60 KB: the same system call fails at the same place as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def hear_interrupts() -> None:
    """Undo what a shell does to background commands, whose children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lead_process_group() -> None:
    """Start a process group, as a terminal does for a command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def assert_failed_write_leaves_nothing(script: str, options: str, run: Path, tmp_path: Path) -> None:
    """Check that a command that runs out of disk prints one sentence and leaves no file behind."""
    paths = {"tmp": tmp_path, "store": run.parent / "store", "log": DATA / "dopamine_log"}
    output = tmp_path.with_name(f"{tmp_path.name}-output")
    assert join([start(run_script, script, options.format(**paths).split(), output, limit_file_size)]) == [1]
    errors = output.with_suffix(".err").read_text()
    last = errors.splitlines()[-1]
    assert last.startswith("error: ")
    assert "File too large" in last
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def assert_interruption_leaves_nothing(
    command: str, tmp_path: Path, signal_number: signal.Signals, early: bool
) -> None:
    """Check that a signal to the whole process group, as from a terminal, ends a command and leaves no file behind.

    Args:
        command: Script and options; the output goes to ``tmp_path / "new"``.
        tmp_path: Empty directory.
        signal_number: Signal to send.
        early: Whether to send it as soon as the output has begun, instead of in the middle of the work.
    """
    name, *options = command.split()
    output = tmp_path.with_name(f"{tmp_path.name}-output")
    process = start(run_script, name, [*options, "--out", f"{tmp_path}/new"], output, lead_process_group)
    assert process.pid is not None
    for _ in range(600):
        sizes = {path.name.split("_ckpt")[0]: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
        if sizes.get("frames.npy", 0) > 10**6 or sizes.get("$store$_observation", 0) > 50_000:
            break
        if early and list(tmp_path.iterdir()):
            time.sleep(0.3 if name == "collect_replay.py" else 0)
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal_number)
    assert join([process]) == [130]
    errors = output.with_suffix(".err").read_text()
    assert errors.splitlines()[-1] == "error: interrupted; nothing was kept"
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
