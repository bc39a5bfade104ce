"""Gzip streams through ISA-L, which reads Atari frames several times faster than zlib (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, cast

from isal import igzip, isal_zlib

from replay_data.errors import ReplayFormatError
from replay_data.storage.regular_files import check_regular_file

_COMPRESSION_LEVEL = 2  # ISA-L's: 6 GB/s and 122 bytes per Breakout frame; zlib's level 6: 0.2 GB/s and 83 bytes

_PEEKED_BYTES = 16

_MAX_BYTES = 16 << 30  # twice a file of a million frames that do not compress; ISA-L reads zeros after the end for ever

_DAMAGE_ERRORS = (igzip.BadGzipFile, cast(type[Exception], isal_zlib.error), ValueError)  # isal mistypes its error


def open_gzip(source: Path | RawIOBase, is_plain: Callable[[bytes], bool] | None = None) -> Any:
    """Open a gzip file for reading in binary mode; read it inside `translate_gzip_errors`.

    Args:
        source: Path, or an open file with a method ``peek``.
        is_plain: Function from the first bytes of a file to whether it is stored without compression; without it, every
            file is compressed.

    Raises:
        InputError: If ``source`` is a path to something other than a regular file, or to a file of more than 16 GiB.
    """
    if isinstance(source, Path):
        check_regular_file(source, _MAX_BYTES)
    if is_plain is not None:
        file: Any = source.open("rb") if isinstance(source, Path) else source
        if is_plain(file.peek(_PEEKED_BYTES)):
            return file
        if isinstance(source, Path):
            file.close()
    return igzip.open(source, "rb")


@contextmanager
def create_gzip(path: Path) -> Iterator[Any]:
    """Open a gzip file for writing in binary mode.

    Its header has no name and no time, so the same content gives the same bytes.
    """
    with path.open("wb") as file, igzip.IGzipFile("", "wb", _COMPRESSION_LEVEL, file, mtime=0) as stream:
        yield stream


@contextmanager
def translate_gzip_errors(describe: Callable[[str], ReplayFormatError]) -> Iterator[None]:
    """Translate the errors of damaged files (EOFError, ValueError, gzip errors), and disk errors without a file name.

    Args:
        describe: Function from the reason to the error to raise instead.
    """
    try:
        yield
    except EOFError as error:
        raise describe("the file is cut off") from error
    except _DAMAGE_ERRORS as error:
        raise describe(str(error)) from error
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise describe(error.strerror or "it cannot be read") from error
