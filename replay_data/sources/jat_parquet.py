"""Read the Parquet files of the JAT dataset in bounded memory, one episode at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from replay_data.errors import InputError, ReplayFormatError, summarize_error
from replay_data.sources.jat_row import JatRow
from replay_data.sources.parquet_layout import MAX_FOOTER_BYTES, ColumnChunk, check_pages, read_footer
from replay_data.storage.regular_files import check_regular_file

if TYPE_CHECKING:
    from pyarrow import parquet

IMAGES, ACTIONS, REWARDS = "image_observations", "discrete_actions", "rewards"

_COLUMNS = {IMAGES: "PNG images", ACTIONS: "64-bit integers", REWARDS: "32-bit floats"}

# Steps of an episode. EnvPool ends a game after 108,000 steps or, in newer versions, 27,000.
MAX_STEPS = 108_000

_MAX_FILE_BYTES = 4 << 30  # the largest files have 500 MB

_MAX_STEPS_PER_FILE = 5_000_000  # ten times those of a game in all its files

_MAX_ROW_GROUPS = 10_000  # a file of a game has at most a few hundred episodes

_DAMAGE_ERRORS = (ValueError, TypeError, KeyError, NotImplementedError, OSError, MemoryError)  # of pyarrow's bindings


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
        check_regular_file(path, _MAX_FILE_BYTES)
        with self._translate_errors():
            row_groups = read_footer(path)
            self._file = _open(path)
            if problem := _find_schema_problem(self._file):
                raise ReplayFormatError(
                    f"{path} is not a file of an Atari game of the JAT dataset: {problem}; give the files of the game"
                )
            self.num_rows: int = self._file.metadata.num_rows
            self.num_steps = _check_layout(path, _list_leaves(self._file), row_groups)

    def rows(self, only_rewards: bool = False) -> Iterator[JatRow]:
        """Yield the episodes, in the order of the file.

        Args:
            only_rewards: Whether to leave out actions and images, which take longer.

        Raises:
            ReplayFormatError: If a row is damaged.
        """
        columns = [REWARDS] if only_rewards else [REWARDS, ACTIONS, *_find_images(_list_leaves(self._file))]
        index = 0
        with self._translate_errors(lambda: index):
            for batch in self._file.iter_batches(batch_size=1, columns=columns, use_threads=False):
                batch.validate(full=True)  # pyarrow does not compare indices and offsets with what they point into
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
            "pip install pyarrow"
        ) from error
    return parquet


def _open(path: Path) -> parquet.ParquetFile:
    """Open a Parquet file so that it is read page by page, and a value that repeats is kept once."""
    parquet = import_parquet()
    limits = {"thrift_string_size_limit": MAX_FOOTER_BYTES, "thrift_container_size_limit": MAX_FOOTER_BYTES}
    with parquet.ParquetFile(path, **limits) as file:
        metadata, images = file.metadata, _find_images(_list_leaves(file))
    return parquet.ParquetFile(
        path,
        metadata=metadata,
        read_dictionary=images,
        buffer_size=1 << 20,
        pre_buffer=False,  # a row group may be a whole file
        page_checksum_verification=True,
        **limits,
    )


def _find_schema_problem(file: parquet.ParquetFile) -> str | None:
    """Return what a file has other than a file of an Atari game should have; None if nothing."""
    schema = file.schema_arrow
    for column, description in _COLUMNS.items():
        if column not in schema.names:
            return f"it has no column {column}, only {', '.join(schema.names)[:200]}"
        if not _matches(schema.field(column).type, column):
            return f"its column {column} does not hold lists of {description}"
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


def _list_leaves(file: parquet.ParquetFile) -> list[str]:
    """Return the paths of the leaves of the schema, such as ``image_observations.list.element.bytes``."""
    return [file.schema.column(index).path for index in range(len(file.schema))]


def _find_images(leaves: list[str]) -> list[str]:
    """Return the leaf that holds the PNG files, as a list of one if there is such a leaf."""
    return [leaf for leaf in leaves if leaf.startswith(f"{IMAGES}.") and leaf.endswith(".bytes")][:1]


def _check_layout(path: Path, leaves: list[str], row_groups: list[list[ColumnChunk]]) -> int:
    """Check that the file announces a plausible number of values and bytes, and return the number of steps.

    Raises:
        ValueError: If it does not.
    """
    if len(row_groups) > _MAX_ROW_GROUPS or any(len(chunks) != len(leaves) for chunks in row_groups):
        raise ValueError("its row groups do not fit its schema")
    chunks = []
    num_steps = 0
    for leaf, chunk in (pair for group in row_groups for pair in zip(leaves, group, strict=True)):
        column = leaf.partition(".")[0]
        if column in (REWARDS, ACTIONS) or leaf in _find_images(leaves):
            chunks.append(chunk)
        num_steps += chunk.num_values if column == REWARDS else 0
        if chunk.num_values > _MAX_STEPS_PER_FILE or num_steps > _MAX_STEPS_PER_FILE:
            raise ValueError(f"it announces {max(chunk.num_values, num_steps):,} steps")
    check_pages(path, chunks)
    return num_steps


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
    values = [memoryview(value.as_buffer()).cast("B") for value in _reject_nulls(images.dictionary, IMAGES)]
    return JatRow(index, rewards, lists[ACTIONS].to_numpy(), [values[item] for item in images.indices.to_numpy()])


def _flatten(column: Any, name: str) -> Any:
    """Return the items of the list in a column of one row."""
    return _reject_nulls(_reject_nulls(column, name).flatten(), name)


def _reject_nulls(values: Any, name: str) -> Any:
    """Return ``values``, or raise ValueError if one is missing."""
    if values.null_count:
        raise ValueError(f"a value of {name} is missing")
    return values
