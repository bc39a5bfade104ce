"""Processes that exit with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replay_data.storage.processes import defer_signals

CHILD_OF_MULTIPROCESSING = """
import multiprocessing, os, sys, time
from replay_data.storage.processes import exit_with_parent, wait_for_parent_process

def work():
    exit_with_parent(wait_for_parent_process)
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=work).start()
    time.sleep(60)
"""

CHILD_OF_A_PIPE = """
import os, subprocess, sys, time
program = '''
import os, time
from replay_data.storage.processes import exit_with_parent, stdin_is_pipe, wait_for_stdin_to_close
assert stdin_is_pipe()
exit_with_parent(wait_for_stdin_to_close)
print(os.getpid(), flush=True)
time.sleep(60)
'''
subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of processes from /proc")
@pytest.mark.parametrize("program", [CHILD_OF_MULTIPROCESSING, CHILD_OF_A_PIPE])
def test_child_exits_when_its_parent_is_killed(program: str) -> None:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_signals_arrive_after_the_block() -> None:
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    done = []

    def work() -> None:
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            done.append("work")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_processes_that_start_in_the_block_hear_no_signal() -> None:
    with defer_signals():
        first, second = (multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)) for _ in range(2))
        first.start()
        second.start()
    for process in (first, second):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
        process.join(0.3)
        assert process.is_alive()
        process.kill()
        process.join()
