"""Files of studies: what every JSON file has that a command fills step by step and docs/results.md is built from."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch

from atari_dt.training.training_run import Hardware, find_hardware, installed_versions
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import read_field, read_versioned_dataclass
from replay_data.storage.atomic import atomic_write
from replay_data.storage.regular_files import read_json_file

S = TypeVar("S", bound="StudyFile")


class StudyFile:
    """Base class of dataclasses that are the content of a JSON file in ``docs/data``.

    A subclass raises a ValueError in ``__post_init__`` if its fields contradict each other.

    Attributes:
        study_type: Value of the field ``type`` of the file.
        format_version: Version of the file's format.
    """

    study_type: ClassVar[str]
    format_version: ClassVar[int] = 1

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        fields = dataclasses.asdict(cast(Any, self))
        return {"type": self.study_type, "format_version": self.format_version, **fields}

    @classmethod
    def from_json(cls: type[S], content: Any) -> S:
        """Read what `to_json` returned.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        check_type(content, cls.study_type)
        fields = {name: value for name, value in content.items() if name != "type"}
        return read_versioned_dataclass(fields, cls, cls.format_version)

    @classmethod
    def read(cls: type[S], path: Path) -> S | None:
        """Read a file, or return None if there is none.

        Raises:
            InputError: If the file cannot be read, or is malformed.
        """
        try:
            return cls.from_json(read_json_file(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, InputError) as error:
            raise InputError(
                f"{path} is not a file of this command ({summarize_error(error)}); choose another `out`"
            ) from error

    def write(self, path: Path) -> None:
        """Write or replace a file atomically.

        Raises:
            OSError: If the file cannot be written; it then keeps its old content.
        """
        atomic_write(path, json.dumps(self.to_json(), allow_nan=False) + "\n")


@dataclass(frozen=True)
class Session:
    """One call of a command.

    Attributes:
        command: The command; absolute paths are shortened by `strip_paths`.
        date: Day on which it began, such as ``2026-01-31``.
        hardware: Machine that it ran on.
        versions: Versions of Python and of some packages, by name.
    """

    command: str
    date: str
    hardware: Hardware
    versions: Mapping[str, str]

    @classmethod
    def begin(cls, words: Sequence[str], device: torch.device) -> Session:
        """Return the session of a command that begins now.

        Args:
            words: Words of the command line after ``python``.
            device: Device that it uses.
        """
        command = shlex.join(["python", *map(strip_paths, words)])
        return cls(command, datetime.date.today().isoformat(), find_hardware(device), installed_versions())


def check_type(content: Any, study_type: str) -> None:
    """Check the field ``type`` of a file in ``docs/data``.

    Raises:
        ValueError, KeyError, TypeError: If the content is malformed, or of another type.
    """
    if (found := read_field(content, "type", str)) != study_type:
        raise ValueError(f"its type is {found[:80]!r}, not {study_type!r}")


def strip_paths(text: str) -> str:
    """Return a text whose absolute paths are shortened to their last two parts, without the user's name.

    ``/mnt/disk/data/breakout`` becomes ``data/breakout``, ``/home/ann/data`` becomes ``data``, and ``/home/ann``
    becomes ``~``. URLs stay as they are.
    """
    return re.sub(r"\w+://\S+|(?<![\w./~-])(?:/+[\w.+@%-]+)+", lambda match: _strip_path(match[0]), text)


def _strip_path(path: str) -> str:
    if not path.startswith("/"):
        return path
    first, *parts = filter(None, path.split("/"))
    if first in ("home", "Users") and parts:
        return "/".join(parts[1:][-2:]) or "~"
    return "/".join(parts[-2:]) or first
