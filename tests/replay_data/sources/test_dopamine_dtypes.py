"""Dopamine logs that other programs have saved again: other dtypes, d4rl-atari's layout, absurd sizes."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from replay_data import InputError, ReplayFormatError
from replay_data.sources import dopamine_arrays
from replay_data.sources.dopamine_format import ELEMENTS
from replay_data.sources.dopamine_writer import DopamineLogWriter
from tests.conftest import DATA
from tests.replay_data.memory import limited_memory
from tests.replay_data.recordings import build, open_log, random_episode, write_log

ROWS = 40


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the ``replay_logs`` directory of a log of three buffers."""
    rng = np.random.default_rng(0)
    return write_log(tmp_path / "log", [random_episode(rng, 7) for _ in range(10)], ROWS)


def digest(directory: Path) -> str:
    """Return the digest of a store of all episodes of a log."""
    path = directory.parents[2]
    return build(path.parent / f"store-{len(list(path.parent.iterdir()))}", open_log(path), "all").digest


def rewrite(directory: Path, element: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    """Replace one element of every buffer."""
    for path in sorted(directory.glob(f"$store$_{element}_ckpt.*.gz")):
        with gzip.open(path) as file:
            array = np.load(file)
        with gzip.open(path, "wb", 1) as file:
            np.save(file, change(array))


@pytest.mark.parametrize(
    ("element", "dtypes"),
    [
        ("observation", [">u2", "<i2", "<i8", "<f2", ">f4", "<f8"]),  # 0 to 255
        ("action", ["u1", "i1", ">i4", "<i8", "<u8", "<f2", ">f8"]),  # 0 to 3
        ("reward", ["i1", ">i8", "<f2", ">f4", "<f8", "longdouble"]),  # -1 to 1
        ("terminal", ["?", "i1", ">i2", "<u8", "<f2", ">f4", "<f8"]),
    ],
)
def test_dtypes_that_hold_the_same_values_give_the_same_store(
    log: Path, element: str, dtypes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dopamine_arrays, "_CONVERTED_BYTES", 300_000)  # several pieces per read
    expected = digest(log)
    for dtype in dtypes:
        rewrite(log, element, lambda array, dtype=dtype: array.astype(dtype))  # type: ignore[misc]
        assert digest(log) == expected, dtype


@pytest.mark.parametrize(
    ("element", "dtype", "value", "message"),
    [
        ("observation", np.int16, 256, r"observation 256 \(int16\) is not exactly representable as uint8,"),
        ("observation", np.float32, 0.5, r"observation 0.5 \(float32\) is not exactly representable as uint8,"),
        ("terminal", np.int8, -1, r"terminal -1 \(int8\) is not exactly representable as uint8,"),
        ("action", np.int64, 2**32 + 1, r"action 4294967297 \(int64\) is not exactly representable as int32,"),
        (
            "action",
            np.uint64,
            2**64 - 1,
            r"action 18446744073709551615 \(uint64\) is not exactly representable as int32,",
        ),
        ("action", np.float32, np.inf, r"action inf \(float32\) is not exactly representable as int32,"),
        ("action", np.int64, 4, "action 4 is not below 4"),
        ("reward", np.float64, 0.1, r"reward 0.1 \(float64\) is not exactly representable as float32,"),
        ("reward", np.float64, np.nan, r"reward nan \(float64\) is not exactly representable as float32,"),
        (
            "reward",
            np.int64,
            2**60 + 1,
            r"reward 1152921504606846977 \(int64\) is not exactly representable as float32,",
        ),
        ("reward", np.int64, 2, "reward 2 is not from -1 to 1"),
        ("terminal", np.float32, 0.5, r"terminal 0.5 \(float32\) is not exactly representable as uint8,"),
        ("terminal", np.int16, -256, r"terminal -256 \(int16\) is not exactly representable as uint8,"),
        ("terminal", np.int64, 2, "terminal 2 is not 0 or 1"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_row_and_value(
    log: Path, element: str, dtype: npt.DTypeLike, value: float, message: str
) -> None:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = array.astype(dtype)
        array[17] = value
        return array

    rewrite(log, element, change)
    with pytest.raises(ReplayFormatError, match=rf"{element}_ckpt\.[012]\.gz, row 17: {message}"):
        digest(log)


def test_other_dtypes_are_converted_in_pieces(tmp_path: Path) -> None:
    directory = write_log(tmp_path, [random_episode(np.random.default_rng(0), 600)], 800)
    rewrite(directory, "observation", lambda array: array.astype(np.float64))  # 45 MB, as uint8 6 MB
    with limited_memory(14):
        assert list(open_log(tmp_path).shards[0].returns())


def test_the_layout_of_d4rl_atari_is_read_as_a_log(tmp_path: Path) -> None:
    source = DATA / "dopamine_log" / "Breakout" / "1" / "replay_logs"
    for index in range(45, 50):
        buffer = tmp_path / "Breakout" / "1" / str(index)
        buffer.mkdir(parents=True)
        for element in ELEMENTS:
            shutil.copy(source / f"$store$_{element}_ckpt.{index}.gz", buffer / f"{element}.gz")
    (tmp_path / "Breakout" / "1" / "44").mkdir()  # a download that failed before its first file
    options: dict[str, Any] = {"num_steps": 3000, "num_buffers": 5, "trajectories_per_buffer": 2}
    for method in ("original", "corrected"):
        stores = [
            build(tmp_path / f"{method}-{index}", open_log(path), method, **options)
            for index, path in enumerate((DATA / "dopamine_log", tmp_path))
        ]
        assert stores[0].digest == stores[1].digest
    (tmp_path / "Breakout" / "1" / "47" / "reward.gz").unlink()
    with pytest.raises(ReplayFormatError, match=r"Breakout/1/47/reward\.gz is missing"):
        open_log(tmp_path)


@pytest.mark.parametrize("rows", [10**9, 10_000_001])
def test_a_buffer_of_absurd_size_is_refused_by_its_header(log: Path, rows: int) -> None:
    with gzip.open(log / "$store$_terminal_ckpt.0.gz", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (rows,)})
    with pytest.raises(ReplayFormatError, match=rf"has {rows:,} rows; a buffer has 5 to 10,000,000"):
        open_log(log.parents[2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array(5).tobytes() + bytes(30_000_000), "bytes follow its count"),
        (b"1234", "the file is cut off"),
        (np.array(-5).tobytes(), "its count is -5"),
    ],
)
def test_a_count_is_read_and_nothing_behind_it(log: Path, content: bytes, message: str) -> None:
    with gzip.open(log / "add_count_ckpt.0.gz", "wb", 1) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": ()})
        file.write(content)
    del content
    with limited_memory(5), pytest.raises(ReplayFormatError, match=rf"add_count_ckpt\.0\.gz is damaged .{message}"):
        open_log(log.parents[2])


def test_absurd_numbers_of_buffers_and_rows_are_refused(log: Path) -> None:
    for element in ELEMENTS:
        shutil.copy(log / f"$store$_{element}_ckpt.0.gz", log / f"$store$_{element}_ckpt.3000000000.gz")
    with (
        limited_memory(5),
        pytest.raises(ReplayFormatError, match="holds a buffer 3000000000, but a log has at most 100"),
    ):
        open_log(log.parents[2])
    with pytest.raises(InputError, match="at least 5 rows and at most 10,000,000, not 10,000,001"):
        DopamineLogWriter(log.parent / "other", 10_000_001)
