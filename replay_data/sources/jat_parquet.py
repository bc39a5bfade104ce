"""Read the Parquet files of the JAT dataset in bounded memory, one episode at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, Episode
from replay_data.errors import InputError, ReplayFormatError, summarize_error
from replay_data.storage.regular_files import check_regular_file

if TYPE_CHECKING:
    from pyarrow import parquet

IMAGES, ACTIONS, REWARDS = "image_observations", "discrete_actions", "rewards"

_COLUMNS = {IMAGES: "PNG images", ACTIONS: "64-bit integers", REWARDS: "32-bit floats"}

# Steps of an episode. EnvPool ends a game after 108,000 steps or, in newer versions, 27,000.
MAX_STEPS = 108_000

_MAX_FILE_BYTES = 4 << 30  # the largest files have 500 MB

_MAX_FOOTER_BYTES = 16 << 20  # a file of 1,000 row groups has 1 MB

# Bytes of a PNG of four 84×84 channels. Stored without compression it has 84 rows of 337 bytes, and about 100 more.
_MAX_PNG_BYTES = 1 << 15

_PNG_START = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    + b"".join(size.to_bytes(4, "big") for size in FRAME_SHAPE[::-1])
    + b"\x08\x06"  # 8 bits a channel, RGBA
)

# OpenCV returns the channels of an RGBA image as BGRA. The stack's channels are RGBA, the oldest frame first.
_NEWEST, _SECOND_NEWEST = 3, 0

# Share of the steps that must continue the stack of the step before. A lost life interrupts it once.
_MIN_CONTINUED = 0.9

_MAX_STEPS_PER_FILE = 5_000_000  # ten times those of a game in all its files

_MAGIC = b"PAR1"

_DAMAGE_ERRORS = (ValueError, TypeError, KeyError, NotImplementedError, OSError, MemoryError)  # of pyarrow's bindings


@dataclass(frozen=True)
class JatRow:
    """An episode of T steps whose stacks are not decoded yet.

    Attributes:
        index: Position in its file, counted from 0.
        rewards: float32 ``[T]``, not clipped.
        actions: int64 ``[T]``; empty if only rewards were read.
        images: T PNG files; empty if only rewards were read.
    """

    index: int
    rewards: npt.NDArray[np.float32]
    actions: npt.NDArray[np.int64]
    images: list[memoryview]

    def decode(self, terminated: bool) -> Episode:
        """Return the episode with the newest frame of each stack decoded.

        Args:
            terminated: Whether the game was over after the last step.

        Raises:
            ValueError: If an image is not a PNG of four 84×84 channels, or the stacks do not continue each other.
        """
        from replay_data.opencv import cv2

        frames = np.empty((len(self.images), *FRAME_SHAPE), dtype=np.uint8)
        num_continued = 0
        for step, png in enumerate(self.images):
            stack = None
            # The size in the header is checked before OpenCV allocates memory for it.
            if len(png) <= _MAX_PNG_BYTES and bytes(png[: len(_PNG_START)]) == _PNG_START:
                with contextlib.suppress(cv2.error):
                    stack = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
            if stack is None or stack.shape != (*FRAME_SHAPE, 4) or stack.dtype != np.uint8:
                raise ValueError(f"image {step} is not a PNG of four 84×84 channels")
            frames[step] = stack[..., _NEWEST]
            num_continued += step > 0 and np.array_equal(stack[..., _SECOND_NEWEST], frames[step - 1])
        if num_continued < _MIN_CONTINUED * (len(frames) - 1):
            raise ValueError(
                f"only {num_continued:,} of its {len(frames) - 1:,} stacks of frames continue the one before with the "
                "newest frame last"
            )
        return Episode(frames, self.actions.astype(np.uint8), self.rewards.clip(-1, 1), self.rewards, terminated)


class JatFile:
    """One open Parquet file of the dataset.

    Args:
        path: The file.
        advice: What to do if the file is damaged.

    Attributes:
        num_rows: Number of episodes.
        num_steps: Number of steps.

    Raises:
        ReplayFormatError: If it is not a file of the dataset, or is cut off.
        InputError: If pyarrow is missing, or the path is not a regular file.
    """

    def __init__(self, path: Path, advice: str):
        self._path, self._advice = path, advice
        _check_ends(path, advice)
        with self._translate_errors():
            self._file = _open(path)
            if problem := _find_schema_problem(self._file):
                raise ReplayFormatError(
                    f"{path} is not a file of an Atari game of the JAT dataset: {problem}; give the files of the game"
                )
            self.num_rows: int = self._file.metadata.num_rows
            self.num_steps = sum(chunk.num_values for chunk in _chunks(self._file, REWARDS))

    def rows(self, only_rewards: bool = False) -> Iterator[JatRow]:
        """Yield the episodes, in the order of the file.

        Args:
            only_rewards: Whether to leave out actions and images, which take longer.

        Raises:
            ReplayFormatError: If a row is damaged.
        """
        columns = [REWARDS] if only_rewards else [REWARDS, ACTIONS, *_paths(self._file, IMAGES, ".bytes")]
        index = 0
        with self._translate_errors(lambda: index):
            for batch in self._file.iter_batches(batch_size=1, columns=columns, use_threads=False):
                yield _read_row(batch, index)
                index += 1
            if not index:
                raise ValueError("it holds no episode")

    def damaged(self, reason: str, row: int | None = None) -> ReplayFormatError:
        """Return an error that says why the file, or one of its rows, is damaged."""
        place = "" if row is None else f" at row {row}"
        return ReplayFormatError(f"{self._path} is damaged{place} ({reason}); {self._advice}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _translate_errors(self, row: Callable[[], int | None] = lambda: None) -> Iterator[None]:
        """Translate the errors of damaged files, which pyarrow raises as exceptions of many types."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            of_pyarrow = any(base.__module__.partition(".")[0] == "pyarrow" for base in type(error).__mro__)
            if not of_pyarrow and (not isinstance(error, _DAMAGE_ERRORS) or getattr(error, "errno", None) is not None):
                raise
            reason = str(error) if type(error) is ValueError else summarize_error(error)
            raise self.damaged(reason, row()) from error


def import_parquet() -> Any:
    """Return the module ``pyarrow.parquet``.

    Raises:
        InputError: If pyarrow is missing.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"the JAT dataset is read with pyarrow, which cannot be imported ({summarize_error(error)}); install it: "
            'pip install "atari-dt[jat]"'
        ) from error
    return parquet


def _open(path: Path) -> parquet.ParquetFile:
    """Open a Parquet file so that it is read page by page, and a value that repeats is kept once."""
    parquet = import_parquet()
    limits = {"thrift_string_size_limit": _MAX_FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    with parquet.ParquetFile(path, **limits) as file:
        metadata, images = file.metadata, _paths(file, IMAGES, ".bytes")
    return parquet.ParquetFile(
        path,
        metadata=metadata,
        read_dictionary=images,
        buffer_size=1 << 20,
        page_checksum_verification=True,
        **limits,
    )


def _check_ends(path: Path, advice: str) -> None:
    """Check the magic bytes and the size of the footer, before pyarrow reads a footer of any size into memory.

    Raises:
        ReplayFormatError: If the file is none of Parquet's, or is cut off.
        InputError: If the path is not a regular file.
    """
    check_regular_file(path, _MAX_FILE_BYTES)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(len(_MAGIC))
        file.seek(max(0, size - 8))
        end = file.read(8)
    if start != _MAGIC:
        raise ReplayFormatError(f"{path} is not a Parquet file; {advice}")
    if size < 12 or end[4:] != _MAGIC:
        raise ReplayFormatError(f"{path} is cut off; {advice}")
    if int.from_bytes(end[:4], "little") > min(size - 12, _MAX_FOOTER_BYTES):
        raise ReplayFormatError(f"{path} is damaged (its footer has an impossible size); {advice}")


def _find_schema_problem(file: parquet.ParquetFile) -> str | None:
    """Return what a file has other than a file of an Atari game should have; None if nothing."""
    schema = file.schema_arrow
    for column, description in _COLUMNS.items():
        if column not in schema.names:
            return f"it has no column {column}, only {', '.join(schema.names)[:200]}"
        if not _matches(schema.field(column).type, column):
            return f"its column {column} does not hold lists of {description}"
        num_values = sum(chunk.num_values for chunk in _chunks(file, column))
        if num_values > min(_MAX_STEPS_PER_FILE, MAX_STEPS * file.metadata.num_rows) * len(_paths(file, column, "")):
            return f"it has {num_values:,} values of {column} in {file.metadata.num_rows:,} episodes"
    return None


def _matches(list_type: Any, column: str) -> bool:
    """Return whether the type of a column, as pyarrow names it, is the one in the dataset."""
    from pyarrow import types

    if not (types.is_list(list_type) or types.is_large_list(list_type)):
        return False
    item = list_type.value_type
    if column == ACTIONS:
        return bool(types.is_int64(item))
    if column == REWARDS:
        return bool(types.is_float32(item))
    if not types.is_struct(item) or item.get_field_index("bytes") < 0:
        return False
    image = item.field("bytes").type
    return types.is_dictionary(image) and types.is_binary(image.value_type)


def _paths(file: parquet.ParquetFile, column: str, ending: str) -> list[str]:
    """Return the paths of the leaves of a column, such as ``image_observations.list.element.bytes``."""
    schema = file.schema
    paths = [schema.column(index).path for index in range(len(schema))]
    return [path for path in paths if path.split(".")[0] == column and path.endswith(ending)]


def _chunks(file: parquet.ParquetFile, column: str) -> Iterator[Any]:
    """Yield the metadata of each chunk of the leaves of a column."""
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for index in range(row_group.num_columns):
            if row_group.column(index).path_in_schema.split(".")[0] == column:
                yield row_group.column(index)


def _read_row(batch: Any, index: int) -> JatRow:
    """Return the episode of a batch of one row.

    Raises:
        ValueError: If its columns are not those of an episode.
    """
    lists = {name: _flatten(batch.column(name), name) for name in batch.schema.names}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1 or not lengths[REWARDS]:
        listed = ", ".join(f"{length:,} {name}" for name, length in lengths.items())
        raise ValueError(f"its columns should have the same length and not be empty: {listed}")
    if lengths[REWARDS] > MAX_STEPS:
        raise ValueError(f"it has {lengths[REWARDS]:,} steps, and an episode has at most {MAX_STEPS:,}")
    rewards = lists[REWARDS].to_numpy()
    if not np.isfinite(rewards).all():
        raise ValueError("one of its rewards is not a finite number")
    if ACTIONS not in lists:
        return JatRow(index, rewards, np.empty(0, np.int64), [])
    images = _reject_nulls(lists[IMAGES].field("bytes"), IMAGES)
    values = [memoryview(value.as_buffer()) for value in _reject_nulls(images.dictionary, IMAGES)]
    return JatRow(index, rewards, lists[ACTIONS].to_numpy(), [values[item] for item in images.indices.to_numpy()])


def _flatten(column: Any, name: str) -> Any:
    """Return the items of the list in a column of one row."""
    return _reject_nulls(_reject_nulls(column, name).flatten(), name)


def _reject_nulls(values: Any, name: str) -> Any:
    """Return ``values``, or raise ValueError if one is missing."""
    if values.null_count:
        raise ValueError(f"a value of {name} is missing")
    return values
