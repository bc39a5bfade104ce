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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"game": "../Pong"}, "game is '../Pong', which is not the name of a game"),
        ({"action_meanings": []}, "number of action_meanings is 0"),
        ({"action_meanings": ["NOOP", 1]}, "an item of action_meanings is 1"),
        ({"sticky_actions": 7}, "sticky_actions is 7"),
    ],
)
def test_a_store_that_could_not_be_opened_is_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StoreWriter(tmp_path / "store", **ABOUT | change)
    with StoreWriter(tmp_path / "store", **ABOUT) as writer:
        with pytest.raises(InputError, match="returns-to-go must be finite"):
            writer.append(**episode(returns_to_go=np.full(5, np.inf)))
        writer.append(**episode())


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
    with pytest.raises(InputError, match="no whole episode is in the source"), StoreWriter(tmp_path / "store", **ABOUT):
        pass
    assert list(tmp_path.iterdir()) == []


def test_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [3])
    with pytest.raises(InputError, match="exists already"):
        StoreWriter(tmp_path / "store", **ABOUT)


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
