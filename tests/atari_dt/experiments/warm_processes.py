"""Start Python processes as forks of this one, which has imported PyTorch already.

A new interpreter takes several seconds to import PyTorch and the libraries around it, far longer than the work of these
tests. A fork does the same work from the first line of the script on, with the same signals, pipes and session.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class WarmPopen(subprocess.Popen[Any]):
    """A process as of `subprocess.Popen` that runs ``python SCRIPT …`` or ``python -m MODULE …`` in a fork of this one.

    Args:
        args: Command, with ``sys.executable`` in front.
        **options: Options of `subprocess.Popen`; the environment and ``preexec_fn`` have no effect.
    """

    def __init__(self, args: Sequence[str], **options: Any):
        assert args[0] == sys.executable

        def run_in_fork() -> None:
            _release_descriptors()
            os._exit(_run(args[1:]))

        super().__init__(args, **{**options, "preexec_fn": run_in_fork})


def _release_descriptors() -> None:
    """Let go of the files of the parent, such as the pipe that tells it when the child runs its program.

    The descriptors stay in use, because file objects of the parent close them when they are collected.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/dev/fd"):
        if (descriptor := int(name)) > 2 and descriptor != null:
            os.dup2(null, descriptor, inheritable=False)


def _run(arguments: Sequence[str]) -> int:
    """Run a script or a module as its own process would; return the exit status."""
    gc.enable()  # subprocess disables it before it forks
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, closefd=False) for fd, mode in enumerate("rww"))
    try:
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            sys.modules.pop(arguments[1], None)  # runpy would warn about a module that is imported already
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            runpy.run_path(str(Path(arguments[0])), run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
