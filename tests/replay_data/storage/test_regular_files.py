"""Files that are read whole must be regular and small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replay_data.errors import InputError
from replay_data.storage.regular_files import read_regular_file


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    (tmp_path / "link").symlink_to(path)
    assert read_regular_file(path, 4) == read_regular_file(tmp_path / "link", 4) == b"abcd"


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "file", 4)


def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "is a named pipe"),
        (Path("/dev/zero"), "is a named pipe, a device"),
    ):
        with pytest.raises(InputError, match=reason):
            read_regular_file(path, 4)


def test_a_file_of_implausible_size_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="1,099,511,627,776 bytes, but a file of its kind has at most 1,000"):
        read_regular_file(path, 1000)
