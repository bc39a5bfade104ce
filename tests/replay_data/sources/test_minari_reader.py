"""Minari datasets: those that Minari's collector wrote are compared with the emulator, and others are refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

if sys.version_info < (3, 11):
    pytest.skip("the extra minari needs Python 3.11", allow_module_level=True)

import ale_py
import cv2
import gymnasium
import h5py

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.games.catalogue import bundled_rom, find_game
from replay_data import InputError, ReplayFormatError
from replay_data.episode import Episode
from replay_data.recording import Recording
from replay_data.sources.minari_reader import MinariRun
from replay_data.testing import write_random_store
from tests.replay_data.memory import limited_memory
from tests.replay_data.minari_files import (
    SEEDS,
    SPEC,
    arrays_of,
    collect,
    emulator_seed,
    gray_screens,
    write_dataset,
)
from tests.replay_data.recordings import build, random_episode, same

NUM_STEPS = 10


def read(path: Path, game: str = "Breakout", num_actions: int = 4) -> tuple[MinariRun, list[Episode]]:
    run = MinariRun(path, game, 1, num_actions)
    return run, list(run.shards[0].episodes())


def make(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("ALE/Breakout-v5", disable_env_checker=True, repeat_action_probability=0, **options)


@pytest.mark.parametrize("jpeg", [False, True])
def test_screens_that_minari_collected_are_the_emulators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bool
) -> None:
    actions = collect(
        monkeypatch,
        tmp_path,
        "atari/breakout/expert-v0",
        make(max_episode_steps=NUM_STEPS),
        NUM_STEPS,
        jpeg_encoding=jpeg,
    )
    run, episodes = read(tmp_path)
    assert [episode.actions.tolist() for episode in episodes] == actions
    assert [episode.terminated for episode in episodes] == [False]
    for seed, chosen, episode in zip(SEEDS, actions, episodes, strict=False):
        expected = np.array(list(gray_screens("breakout", seed, chosen)), dtype=int)
        errors = np.abs(episode.frames - expected)
        assert (errors > 0).any() == jpeg
        assert errors.mean() < 0.3
        assert errors.max() <= 12
    assert run.details == {
        "dataset_id": "atari/breakout/expert-v0",
        "algorithm_name": "random",
        "author": "Nobody",
        "environment": "ALE/Breakout-v5",
        "observations": "JPEG" if jpeg else "210x160x3",
        "lossy_frames": jpeg,
        "max_pooled": False,
    }
    assert (run.sticky_actions, run.has_raw_rewards, run.recording) == (0, True, None)
    assert ["JPEG" in note for note in run.notes] == [True, False] if jpeg else [False]
    store = build(tmp_path / "store", run, "all")
    assert store.metadata.source.verified is None
    assert store.metadata.sticky_actions == 0
    assert store.metadata.source.details["lossy_frames"] == jpeg


def test_preprocessed_stacks_that_minari_collected_are_what_this_project_observes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gymnasium.wrappers.AtariPreprocessing(make(frameskip=1), noop_max=0)
    stacks = gymnasium.wrappers.FrameStackObservation(env, 4)
    actions = collect(monkeypatch, tmp_path, "mine-v0", stacks, 40, num_episodes=2)
    run, episodes = read(tmp_path / "mine-v0")
    for seed, chosen, episode in zip(SEEDS, actions, episodes, strict=True):
        ours = AleEnv(find_game("Breakout"), EnvironmentConfig(sticky_actions=0), emulator_seed(seed))
        for step, action in enumerate(chosen):
            assert np.array_equal(episode.frames[step], ours.frame)
            assert episode.rewards[step] == ours.step(action)[0]
    assert (run.details["max_pooled"], run.notes) == (True, ())
    assert sum(run.shards[0].returns()) > 0


def test_color_screens_with_more_rows_get_the_emulators_gray_levels(tmp_path: Path) -> None:
    ale = ale_py.ALEInterface()
    ale.loadROM(bundled_rom(find_game("Klax")))
    colors, gray = [], []
    for _ in range(10):
        for _ in range(50):
            ale.act(ale_py.Action.FIRE)
        colors.append(ale.getScreenRGB())
        gray.append(cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_AREA))
    assert colors[0].shape == (250, 160, 3)
    episode = random_episode(np.random.default_rng(0), 9)
    spec = SPEC | {"id": "ALE/Klax-v5", "kwargs": {"game": "klax"}}
    write_dataset(tmp_path / "d", {"episode_0": arrays_of(episode, np.array(colors))}, spec)
    assert np.array_equal(read(tmp_path / "d", "Klax")[1][0].frames, gray[:9])


@pytest.mark.parametrize(
    "layout", ["84x84", "84x84x1", "1x84x84", "4x84x84", "84x84x4", "4x84x84x1", "2x84x84x3", "gzip", "lzf"]
)
def test_each_layout_gives_the_newest_frame(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 6, terminated=terminated) for terminated in (True, False)]
    arrays = {}
    for index, episode in enumerate(episodes):
        frames = np.concatenate([np.zeros((3, 84, 84), np.uint8), episode.frames, episode.frames[:1]])
        stacks = np.array([frames[step : step + 4] for step in range(7)])
        observations = {
            "84x84x1": frames[3:, :, :, None],
            "1x84x84": frames[3:, None],
            "4x84x84": stacks,
            "84x84x4": np.moveaxis(stacks, 1, -1),
            "4x84x84x1": stacks[..., None],
            "2x84x84x3": np.repeat(stacks[:, 2:, :, :, None], 3, axis=-1),  # gray levels as colors
        }.get(layout, frames[3:])
        arrays[f"episode_{index}"] = arrays_of(episode, observations)
    path = write_dataset(tmp_path / "d", arrays)
    if layout in ("gzip", "lzf"):
        with h5py.File(path / "data/main_data.hdf5", "a") as file:
            for group in file.values():
                observations = group["observations"][:]
                del group["observations"]
                group.create_dataset("observations", data=observations, compression=layout, chunks=(2, 84, 30))
    _, found = read(path)
    assert all(same(one, other, raw_rewards=True) for one, other in zip(found, episodes, strict=True))
    assert [episode.terminated for episode in found] == [True, False]
    shard = MinariRun(path, "Breakout", 1, 4).shards[0]
    assert [same(each, episodes[1]) for each in shard.episodes([1])] == [True]
    assert list(shard.returns()) == [episode.rewards.sum() for episode in episodes]


def changed(arrays: dict[str, Any], name: str, index: Any, value: Any) -> dict[str, Any]:
    values = arrays[name].astype(np.float64) if isinstance(value, float) else arrays[name].copy()
    values[index] = value
    return arrays | {name: values}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: changed(a, "actions", 2, 4), "to 4, not from 0 to 3"),
        (lambda a: changed(a, "actions", 2, -1), "its actions run from -1 to"),
        (lambda a: changed(a, "rewards", 3, float("nan")), "its reward at step 3 is nan"),
        (lambda a: changed(a, "terminations", 1, True), "it goes on after its end at step 1"),
        (lambda a: a | {"rewards": a["rewards"][:-1]}, "6 actions, 5 rewards, 6 terminations"),
        (lambda a: a | {"observations": a["observations"][:-1]}, "it has 6 observations of 6 steps, not one more"),
        (lambda a: {name: values[:0] for name, values in a.items()}, "its arrays should have the same length and not"),
        (lambda a: a | {"actions": a["actions"].astype(float)}, "its actions are float64 [6], not one number a step"),
        (lambda a: a | {"actions": a["actions"][:, None]}, "its actions are int64 [6, 1], not"),
        (lambda a: a | {"rewards": a["rewards"].astype("S900000")}, "its rewards are |S900000 [6], not"),
        (lambda a: {name: a[name] for name in a if name != "truncations"}, "it has no truncations"),
        (
            lambda a: a | {"observations": a["observations"] / 255},
            "its observations are float64 [7, 84, 84], not uint8",
        ),
        (lambda a: a | {"observations": a["observations"][:, :80]}, "have shape [80, 84], not that of a screen"),
        (lambda a: a | {"observations": np.repeat(a["observations"][:, None], 3, 1)}, "have shape [3, 84, 84], not"),
        (lambda a: a | {"observations": a["observations"][:, 0]}, "observation 0 is not a whole JPEG file"),
        (lambda a: a | {"observations": jpegs(a, lambda data: data[:-9])}, "observation 0 is not a whole JPEG file"),
        (lambda a: a | {"observations": jpegs(a, enlarge)}, "observation 0 is a JPEG of 65535×84 pixels"),
        (
            lambda a: a | {"observations": np.repeat(a["observations"][:, None], 4, 1)},
            "its stacks do not hold consecutive frames, oldest first",
        ),
    ],
)
def test_a_damaged_episode_is_named(tmp_path: Path, change: Any, message: str) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 6) for _ in range(2)]
    arrays = [arrays_of(each, np.concatenate([each.frames, each.frames[:1]])) for each in episodes]
    path = write_dataset(tmp_path / "d", {"episode_0": arrays[0], "episode_1": change(arrays[1])})
    with pytest.raises(ReplayFormatError, match=r"main_data.hdf5 is damaged at episode 1 \(.*; download") as error:
        read(path)
    assert message in str(error.value)


def jpegs(arrays: dict[str, Any], damage: Any) -> npt.NDArray[Any]:
    encoded = [damage(cv2.imencode(".jpg", frame)[1]) for frame in arrays["observations"]]
    observations = np.empty(len(encoded), dtype=h5py.vlen_dtype(np.uint8))
    observations[:] = encoded
    return observations


def enlarge(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a JPEG with another height in its header."""
    start = data.tobytes().index(b"\xff\xc0") + 5
    data[start : start + 2] = 255
    return data


@pytest.mark.parametrize(
    ("spec", "metadata", "message"),
    [
        (SPEC | {"kwargs": {"frameskip": 1}}, {}, "holds steps of 1 emulator frames, but a step here has 4"),
        (SPEC | {"kwargs": {"frameskip": [2, 5]}}, {}, "holds steps of (2, 5) emulator frames"),
        (
            SPEC | {"kwargs": {"frameskip": 2}, "additional_wrappers": [{"name": "AtariPreprocessing", "kwargs": {}}]},
            {},
            "holds steps of 8 emulator frames",
        ),
        (SPEC | {"kwargs": {"game": "pong"}}, {}, "holds a dataset of ALE/Breakout-v5, not of Breakout; set `game`"),
        (SPEC | {"id": "PongNoFrameskip-v4", "kwargs": {}}, {}, "holds a dataset of PongNoFrameskip-v4, not of Br"),
        (
            SPEC | {"kwargs": {"full_action_space": True}},
            {"action_space": None},
            "actions of a set of 18, but Breakout",
        ),
        (SPEC, {"action_space": '{"type": "Discrete", "n": 18}'}, "holds actions of a set of 18, but Breakout has 4"),
        (SPEC, {"action_space": '{"type": "Box"}'}, "its actions are of type 'Box', not 'Discrete'"),
        (SPEC, {"data_format": "arrow"}, "is in Minari's format 'arrow', but only hdf5 is read"),
        (SPEC, {"total_episodes": 10**12}, "has 1 episodes, but metadata.json beside it says 1000000000000"),
        (SPEC, {"total_episodes": "1"}, "total_episodes is '1', not of type int"),
        (SPEC, {"env_spec": "[" * 10**5}, "it is nested too deeply"),
        (SPEC | {"kwargs": {"repeat_action_probability": 2}}, {}, "repeat_action_probability is 2"),
        (SPEC | {"additional_wrappers": ["x"]}, {}, "'x' is where an object should be"),
    ],
)
def test_other_environments_are_refused(tmp_path: Path, spec: Any, metadata: dict[str, Any], message: str) -> None:
    episode = random_episode(np.random.default_rng(0), 6)
    path = write_dataset(
        tmp_path / "d", {"episode_0": arrays_of(episode, np.zeros((7, 84, 84), np.uint8))}, spec, **metadata
    )
    with pytest.raises(ReplayFormatError) as error:
        read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_what_the_environment_says_goes_into_the_run(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 6)
    arrays = {"episode_0": arrays_of(episode, np.zeros((7, 84, 84), np.uint8))}
    run = read(write_dataset(tmp_path / "nothing", arrays, None, action_space=None))[0]
    assert (run.sticky_actions, run.has_raw_rewards) == (None, True)
    assert run.notes == ("the dataset does not tell how many emulator frames a step has; 4 are assumed",)
    wrappers = [
        {"name": "AtariPreprocessing", "kwargs": {"terminal_on_life_loss": True}},
        {"name": "ClipReward", "kwargs": {}},
    ]
    kwargs = {"game": "breakout", "frameskip": 1, "repeat_action_probability": 0.25}
    recording = Recording("scripted", "Breakout", 6, 0, 0.25, 108_000, ("NOOP",), "a" * 64)
    spec = SPEC | {"kwargs": kwargs, "additional_wrappers": wrappers}
    run = read(write_dataset(tmp_path / "lives", arrays, spec, recording=recording.to_json()))[0]
    assert (run.sticky_actions, run.has_raw_rewards, run.recording) == (0.25, False, recording)
    assert run.details["max_pooled"] is True
    assert run.notes == ("an episode ends when a life is lost",)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("soft link", "its observations is a link"),
        ("external link", "its observations is a link"),
        ("external storage", "its observations are in another file"),
        ("virtual", "its observations are in another file"),
        ("huge", "its observations are not complete"),
        ("sparse", "its observations are not complete"),
        ("chunk", "its observations are in chunks of"),
        ("filter", "its observations have an unknown compression"),
        ("group", "its observations are a group of arrays"),
        ("null", "its observations are empty"),
    ],
)
def test_content_that_is_elsewhere_or_nowhere_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    """A link could show any file; parts that were never written take no space, however large they are."""
    episode = random_episode(np.random.default_rng(0), 6)
    path = write_dataset(tmp_path / "d", {"episode_0": arrays_of(episode, np.zeros((7, 84, 84), np.uint8))})
    secret = tmp_path / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["frames"] = np.zeros((7, 84, 84), np.uint8)
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        file.move("episode_0/observations", "episode_0/other")
        group = file["episode_0"]
        shape = (7, 84, 84)
        if kind == "soft link":
            group["observations"] = h5py.SoftLink("/episode_0/other")
        elif kind == "external link":
            group["observations"] = h5py.ExternalLink(str(secret), "frames")
        elif kind == "external storage":
            group.create_dataset("observations", shape, np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(secret), "frames", shape)
            group.create_virtual_dataset("observations", layout)
        elif kind == "huge":
            group.create_dataset("observations", (10**12 + 1, 84, 84), np.uint8, chunks=(1, 84, 84))
        elif kind == "sparse":
            group.create_dataset(
                "observations", (7, 250, 160, 3), np.uint8, chunks=(1, 250, 160, 3), compression="gzip"
            )
        elif kind == "chunk":
            group.create_dataset("observations", shape, np.uint8, chunks=(10**5, 84, 84), maxshape=(None, 84, 84))
        elif kind == "filter":
            group.create_dataset("observations", data=np.zeros(shape, np.uint8), scaleoffset=0)
        elif kind == "group":
            group.create_group("observations")["image"] = np.zeros(shape, np.uint8)
        else:
            group["observations"] = h5py.Empty(np.uint8)
    with limited_memory(50), pytest.raises(ReplayFormatError) as error:
        read(path)
    assert message in str(error.value)


def test_a_cut_off_file_and_other_files_are_refused(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 6)
    path = write_dataset(tmp_path / "d", {"episode_0": arrays_of(episode, np.zeros((7, 84, 84), np.uint8))})
    file = path / "data/main_data.hdf5"
    content = file.read_bytes()
    for replacement, message in ((content[:20_000], "truncated file"), (b"", "is damaged"), (b"x" * 99, "is damaged")):
        file.write_bytes(replacement)
        with pytest.raises(ReplayFormatError, match=message):
            read(path)
    file.unlink()
    with pytest.raises(ReplayFormatError, match=r"main_data.hdf5 is missing; download"):
        read(path)
    os.mkfifo(file)
    with pytest.raises(InputError, match="is a named pipe"):
        read(path)
    (path / "data/metadata.json").unlink()
    with pytest.raises(ReplayFormatError, match="which Minari writes since"):
        read(path)


def test_the_dataset_of_a_game_is_found(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 6)
    arrays = {"episode_0": arrays_of(episode, np.zeros((7, 84, 84), np.uint8))}
    for name in ("atari/mspacman/expert-v0", "atari/pong/expert-v0", "atari/pong/mine-v1", "D4RL/door/human-v2"):
        write_dataset(tmp_path / name, arrays, None)
    for path in (tmp_path, tmp_path / "atari", tmp_path / "atari/mspacman", tmp_path / "atari/mspacman/expert-v0/data"):
        assert MinariRun(path, "MsPacman", 1, 4).directory == tmp_path / "atari/mspacman/expert-v0/data"
    expert, mine = (str(tmp_path / "atari/pong" / name) for name in ("expert-v0", "mine-v1"))
    (tmp_path / "empty").mkdir()
    store = write_random_store(tmp_path / "store", [3])
    for path, game, message in (
        (store.path, "Pong", f"{store.path} is a trajectory store; set `source` to store"),
        (tmp_path, "Pong", f"holds several datasets of Pong; set `path` to one of them: {expert}, {mine}"),
        (
            tmp_path / "atari",
            "Breakout",
            "with Breakout in its name but mspacman/expert-v0, pong/expert-v0, pong/mine-v1",
        ),
        (tmp_path / "empty", "Breakout", "holds no Minari dataset; minari download atari/breakout/expert-v0 puts"),
        (tmp_path / "nowhere", "Breakout", "nowhere is not a directory of Minari datasets; minari download"),
    ):
        with pytest.raises(ReplayFormatError) as error:
            MinariRun(path, game, 1, 4)
        assert message in str(error.value)
    with pytest.raises(ReplayFormatError, match="a Minari dataset has one run; set `run` to 1, not 2"):
        MinariRun(tmp_path, "MsPacman", 2, 4)


def test_a_missing_h5py_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dataset(tmp_path / "d", {})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        InputError,
        match=r'Minari datasets need h5py, which .* imported \(.*\); .* with pip install "minari\[hdf5\]"$',
    ):
        read(path)


def test_nothing_that_metadata_names_is_imported(tmp_path: Path) -> None:
    episode = random_episode(np.random.default_rng(0), 6)
    spec = SPEC | {
        "entry_point": "antigravity:x",
        "additional_wrappers": [{"name": "x", "entry_point": "antigravity:x"}],
    }
    path = write_dataset(tmp_path / "d", {"episode_0": arrays_of(episode, np.zeros((7, 84, 84), np.uint8))}, spec)
    assert json.loads((path / "data/metadata.json").read_text())["env_spec"].count("antigravity") == 2
    read(path)
    assert "antigravity" not in sys.modules
