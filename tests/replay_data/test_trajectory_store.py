"""Writing and reading trajectory stores."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource
from replay_data.testing import write_random_store
from tests.conftest import DATA

ABOUT: dict[str, Any] = {
    "game": "Breakout",
    "action_meanings": ["NOOP", "FIRE", "RIGHT", "LEFT"],
    "reward_clipping": True,
    "sticky_actions": 0.25,
    "source": StoreSource("test"),
}


def episode(length: int = 5, **changes: Any) -> dict[str, Any]:
    arrays = {
        "frames": np.zeros((length, 84, 84), np.uint8),
        "actions": np.zeros(length, np.int64),
        "rewards": np.zeros(length, np.float32),
        "raw_rewards": np.zeros(length, np.float32),
        "terminated": True,
    }
    return arrays | changes


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_store_returns_the_written_episodes(tmp_path: Path, lengths: list[int], seed: int) -> None:
    path = tmp_path / f"{seed}-{'-'.join(map(str, lengths))}"
    if path.exists():
        return
    rng = np.random.default_rng(seed)
    episodes: list[Any] = []
    terminated: list[bool] = []
    with StoreWriter(path, **ABOUT) as writer:
        for length in lengths:
            raw = rng.normal(0, 2, length).astype(np.float32)
            frames = rng.integers(0, 256, (length, 84, 84), dtype=np.uint8)
            episodes.append((frames, rng.integers(0, 4, length), raw.clip(-1, 1), raw))
            terminated.append(bool(rng.integers(2)))
            writer.append(*episodes[-1], terminated=terminated[-1])
    store = TrajectoryStore.open(path)
    store.verify()

    assert len(store) == sum(lengths)
    step = 0
    for frames, actions, rewards, raw in episodes:
        padded = np.concatenate([np.zeros((3, 84, 84), np.uint8), frames])
        for t in range(len(frames)):
            assert (store.state(step) == padded[t : t + 4]).all()
            assert store.actions[step] == actions[t]
            assert store.rewards[step] == rewards[t]
            assert store.raw_rewards is not None
            assert store.raw_rewards[step] == raw[t]
            assert store.timesteps[step] == t
            assert store.returns_to_go[step] == pytest.approx(sum(float(r) for r in rewards[t:]), abs=1e-5)
            step += 1
    returns = [float(rewards.sum()) for _, _, rewards, _ in episodes]
    scores = [float(raw.sum()) for _, _, _, raw in episodes]
    assert store.episode_ends.tolist() == np.cumsum(lengths).tolist()
    assert store.terminated is not None
    assert store.terminated.dtype == np.bool_
    assert store.terminated.tolist() == terminated
    assert store.episode_returns == pytest.approx(returns, abs=1e-5)
    assert store.metadata.max_return == pytest.approx(max(returns), abs=1e-5)
    assert store.metadata.mean_return == pytest.approx(np.mean(returns), abs=1e-5)
    assert store.metadata.max_score == pytest.approx(max(scores), abs=1e-5)
    assert store.metadata.mean_score == pytest.approx(np.mean(scores), abs=1e-5)
    # Independent of the reader: NumPy reads the files.
    assert np.load(path / "frames.npy").shape == (sum(lengths) + 3 * len(lengths), 84, 84)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((4, 84, 84), np.uint8)}, "5 actions need uint8 frames"),
        ({"frames": np.zeros((5, 84, 84), np.float32)}, "not float32"),
        ({"frames": np.zeros((5, 4, 84, 84), np.uint8)}, "84, 84"),
        ({"actions": np.zeros(5)}, "must be integers"),
        ({"actions": np.array([0, 0, 0, 0, 4])}, "the game has 4"),
        ({"actions": np.array([0, 0, 0, 0, -1])}, "run from -1"),
        ({"rewards": np.zeros(4)}, "5 finite numbers"),
        ({"rewards": np.array([0, 0, 0, 0, np.nan])}, "NaN"),
        ({"rewards": np.array([0, 0, 0, 0, 2.0]), "raw_rewards": None}, "clipped"),
        ({"raw_rewards": np.array([0, 0, 0, 0, 4.0])}, "rewards differ from the clipped raw rewards"),
        ({"raw_rewards": np.zeros(6)}, "5 finite numbers"),
    ],
)
def test_contradictory_episode_is_refused_and_not_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with StoreWriter(tmp_path / "store", **ABOUT) as writer:
        with pytest.raises(InputError, match=message):
            writer.append(**episode(**changes))
        writer.append(**episode())
    assert len(TrajectoryStore.open(tmp_path / "store")) == 5


def test_episode_without_steps_or_raw_rewards_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", **ABOUT) as writer:
        with pytest.raises(InputError, match="no steps"):
            writer.append(**episode(0))
        writer.append(**episode())
        with pytest.raises(InputError, match="for all episodes or for none"):
            writer.append(**episode(raw_rewards=None))


def test_error_in_the_block_leaves_no_files(tmp_path: Path) -> None:
    def fail() -> None:
        with StoreWriter(tmp_path / "store", **ABOUT) as writer:
            writer.append(**episode())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(InputError, match="the source has no episode"), StoreWriter(tmp_path / "store", **ABOUT):
        pass
    assert list(tmp_path.iterdir()) == []


def test_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [3])
    with pytest.raises(InputError, match="exists already"):
        StoreWriter(tmp_path / "store", **ABOUT)


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


def test_version_1_store_opens_with_its_digest(tmp_path: Path) -> None:
    store = TrajectoryStore.open(DATA / "version_1" / "store")
    store.verify()
    assert store.terminated is None
    assert store.digest == json.loads((DATA / "version_1" / "run" / "config.json").read_text())["data_digest"]
    assert store.metadata.source == StoreSource(
        "scripted",
        selection={"method": "all"},
        details={
            "seed": 7,
            "skills": "(i + 1/2) * golden ratio mod 1 for episode i",
            "max_frames": 108000,
            "ale_py": "0.12.1",
        },
    )


def test_version_2_store_of_the_same_episodes_has_the_same_digest(tmp_path: Path) -> None:
    old = TrajectoryStore.open(DATA / "version_1" / "store")
    assert old.raw_rewards is not None
    with StoreWriter(tmp_path / "store", **ABOUT) as writer:
        for start, end in zip(old.episode_starts, old.episode_ends, strict=True):
            frames = old.frames[old.frame_index[start] : old.frame_index[end - 1] + 1]
            steps = slice(start, end)
            writer.append(frames, old.actions[steps], old.rewards[steps], old.raw_rewards[steps], terminated=True)
    new = TrajectoryStore.open(tmp_path / "store")
    assert json.loads((tmp_path / "store" / "metadata.json").read_text())["format_version"] == 2
    assert new.terminated is not None
    assert new.digest == old.digest


def test_clipped_rewards_outside_their_range_are_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", **ABOUT | {"reward_clipping": False}) as writer:
        writer.append(**episode(rewards=np.full(5, 4.0), raw_rewards=np.full(5, 4.0)))
    file = tmp_path / "store" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"reward_clipping": True}))
    with pytest.raises(InputError, match="clipped rewards reach 4"):
        TrajectoryStore.open(tmp_path / "store")


def test_second_writer_of_the_same_store_fails(tmp_path: Path) -> None:
    def write_late() -> None:
        with StoreWriter(tmp_path / "store", **ABOUT) as writer:
            writer.append(**episode())
            write_elsewhere()

    def write_elsewhere() -> None:
        program = (
            "import sys; from pathlib import Path; from replay_data.testing import write_random_store;"
            "write_random_store(Path(sys.argv[1]), [3])"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "store")], check=True)

    with pytest.raises(InputError, match="another process"):
        write_late()
    assert len(TrajectoryStore.open(tmp_path / "store")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_leftover_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / f".store.partial-{os.getpid()}"
    leftover.mkdir()
    (leftover / "frames.npy").write_text("half")
    write_random_store(tmp_path / "store", [3])
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_directories_without_metadata_are_not_stores(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trajectory store at"):
        TrajectoryStore.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a trajectory store"):
        TrajectoryStore.open(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of resident memory from /proc")
def test_half_a_million_steps_open_within_200_mb(tmp_path: Path) -> None:
    """The frames are a sparse file of the right size, which keeps the test cheap; all other arrays are complete."""
    steps, episodes = 500_000, 500
    small = write_random_store(tmp_path / "small", [1])
    zeros = dict.fromkeys(("max_return", "mean_return", "max_score", "mean_score"), 0)
    metadata = small.metadata.to_json() | zeros | {"steps": steps, "episodes": episodes}
    per_episode = steps // episodes
    step = np.arange(steps)
    arrays = {
        "frame_index": step + 3 * (step // per_episode + 1),
        "actions": np.zeros(steps, np.uint8),
        "rewards": np.zeros(steps, np.float32),
        "raw_rewards": np.zeros(steps, np.float32),
        "returns_to_go": np.zeros(steps, np.float32),
        "timesteps": (step % per_episode).astype(np.int32),
        "episode_ends": np.arange(1, episodes + 1) * per_episode,
        "terminated": np.ones(episodes, np.bool_),
    }
    big = tmp_path / "big"
    big.mkdir()
    for name, array in arrays.items():
        np.save(big / f"{name}.npy", array)
        digest = sha256(array.tobytes()).hexdigest()
        metadata["arrays"][name] |= {"shape": list(array.shape), "sha256": digest}
    shape = (steps + 3 * episodes, 84, 84)
    metadata["arrays"]["frames"]["shape"] = list(shape)
    np.lib.format.open_memmap(big / "frames.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    (big / "metadata.json").write_text(json.dumps(metadata))

    program = (
        "import re, sys; from replay_data import TrajectoryStore; store = TrajectoryStore.open(sys.argv[1]);"
        "store.state(len(store) - 1).sum();"
        "print(len(store), re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    result = subprocess.run([sys.executable, "-c", program, str(big)], capture_output=True, text=True, check=True)
    length, kilobytes = map(int, result.stdout.split())
    assert length == steps
    assert kilobytes < 200 * 1024
