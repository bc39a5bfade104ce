"""RAM in trajectory stores: its statistics, its place in selected stores, and refusal of what does not fit."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import InputError, StoreWriter, TrajectoryStore, byte_statistics
from replay_data.byte_statistics import ByteStatistics, ByteSums
from replay_data.observation import FRAMES, RAM, variables_spec
from replay_data.selection.methods import Selection
from replay_data.selection.stores import select_from_store
from replay_data.store_metadata import StoreSource
from replay_data.testing import write_random_store
from tests.conftest import DATA
from tests.replay_data.recordings import build, open_log

ABOUT: dict[str, Any] = {
    "game": "Breakout",
    "action_meanings": ["NOOP", "FIRE"],
    "reward_clipping": True,
    "sticky_actions": 0.25,
    "source": StoreSource("test"),
}


def append(writer: StoreWriter, ram: npt.NDArray[np.uint8] | None, steps: int) -> None:
    rewards = np.zeros(steps, np.float32)
    writer.append(np.zeros((steps, 84, 84), np.uint8), np.zeros(steps, int), rewards, terminated=True, ram=ram)


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    span=st.sampled_from([(0, 256), (255, 256), (7, 9), (0, 1)]),
    constant=st.lists(st.integers(0, 127), max_size=128, unique=True),
    chunk=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_ram_and_its_statistics(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    span: tuple[int, int],
    constant: list[int],
    chunk: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    ram = rng.integers(*span, (sum(lengths), 128), dtype=np.uint8)
    ram[:, constant] = rng.integers(0, 256, len(constant))
    path = tmp_path_factory.mktemp("ram") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_statistics, "_CHUNK_ROWS", chunk)
        with StoreWriter(path, **ABOUT) as writer:
            for rows in np.split(ram, np.cumsum(lengths)[:-1]):
                append(writer, rows, len(rows))
        store = TrajectoryStore.open(path)
    assert np.array_equal(np.load(path / "ram.npy"), ram)  # NumPy reads the file
    assert np.array_equal(store.require_ram(), ram)
    assert store.ram is not None
    assert store.ram.dtype == np.uint8
    assert store.metadata.observations == (FRAMES, RAM)

    values = ram.astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
    statistics = store.metadata.ram_statistics
    assert statistics is not None
    assert statistics.mean == pytest.approx(mean, rel=1e-12, abs=0)
    assert statistics.std == pytest.approx(std, rel=1e-12, abs=1e-12)
    is_constant = (ram == ram[0]).all(axis=0)
    assert [deviation == 0 for deviation in statistics.std] == is_constant.tolist()

    addresses = tuple(rng.choice(128, size=5, replace=False).tolist())
    variables = variables_spec(tuple("abcde"), addresses)
    for spec, entries in ((RAM, slice(None)), (variables, list(addresses))):
        center, scale = statistics.normalizer(spec)
        assert center.dtype == np.float32
        assert scale.dtype == np.float32
        normalized = (spec.select(ram).astype(np.float32) - center) / scale
        expected = (values - mean) / np.where(is_constant, 1, std)
        assert normalized == pytest.approx(expected[:, entries], abs=1e-4)
        assert (normalized[:, is_constant[entries]] == 0).all()
    with pytest.raises(ValueError, match="frames"):
        statistics.normalizer(FRAMES)


def test_sums_do_not_overflow() -> None:
    sums = ByteSums()
    ram = np.full((5000, 128), 255, np.uint8)
    for _ in range(20):
        sums.add(ram)
    ram[::2] = 254
    sums.add(ram)
    statistics = sums.statistics()
    share = 2500 / 105_000  # of 254
    assert statistics.mean == pytest.approx([255 - share] * 128, rel=1e-12)
    assert statistics.std == pytest.approx([(share * (1 - share)) ** 0.5] * 128, rel=1e-12)


def test_statistics_round_trip() -> None:
    values = np.random.default_rng(0).uniform(0, 100, (2, 128))
    statistics = ByteStatistics(*(tuple(each.tolist()) for each in values))
    assert ByteStatistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics


@pytest.mark.parametrize(
    ("ram", "message"),
    [
        (np.zeros((4, 128), np.uint8), r"RAM must be uint8 \[5, 128\], not uint8 \[4, 128\]"),
        (np.zeros((5, 127), np.uint8), r"not uint8 \[5, 127\]"),
        (np.zeros((5, 128), np.int64), r"not int64"),
        (None, "a store has RAM for all episodes or for none"),
    ],
)
def test_an_episode_with_other_ram_is_refused_and_not_written(tmp_path: Path, ram: Any, message: str) -> None:
    with StoreWriter(tmp_path / "store", **ABOUT) as writer:
        append(writer, np.ones((2, 128), np.uint8), 2)
        with pytest.raises(InputError, match=message):
            append(writer, ram, 5)
        append(writer, np.ones((1, 128), np.uint8), 1)
    assert np.array_equal(TrajectoryStore.open(tmp_path / "store").require_ram(), np.ones((3, 128)))


@pytest.mark.parametrize("copy_frames", [False, True])
def test_a_selected_store_has_the_rows_and_statistics_of_its_own_steps(tmp_path: Path, copy_frames: bool) -> None:
    old = write_random_store(tmp_path / "old", [4, 9, 3, 6, 2], ram=True)
    selection = Selection.of("top", top_episode_percent=50.0)
    new = select_from_store(tmp_path / "new", old.path, selection, copy_frames=copy_frames, show_progress=False)
    assert 0 < new.num_episodes < old.num_episodes
    rows = [
        int(np.flatnonzero((old.frames[old.frame_index] == new.frames[index]).all(axis=(1, 2))).item())
        for index in new.frame_index
    ]
    expected = old.require_ram()[rows]
    assert np.array_equal(new.require_ram(), expected)
    statistics = new.metadata.ram_statistics
    assert statistics is not None
    assert statistics.std == pytest.approx(expected.std(axis=0, dtype=np.float64))


def test_stores_without_ram_are_as_they_were(tmp_path: Path) -> None:
    old = TrajectoryStore.open(DATA / "version_1" / "store")
    assert (old.ram, old.metadata.observations, old.metadata.ram_statistics) == (None, (FRAMES,), None)
    # The digest of this selection before there was RAM.
    store = build(tmp_path / "store", open_log(), "even", num_steps=500, num_workers=1)
    assert store.digest == "5a8adc9f5b0bf9c5d061b4e33336e6973543ce519944c4bb7aa5ba8607f05abf"
    with pytest.raises(InputError, match="no RAM") as raised:
        store.require_ram()
    assert len(str(raised.value).splitlines()) == 1
    file = tmp_path / "store" / "metadata.json"
    content = json.loads(file.read_text())
    assert content.pop("observations") == [{"kind": "frames", "shape": [84, 84], "dtype": "uint8", "stack": 4}]
    file.write_text(json.dumps(content))
    assert TrajectoryStore.open(file.parent).metadata == store.metadata


def test_ram_is_part_of_the_digest(tmp_path: Path) -> None:
    without, with_ram = (write_random_store(tmp_path / str(ram), [5], ram=ram) for ram in (False, True))
    assert without.digest != with_ram.digest
    arrays = {name: info.sha256 for name, info in without.metadata.arrays.items()}
    assert {name: with_ram.metadata.arrays[name].sha256 for name in arrays} == arrays


def rewrite(path: Path, array: npt.NDArray[Any], metadata: dict[str, Any]) -> None:
    """Write another ``ram.npy``, with its shape, dtype and SHA-256, and other metadata."""
    np.save(path / "ram.npy", array)
    content = json.loads((path / "metadata.json").read_text())
    digest = sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    content["arrays"]["ram"] = {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}
    content |= metadata
    content = {name: value for name, value in content.items() if value is not None}
    (path / "metadata.json").write_text(json.dumps(content))


STATISTICS = {"mean": [0.0] * 128, "std": [0.0] * 128}


@pytest.mark.parametrize(
    ("array", "metadata", "message"),
    [
        (np.zeros((7, 127), np.uint8), {}, r"ram.npy is uint8 \[7, 127\] instead of uint8 \[7, 128\]"),
        (np.zeros((6, 128), np.uint8), {}, "do not describe the same episodes"),
        (np.zeros((0, 128), np.uint8), {}, "do not describe the same episodes"),
        (np.zeros(7 * 128, np.uint8), {}, "ram.npy is uint8"),
        (np.zeros((7, 128), np.int8), {}, "ram.npy is int8"),
        (np.asfortranarray(np.zeros((7, 128), np.uint8)), {}, "Fortran order"),
        (np.zeros((7, 128), object), {}, "ram.npy cannot be read"),
        (np.ones((7, 128), np.uint8), {"ram_statistics": STATISTICS}, "the mean of byte 0 of the RAM is 1, not 0"),
        (
            np.zeros((7, 128), np.uint8),
            {"ram_statistics": STATISTICS | {"std": [*[0.0] * 99, 0.5, *[0.0] * 28]}},
            "the std of byte 99 of the RAM is 0, not 0.5",
        ),
        (np.zeros((7, 128), np.uint8), {"ram_statistics": None}, "ram_statistics are missing"),
        (np.zeros((7, 128), np.uint8), {"observations": None}, "observations are not frames and RAM"),
        (np.zeros((7, 128), np.uint8), {"observations": [RAM.to_json()]}, "observations are not frames and RAM"),
        (np.zeros((7, 128), np.uint8), {"observations": [{"kind": "x"}]}, "unknown kind 'x'"),
        (
            np.zeros((7, 128), np.uint8),
            {"ram_statistics": STATISTICS | {"mean": [0.0] * 127}},
            "mean has 127 numbers, but the RAM has 128 bytes",
        ),
        (
            np.zeros((7, 128), np.uint8),
            {"ram_statistics": STATISTICS | {"std": [-1.0] * 128}},
            "std holds a number that is not from 0 to 255",
        ),
        (np.zeros((7, 128), np.uint8), {"ram_statistics": STATISTICS | {"std": [float("nan")] * 128}}, "std is nan"),
    ],
)
def test_ram_that_does_not_fit_is_refused(
    tmp_path: Path, array: npt.NDArray[Any], metadata: dict[str, Any], message: str
) -> None:
    path = write_random_store(tmp_path / "store", [3, 4], ram=True).path
    rewrite(path, array, metadata)
    with pytest.raises(InputError, match=message) as raised:
        TrajectoryStore.open(path)
    assert len(str(raised.value).splitlines()) == 1


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = write_random_store(tmp_path / "store", [3, 4], ram=True).path
    file = path / "ram.npy"
    content = file.read_bytes()
    for damaged, message in (
        (content[:-1], "ram.npy has 1,023 bytes instead of 1,024"),
        (content[:-1] + bytes([content[-1] ^ 1]), r"the SHA-256 of ram\.npy differs"),
        (content.replace(b"(7, 128)", b"(9**9, )"), "ram.npy cannot be read"),
        (content.replace(b"(7, 128), }", b"(99999999999, 128), }"), "ram.npy is uint8"),
        (None, "ram.npy cannot be read"),
    ):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            TrajectoryStore.open(path)
        file.write_bytes(content)
    TrajectoryStore.open(path)
    other = tmp_path / "other"
    shutil.copytree(path, other)
    metadata = json.loads((other / "metadata.json").read_text())
    del metadata["arrays"]["ram"]
    for removed, message in (
        ({}, "observations are not frames,"),
        ({"observations"}, "ram_statistics describe no array"),
    ):
        content_left = {name: value for name, value in metadata.items() if name not in removed}
        (other / "metadata.json").write_text(json.dumps(content_left))
        with pytest.raises(InputError, match=message):
            TrajectoryStore.open(other)
