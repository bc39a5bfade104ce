"""The layout of Parquet files: it is what pyarrow says, and a damaged one cannot take memory or end the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from replay_data.errors import InputError, ReplayFormatError
from replay_data.sources.jat import JatShard
from replay_data.sources.parquet_layout import ColumnChunk, check_pages, read_footer
from tests.replay_data.jat_files import SCHEMA, make_row, write_jat
from tests.replay_data.recordings import damaged, truth


def write_play(file: Path, steps: int = 12, **options: Any) -> Path:
    """Write two episodes."""
    rows = [{name: values[:steps] for name, values in make_row(truth()[0]).items()} for _ in range(2)]
    return write_jat(file, rows, **options)


@pytest.mark.parametrize("options", [{"row_group_size": 1}, {"use_dictionary": False, "data_page_version": "2.0"}])
def test_the_footer_is_what_pyarrow_says(tmp_path: Path, options: dict[str, Any]) -> None:
    file = write_play(tmp_path / "play.parquet", **options)
    metadata = parquet.ParquetFile(file).metadata
    expected = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        chunks = [group.column(index) for index in range(group.num_columns)]
        starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
        expected.append(
            [
                ColumnChunk(chunk.num_values, start, start + chunk.total_compressed_size)
                for chunk, start in zip(chunks, starts, strict=True)
            ]
        )
    assert read_footer(file) == expected
    check_pages(file, [chunk for chunks in expected for chunk in chunks])


def write_repeated(file: Path, image: bytes, steps: int, **options: Any) -> Path:
    """Write an episode in which all steps are the same."""
    images = pa.DictionaryArray.from_arrays(pa.array(np.zeros(steps, np.int32)), pa.array([image], pa.binary()))
    structs = pa.StructArray.from_arrays([images, pa.nulls(steps, pa.string())], names=["bytes", "path"])
    columns = structs, pa.array(np.zeros(steps, np.int64)), pa.array(np.zeros(steps, np.float32))
    lists = [pa.ListArray.from_arrays([0, steps], values) for values in columns]
    parquet.write_table(pa.table(lists, names=SCHEMA.names), file, store_schema=False, **options)
    return file


@pytest.mark.parametrize(
    ("image", "steps", "options", "reason"),
    [
        # A megabyte of PNG in a page that refers to it 5,000 times.
        (b"x" * 900_000, 5000, {}, " at row 0 (image 0 is not a PNG of four 84×84 channels, or is damaged)"),
        # 40 MB in a compressed page.
        (b"x" * 900_000, 45, {"use_dictionary": False, "compression": "gzip"}, " (a page announces more bytes or val"),
        # 84 MB in many pages.
        (b"x" * 7000, 12_000, {"use_dictionary": False, "compression": "zstd"}, " (a page announces more bytes or val"),
        # Six million steps in pages of a few bytes.
        (b"", 6_000_000, {}, " (it announces 6,000,000 steps)"),
        (b"", 200_000, {}, " at row 0 (it has 200,000 steps, and an episode has at most 108,000)"),
    ],
)
def test_a_small_file_takes_little_memory(
    tmp_path: Path, image: bytes, steps: int, options: dict[str, Any], reason: str
) -> None:
    file = write_repeated(tmp_path / "large.parquet", image, steps, **options)
    assert file.stat().st_size < 100_000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(ReplayFormatError) as error:
        list(JatShard(file, 4).episodes())
    assert str(error.value).startswith(f"{file} is damaged{reason}")
    assert pa.default_memory_pool().max_memory() < max(before + 1, 20_000_000)


def test_a_schema_that_contradicts_the_statistics_does_not_end_the_process(tmp_path: Path) -> None:
    """pyarrow 26 calls ``abort`` when it is asked for the metadata of such a column chunk."""
    file = write_play(tmp_path / "play.parquet")
    optional, required = (number + b"\x18\x07rewards" for number in (b"\x02", b"\x00"))
    content = file.read_bytes()
    assert content.count(optional) == 1
    file.write_bytes(content.replace(optional, required))
    with pytest.raises(ReplayFormatError, match=r"at row 0 \("):
        list(JatShard(file, 4).returns())


def test_an_index_outside_the_dictionary_is_refused(tmp_path: Path) -> None:
    """A dictionary page that announces 11 images, to which the data refers as 12."""
    file = write_play(tmp_path / "play.parquet", steps=12)
    content = file.read_bytes()
    twelve, eleven = (b"\x4c\x15" + bytes([2 * number]) for number in (12, 11))  # the header of a dictionary page
    assert content.count(twelve) == 1
    file.write_bytes(content.replace(twelve, eleven))
    with pytest.raises(ReplayFormatError, match=r"at row 0 \(ArrowInvalid: .* out of bounds: 11"):
        list(JatShard(file, 4).episodes())


def test_random_damage_gets_one_sentence(tmp_path: Path) -> None:
    """Damage anywhere, and single bits of the footer and of the headers of pages."""
    file = write_play(tmp_path / "play.parquet", row_group_size=1)
    content = file.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    rng = np.random.default_rng(0)
    errors = []
    for trial in range(90):
        changed = bytearray(damaged(content, rng) if trial % 3 == 0 else content)
        if trial % 3:
            low, high = (footer, len(content) - 8) if trial % 3 == 1 else (4, 40)
            changed[rng.integers(low, high)] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        shard = JatShard(file, 4)
        try:
            list(shard.returns())
            list(shard.episodes())
        except InputError as error:
            errors.append(str(error))
        shard.close()
    assert 30 < len(errors) < 90
    assert all(error.startswith(str(file)) and "\n" not in error for error in errors)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not a Parquet file"),
        (b"PAR1PAR1", "it is cut off"),
        (b"PAR1" + bytes(100), "it is cut off"),
        (b"\x1f\x8b" + bytes(100), "it is not a Parquet file"),
        (b"PAR1" + bytes(4) + b"\xff\xff\xff\x7fPAR1", "its footer has an impossible size, 2,147,483,647 bytes"),
        (b"PAR1" + b"\x3c" * 50 + b"\x32\0\0\0PAR1", "its footer is damaged"),
        (b"PAR1" + b"\x49\xfc\xff\xff\xff\x7f" + b"\x06\0\0\0PAR1", "its footer is damaged"),
    ],
)
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "play.parquet"
    file.write_bytes(content)
    with pytest.raises(ReplayFormatError, match=rf"^{file} is damaged \({reason}\); delete it, and download it again$"):
        JatShard(file, 4).count()


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (SCHEMA.remove(2), "it has no column rewards, only image_observations, discrete_actions"),
        (
            SCHEMA.set(2, pa.field("rewards", pa.list_(pa.float64()))),
            "its column rewards does not hold lists of 32-bit",
        ),
        (SCHEMA.set(1, pa.field("discrete_actions", pa.int64())), "its column discrete_actions does not hold lists of"),
        (
            SCHEMA.set(0, pa.field("image_observations", pa.list_(pa.binary()))),
            "its column image_observations does not",
        ),
    ],
)
def test_another_schema_is_refused(tmp_path: Path, schema: pa.Schema, problem: str) -> None:
    file = write_jat(tmp_path / "other.parquet", [], schema)
    with pytest.raises(
        ReplayFormatError, match=f"^{file} is not a file of an Atari game of the JAT dataset: {problem}"
    ):
        JatShard(file, 4).count()


def test_a_file_without_episodes_is_refused(tmp_path: Path) -> None:
    file = write_jat(tmp_path / "empty.parquet", [])
    with pytest.raises(ReplayFormatError, match="it holds no episode"):
        list(JatShard(file, 4).returns())
