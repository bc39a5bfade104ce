"""What systems other than Linux lack."""

from __future__ import annotations

import builtins
import importlib
import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

from tests.atari_dt.training.processes import join, start

PACKAGES = ("replay_data", "atari_dt")

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}

MISSING = {
    signal: ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGSTOP", "setitimer", "pthread_sigmask", "SIG_BLOCK"),
    os: ("fork", "getuid", "killpg", "mkfifo", "sched_getaffinity", "setsid", "O_DIRECTORY", "O_NONBLOCK"),
}


def _import_all_as_on_windows(output: Path) -> None:
    """Import every module again, without what Windows lacks; write their number to a file."""
    names = [
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    ]
    for name in names:  # so that the libraries are there, which may use what this project may not
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    import_module = builtins.__import__

    def import_as_on_windows(name: str, globals: Any = None, *arguments: Any, **options: Any) -> Any:
        importer = str((globals or {}).get("__name__")).split(".")[0]
        if name.split(".")[0] in POSIX_MODULES and importer in PACKAGES:
            raise ModuleNotFoundError(f"{importer} imports {name}")
        return import_module(name, globals, *arguments, **options)

    builtins.__import__ = import_as_on_windows
    for module, attributes in MISSING.items():
        for attribute in attributes:
            delattr(module, attribute)
    for name in names:
        importlib.import_module(name)

    from atari_dt.interrupts import raise_on_interrupt
    from replay_data.storage.processes import available_cores, defer_signals

    assert available_cores() >= 1
    try:
        with raise_on_interrupt(), defer_signals():
            signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        output.write_text(str(len(names)))


def test_every_module_is_imported_without_what_windows_lacks(tmp_path: Path) -> None:
    assert join([start(_import_all_as_on_windows, tmp_path / "count")]) == [0]
    assert int((tmp_path / "count").read_text()) > 100
