"""Start the process of a run.

The workers of a Ray cluster import this file, which therefore imports neither PyTorch nor the emulator.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from replay_data.errors import InputError


def start_run(directory: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a run in a new process that Ctrl-C does not reach, and that ends when this process does."""
    with (directory / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "atari_dt.experiments.run", str(directory)],
            stdin=subprocess.PIPE,  # closes when this process ends, and with it the new process exits
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )


def run_on_node(directory: Path, threads: int) -> int:
    """Do a run in a worker of a Ray cluster; return the exit status of its process."""
    if not directory.is_dir():
        raise InputError(f"node {platform.node()} does not see {directory}; all nodes must share this directory")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray cancels with SIGINT, which a background node ignores
    process = start_run(directory, threads)
    with process:
        try:
            while process.poll() is None:
                time.sleep(0.5)  # Ray cancels between two lines of Python, but not during `process.wait`
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
