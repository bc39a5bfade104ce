"""Locks on directories, also on systems that lock only files."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import lock_descriptor

from replay_data import InputError
from replay_data.storage import atomic, locks
from replay_data.storage.atomic import atomic_directory, atomic_write
from replay_data.storage.locks import exclusive_lock, lock_directory

HOLDER = """
import pathlib, sys, time
from replay_data.storage import locks
if sys.argv[2] == "files":
    def open_only_files(path, *flags, open=locks.os.open):
        if locks.os.path.isdir(path):
            raise PermissionError
        return open(path, *flags)
    locks.os.open = open_only_files
with locks.lock_directory(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def _open_no_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `os.open` fail for directories, as on Windows."""
    open_file = os.open

    def open_only_files(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", open_only_files)


def _lock_no_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let locks on directories fail, as on NFS."""

    def lock_only_files(descriptor: int, blocking: bool) -> bool:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        return lock_descriptor(descriptor, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", lock_only_files)


@pytest.mark.parametrize("system", [lambda monkeypatch: None, _open_no_directories, _lock_no_directories])
def test_a_directory_has_one_holder(system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch)
    directory = tmp_path / "run"
    directory.mkdir()
    for _ in range(2):
        with exclusive_lock(directory, "training in"):
            message = r"another command is training in .*run; wait for it or choose"
            with pytest.raises(InputError, match=message), exclusive_lock(directory, "training in"):
                pass
            with pytest.raises(BlockingIOError), lock_directory(directory):
                pass
            assert list(directory.iterdir()) == []
        assert list(tmp_path.iterdir()) == [directory]
    with pytest.raises(FileNotFoundError), lock_directory(tmp_path / "nowhere"):
        pass


@pytest.mark.parametrize("system", ["directories", "files"])
def test_a_killed_process_holds_no_lock(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if system == "files":
        _open_no_directories(monkeypatch)
    directory = tmp_path / "run"
    directory.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLDER, directory, system], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline()
        with pytest.raises(BlockingIOError), lock_directory(directory):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    left = [tmp_path / ".run.lock"] if system == "files" else []
    assert sorted(tmp_path.iterdir()) == [*left, directory]
    with lock_directory(directory):
        pass
    assert list(tmp_path.iterdir()) == [directory]


def test_a_file_system_without_locks_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", fail)
    with exclusive_lock(tmp_path, "training in"), exclusive_lock(tmp_path, "training in"):
        pass
    assert list(tmp_path.parent.glob(f".{tmp_path.name}.lock")) == []


def test_files_are_written_where_only_writable_files_can_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows opens no directories, and flushes no file that is open only for reading."""

    def flush(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    _open_no_directories(monkeypatch)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(atomic, "_ON_WINDOWS", True)
    with atomic_directory(tmp_path / "store") as partial:
        (partial / "file").write_text("content")
    atomic_write(tmp_path / "file", "old")
    atomic_write(tmp_path / "file", "new")
    assert (tmp_path / "store" / "file").read_text() == "content"
    assert (tmp_path / "file").read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "store"]
