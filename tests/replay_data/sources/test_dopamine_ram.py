"""RAM in Dopamine logs: it stays with its row, other readers pass over it, and a damaged file is an error."""

from __future__ import annotations

import dataclasses
import gzip
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import InputError, ReplayFormatError
from replay_data.episode import Episode
from replay_data.selection.methods import SelectionMethod
from replay_data.sources import dopamine_rows
from replay_data.sources.dopamine_stage import recover_log
from replay_data.sources.dopamine_writer import DopamineLogWriter
from tests.replay_data.recordings import (
    MEANINGS,
    black_episode,
    build,
    open_log,
    random_episode,
    recording_of,
    same,
    write_log,
)

RECORDING = recording_of("Breakout", MEANINGS)


def with_ram(rng: np.random.Generator, episode: Episode) -> Episode:
    """Return the episode with random RAM without rows of zeros."""
    return dataclasses.replace(episode, ram=rng.integers(1, 256, (len(episode), 128), dtype=np.uint8))


def ram_of(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return RAM that can be told from the frames [T, 84, 84]: their first row, and zeros."""
    return np.pad(frames[:, 0], ((0, 0), (0, 44)))


def episodes_with_ram(num: int = 14) -> list[Episode]:
    """Return terminated episodes whose RAM can be told from their frames."""
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, int(rng.integers(3, 9))) for _ in range(num)]
    return [dataclasses.replace(episode, ram=ram_of(episode.frames)) for episode in episodes]


def read(path: Path) -> list[Episode]:
    """Return every whole episode of a log, and compare all checksums."""
    episodes = []
    for buffer in open_log(path).shards.values():
        episodes += list(buffer.episodes())
        buffer.check()
        buffer.close()
    return episodes


def load_ram(directory: Path, index: int) -> Any:
    with gzip.open(directory / f"ram_{index}.gz") as file:
        return np.load(io.BytesIO(file.read()))


def save_ram(directory: Path, index: int, array: Any) -> None:
    with gzip.open(directory / f"ram_{index}.gz", "wb") as file:
        np.save(file, array)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), min_size=1, max_size=8),
    rows=st.integers(5, 30),
    chunk=st.integers(1, 40),
    recorded=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_ram_reads_back_row_by_row(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, bool, bool]],
    rows: int,
    chunk: int,
    recorded: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    played = [
        # Without a sidecar, nothing but the RAM tells a black episode from padding.
        with_ram(
            rng,
            (black_episode if black else lambda *args, **kwargs: random_episode(rng, *args, **kwargs))(
                steps, terminated=terminated
            ),
        )
        for steps, terminated, black in lengths
    ]
    path = tmp_path_factory.mktemp("log")
    directory = write_log(path, played, rows, recording=RECORDING if recorded else None)

    whole = played if recorded or played[-1].terminated else played[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dopamine_rows, "CHUNK_ROWS", chunk)
        found = read(path)
    assert len(found) == len(whole)
    for episode, other in zip(found, whole, strict=True):
        assert same(episode, other)
        assert episode.ram is not None
        assert episode.ram.dtype == np.uint8
        assert np.array_equal(episode.ram, other.ram)  # type: ignore[arg-type]

    # The files, read by NumPy: row r of buffer b is row b R + r of the log, and its last row is the one before row b R.
    added = np.concatenate([np.pad(episode.ram, ((3, 0), (0, 0))) for episode in played])  # type: ignore[arg-type]
    num_buffers = len(list(directory.glob("ram_*.gz")))
    assert num_buffers == len(list(directory.glob("$store$_observation*")))
    log = np.zeros((num_buffers * rows + 1, 128), np.uint8)  # from the row before row 0 on
    log[1 : 1 + len(added)] = added[: len(log) - 1]
    for index in range(num_buffers):
        stored = load_ram(directory, index)
        assert stored.dtype == np.uint8
        first = 1 + index * rows
        assert np.array_equal(stored[:-1], log[first : first + rows - 1])
        if index:
            assert np.array_equal(stored[-1], log[first - 1])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("original", {"num_steps": 30, "trajectories_per_buffer": 1}),
        ("corrected", {"num_steps": 30, "trajectories_per_buffer": 1}),
        ("even", {"num_steps": 30}),
        ("top", {"top_episode_percent": 50}),
        ("return_range", {"min_return": 0}),
        ("all", {}),
    ],
)
def test_every_selection_keeps_the_ram_of_each_step(
    tmp_path: Path, method: SelectionMethod, options: dict[str, Any]
) -> None:
    write_log(tmp_path, episodes_with_ram(), 36, recording=RECORDING)
    store = build(tmp_path / "store", open_log(tmp_path), method, num_workers=1, **options)
    assert store.metadata.source.selection["method"] == method
    assert len(store) >= 15
    assert np.array_equal(store.require_ram(), ram_of(store.frames[store.frame_index]))


def test_loaders_that_list_the_directory_pass_over_the_ram(tmp_path: Path) -> None:
    """Count files as the loader of the DQN-replay dataset does (batch_rl/fixed_replay/.../fixed_replay_buffer.py).

    It takes the part of a name before the last dot for the index of a buffer, if six or seven files have it.
    """
    directory = write_log(tmp_path, episodes_with_ram(), 20, recording=RECORDING)
    num_buffers = len(list(directory.glob("ram_*.gz")))
    assert num_buffers in (6, 7)  # files of the RAM must not look like a buffer either
    counts = Counter(path.name.split(".")[-2] for path in directory.iterdir())
    assert {name for name, count in counts.items() if count in (6, 7)} == {str(index) for index in range(num_buffers)}
    names = {path.name for path in directory.iterdir()}
    for path in directory.glob("ram_*.gz"):
        path.unlink()
    played = episodes_with_ram()
    without = write_log(tmp_path / "without", [dataclasses.replace(each, ram=None) for each in played], 20)
    # Without them, the log is the one of the same episodes without RAM, byte for byte.
    assert names == {f"ram_{index}.gz" for index in range(num_buffers)} | {path.name for path in directory.iterdir()}
    for path in without.iterdir():
        assert path.read_bytes() == (directory / path.name).read_bytes()
    assert all(episode.ram is None for episode in read(tmp_path))


def test_ram_of_some_buffers_is_left_out(tmp_path: Path) -> None:
    directory = write_log(tmp_path, episodes_with_ram(), 40, recording=RECORDING)
    assert open_log(tmp_path).notes == ()
    (directory / "ram_1.gz").unlink()
    log = open_log(tmp_path)
    assert log.notes == ("ram_*.gz is missing for buffers 1; RAM is left out",)
    episodes = read(tmp_path)
    assert len(episodes) == 14
    assert all(episode.ram is None for episode in episodes)
    store = build(tmp_path / "store", log, "all")
    with pytest.raises(InputError, match=r"store has no RAM; .* `ram`.* or set `observation` to frames"):
        store.require_ram()


def header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def zipped(content: bytes) -> bytes:
    """Compress without the current time: the content is in the names of tests, on which test processes must agree."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ram_1.gz is damaged or has no valid header .the file is cut off.; copy it again, or remove it"),
        (
            zipped(header("(40, 128)") + bytes(700)),
            "ram_1.gz is damaged at row 0 or after .the file is cut off.",
        ),
        (zipped(header("(40, 128)") + bytes(40 * 128)) + b"x", "ram_1.gz"),
        (zipped(header("(40, 127)") + bytes(40 * 127)), r"holds uint8 \[40, 127\], but .* is uint8 \[R, 128\]"),
        (zipped(header("(40,)") + bytes(40)), r"ram_1.gz holds uint8 \[40\], but"),
        (zipped(header("(39, 128)") + bytes(39 * 128)), "ram_1.gz has 39 rows, but .*observation.* has 40"),
        (zipped(header("(9999999, 128)")), "ram_1.gz has 9999999 rows, but"),
        (zipped(header("(99999999, 128)")), "ram_1.gz has 99,999,999 rows; a buffer has 5 to"),
        (zipped(header("(40, 128)", "<i2") + b"\xff" * 40 * 256), "row 39: ram -1 .int16. is not exactly repre"),
        (zipped(header("(40, 128)", "|O")), "ram_1.gz is damaged or has no valid header .it holds the dtype"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    directory = write_log(tmp_path, episodes_with_ram(), 40, recording=RECORDING)
    (directory / "ram_1.gz").write_bytes(content)
    with pytest.raises(ReplayFormatError, match=message) as raised:
        read(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_ram_of_other_rows_is_refused(tmp_path: Path) -> None:
    directory = write_log(tmp_path, episodes_with_ram(), 40, recording=RECORDING)
    save_ram(directory, 1, np.roll(load_ram(directory, 1), 1, axis=0))
    with pytest.raises(ReplayFormatError, match="the RAM of the padding before an episode is not zeros"):
        read(tmp_path)


def test_ram_is_of_all_episodes_or_of_none(tmp_path: Path) -> None:
    one, other = episodes_with_ram(2)
    for index, (first, second) in enumerate(((one.ram, None), (None, other.ram))):
        with DopamineLogWriter(tmp_path / str(index), 20) as writer:
            writer.append(one.frames, one.actions, one.rewards, terminated=True, ram=first)
            with pytest.raises(InputError, match="has RAM for all episodes or for none"):
                writer.append(other.frames, other.actions, other.rewards, terminated=True, ram=second)
    assert one.ram is not None
    with DopamineLogWriter(tmp_path / "log", 20) as writer:
        wrong: list[Any] = [one.ram[1:], one.ram.astype(np.int64), one.ram[:, :4]]
        for ram in wrong:
            with pytest.raises(InputError, match=r"as many rows of RAM, uint8 \[\d, 128\], not u?int"):
                writer.append(one.frames, one.actions, one.rewards, terminated=True, ram=ram)


@pytest.mark.parametrize("num_moved", [0, 1, 2, 3, 10])
def test_a_writer_that_was_killed_loses_no_ram(tmp_path: Path, num_moved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a writer after it has moved some files of two complete buffers; recover the log and continue it."""
    played, rows = episodes_with_ram(8), 15
    whole = write_log(tmp_path / "whole", played, rows, recording=RECORDING)
    directory = tmp_path / "killed" / "Breakout" / "1" / "replay_logs"
    moved: list[Path] = []
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if len(moved) == num_moved:
            raise KeyboardInterrupt
        moved.append(path)
        return rename(path, target)

    def append(writer: DopamineLogWriter, episodes: list[Episode]) -> None:
        for each in episodes:
            writer.append(
                each.frames, each.actions, each.rewards, terminated=True, raw_rewards=each.raw_rewards, ram=each.ram
            )

    writer = DopamineLogWriter(directory, rows, recording=RECORDING, hold=True)
    written = [0]
    while writer.num_complete < 2:
        append(writer, [played[len(written) - 1]])
        written.append(writer.add_count)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(KeyboardInterrupt):
            writer.publish()
    writer.abandon()
    assert len(moved) == num_moved
    assert writer.stage is not None
    num_complete = writer.num_complete
    recover_log(directory, writer.stage.name, num_complete)
    # The next episode is the first one with rows that are in no complete buffer.
    first = next(index for index in range(len(written)) if written[index + 1] >= num_complete * rows - 1)
    counts: dict[str, Any] = {"num_complete": num_complete, "add_count": written[first]}
    with DopamineLogWriter(directory, rows, recording=RECORDING, **counts) as continued:
        with pytest.raises(InputError, match="has RAM for all episodes or for none"):
            append(continued, [dataclasses.replace(played[first], ram=None)])
        append(continued, played[first:])
    assert {path.name for path in directory.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.iterdir():
        assert path.read_bytes() == (directory / path.name).read_bytes()

    (directory / "ram_1.gz").unlink()
    with pytest.raises(ReplayFormatError, match=r"ram_1\.gz is missing; copy it back"):
        recover_log(directory, None, 2)
    (directory / "ram_0.gz").unlink()
    recover_log(directory, None, 2)  # a log without RAM
