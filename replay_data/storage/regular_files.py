"""Read small files whole, and nothing that only looks like one."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from replay_data.errors import InputError, summarize_error
from replay_data.json_fields import parse_json

T = TypeVar("T")

MAX_JSON_BYTES = 32 << 20  # twice the largest file that this project writes; parsing one takes about 20 times as much


def check_regular_file(path: Path, max_bytes: int | None = None) -> None:
    """Check that ``path`` is a regular file of plausible size, before it is opened.

    Opening a named pipe waits until somebody writes into it, and a device may never end.

    Args:
        path: Path of the file, or of a link to it.
        max_bytes: Largest plausible size in bytes; None for any size.

    Raises:
        InputError: If it is a directory, a named pipe, a device, a socket or a link to nothing, or is too large.
        FileNotFoundError: If there is no such file.
    """
    if path.is_symlink() and not os.path.exists(path):
        raise InputError(f"{path} is a link to {os.readlink(path)}, which does not exist; copy the file itself there")
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory, not a file; give the path of a file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a named pipe, a device or a socket, not a regular file; copy the file there")
    if max_bytes is not None and status.st_size > max_bytes:
        raise InputError(
            f"{path} has {status.st_size:,} bytes, but a file of its kind has at most {max_bytes:,}; "
            "it is damaged or another file"
        )


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most ``max_bytes`` bytes.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file` does.
    """
    check_regular_file(path, max_bytes)
    with path.open("rb") as file:
        return file.read(max_bytes)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file`.
    """
    check_regular_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json_file(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        InputError, FileNotFoundError: As `check_regular_file` does for a file of more than `MAX_JSON_BYTES`.
        ValueError: As `parse_json` does.
    """
    return parse_json(read_regular_file(path, MAX_JSON_BYTES))


def read_json_as(path: Path, from_json: Callable[[Any], T], advice: str) -> T:
    """Return what a function makes of the value of a JSON file.

    Args:
        path: Path of the file.
        from_json: Function that reads the value. It may raise an InputError, ValueError, KeyError or TypeError.
        advice: Clause that says what to do with a file that cannot be read.

    Raises:
        InputError: If the file cannot be read, or its value is malformed.
    """
    try:
        return from_json(read_json_file(path))
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{path} cannot be read ({summarize_error(error)}); {advice}") from error
