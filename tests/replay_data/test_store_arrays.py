"""Opening a store: damaged, contradictory and hostile arrays are refused."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_data import InputError, TrajectoryStore
from replay_data.testing import write_random_store


@pytest.mark.parametrize("name", ["frames", "frame_index", "actions", "raw_rewards", "episode_ends", "terminated"])
def test_truncated_array_is_refused(tmp_path: Path, name: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    file = tmp_path / "store" / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=name):
        TrajectoryStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["actions", "rewards", "returns_to_go", "timesteps", "episode_ends", "terminated"])
def test_changed_array_is_refused(tmp_path: Path, name: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    file = tmp_path / "store" / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"SHA-256 of {name}.npy"):
        TrajectoryStore.open(tmp_path / "store")


def test_verify_finds_damaged_frames(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    file = tmp_path / "store" / "frames.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        TrajectoryStore.open(tmp_path / "store").verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 8}, "it has 7 steps in 2 episodes"),
        ({"episodes": 3}, "it has 7 steps in 2 episodes"),
        ({"action_meanings": ["NOOP"]}, "has no meaning"),
        ({"arrays": {}}, "frames.npy cannot be read .ValueError: the metadata does not mention it"),
        ({"max_return": 400}, "its max_return is"),
        ({"mean_return": 400}, "its mean_return is"),
        ({"mean_return": float("nan")}, "mean_return is nan, not a finite number"),
        ({"max_score": 400}, "its max_score is"),
        ({"mean_score": 400}, "its mean_score is"),
    ],
)
def test_metadata_that_contradicts_the_arrays_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    file = tmp_path / "store" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        TrajectoryStore.open(tmp_path / "store")


def replace_array(path: Path, name: str, array: Any) -> None:
    """Replace an array of a store and what the metadata says about it."""
    np.save(path / f"{name}.npy", array)
    file = path / "metadata.json"
    metadata = json.loads(file.read_text())
    info = {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": sha256(array.tobytes()).hexdigest()}
    file.write_text(json.dumps(metadata | {"arrays": metadata["arrays"] | {name: info}}))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("terminated", np.ones(3, np.bool_), "do not describe the same episodes"),
        ("terminated", np.ones(2, np.uint8), r"terminated.npy is uint8 \[2\] instead of bool \[2\]"),
        ("rewards", np.zeros(6, np.float32), "do not describe the same episodes"),
        ("raw_rewards", np.zeros(8, np.float32), "do not describe the same episodes"),
        ("episode_ends", np.array([3, 6]), "do not describe the same episodes"),
        ("episode_ends", np.array([8, 7]), "do not describe the same episodes"),
        ("episode_ends", np.array([], np.int64), "do not describe the same episodes"),
        ("episode_ends", np.array(7), r"episode_ends.npy is int64 \[\] instead of int64 \[2\]"),
        ("actions", np.zeros((7, 1), np.uint8), r"actions.npy is uint8 \[7, 1\] instead of uint8 \[7\]"),
        ("frame_index", np.arange(7), "frame_index does not lead through frames"),
        ("frame_index", np.arange(3, 10)[::-1].copy(), "frame_index does not lead through frames"),
        ("episode_ends", np.array([1, 2**62, 5 - 2**63, 7]), "do not describe the same episodes"),
        ("rewards", np.full(7, np.nan, np.float32), "rewards is nan at step 0"),
        ("raw_rewards", np.array([0, 0, -np.inf, 0, 0, 0, 0], np.float32), "raw_rewards is -inf at step 2"),
        ("returns_to_go", np.array([0, np.nan, 0, 0, 0, 0, 0], np.float32), "returns_to_go is nan at step 1"),
        ("raw_rewards", np.full(7, 100, np.float32), "its max_score is 400"),
        ("timesteps", np.array([0, 1, 2**31 - 1, 0, 1, 2, 3], np.int32), "timestep 2147483647 at step 2 neither"),
        ("timesteps", np.array([0, 1, -1, 0, 1, 2, 3], np.int32), "timestep -1 at step 2 neither"),
        ("timesteps", np.arange(-(2**31), 7 - 2**31, dtype=np.int32), "timestep -2147483648 at step 0 neither"),
        ("timesteps", np.arange(7, dtype=np.int32), "timesteps do not start at 0 with each episode"),
        ("timesteps", np.array([0, 1, 0, 0, 1, 2, 3], np.int32), "timesteps do not start at 0 with each episode"),
        ("terminated", np.array([0, 7], np.uint8).view(np.bool_), "something other than true and false"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(tmp_path: Path, name: str, array: Any, message: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    replace_array(tmp_path / "store", name, array)
    with pytest.raises(InputError, match=message):
        TrajectoryStore.open(tmp_path / "store")


def test_arrays_that_no_store_has_are_refused(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    replace_array(tmp_path / "store", "values", np.zeros(7))
    with pytest.raises(InputError, match="a store has no array named 'values'"):
        TrajectoryStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["actions.npy", "frames.npy", "metadata.json"])
def test_files_that_are_not_regular_are_not_opened(tmp_path: Path, name: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    file = tmp_path / "store" / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match=f"{name} is a named pipe"):
        TrajectoryStore.open(tmp_path / "store")
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name} is a named pipe, a device"):
        TrajectoryStore.open(tmp_path / "store")
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match=f"{name} is a directory"):
        TrajectoryStore.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (10", "no valid .npy header"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 31 + ",), }", "no valid shape"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807,), }", "instead of uint8 .7."),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (7,), }", "dtype '|O'"),
        ("   x\n y", "no valid .npy header"),
        ("'''", "no valid .npy header"),
    ],
)
def test_headers_of_arrays_are_not_believed(tmp_path: Path, header: str, message: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(7)
    (tmp_path / "store" / "actions.npy").write_bytes(content)
    with pytest.raises(InputError, match=f"actions.npy .*{message}"):
        TrajectoryStore.open(tmp_path / "store")


def test_files_that_are_longer_than_their_header_says_are_refused(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    with (tmp_path / "store" / "frames.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"frames\.npy has 91,857 bytes instead of 91,856"):
        TrajectoryStore.open(tmp_path / "store")
