"""Stores exported as Minari datasets: Minari and this project read them back, and nothing is left where that fails."""

from __future__ import annotations

import dataclasses
import errno
import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.skip("the extra minari needs Python 3.11", allow_module_level=True)

import minari

from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.json_fields import Scalar
from replay_data.minari_export import DatasetDescription, export_to_minari
from replay_data.progress import ProgressBar
from replay_data.recording import Recording
from replay_data.selection.methods import Selection
from replay_data.selection.stores import select_from_store
from replay_data.sources.minari_metadata import read_minari_metadata
from replay_data.sources.minari_reader import MinariRun
from replay_data.store_metadata import StoreSource
from replay_data.testing import ACTION_MEANINGS, write_random_store
from tests.replay_data.memory import limited_memory
from tests.replay_data.recordings import build, random_episode

RECORDING = Recording("scripted", "Breakout", 27, 3, 0.25, 108_000, ACTION_MEANINGS, "a" * 64, {"num_envs": 4})


def write_store(
    path: Path, raw_rewards: bool = True, method: str = "all", recording: Recording | None = RECORDING
) -> TrajectoryStore:
    """Write a store of three episodes, of which the second was truncated."""
    rng = np.random.default_rng(0)
    with StoreWriter(
        path,
        game="Breakout",
        action_meanings=ACTION_MEANINGS,
        reward_clipping=True,
        sticky_actions=0.25,
        source=StoreSource("dopamine", 1, {"method": method}, recording),
    ) as writer:
        for index, length in enumerate((7, 1, 19)):
            episode = random_episode(rng, length)
            raw = episode.raw_rewards if raw_rewards else None
            writer.append(episode.frames, episode.actions, episode.rewards, raw, terminated=index != 1)
    return TrajectoryStore.open(path)


def export(store: TrajectoryStore, root: Path, name: str = "atari/breakout/mine-v0", **options: Any) -> Path:
    return export_to_minari(store, name, root, show_progress=False, **options)


@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("raw_rewards", [True, False])
def test_an_exported_store_is_what_minari_and_this_project_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: bool, raw_rewards: bool
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    store = write_store(tmp_path / "store", raw_rewards)
    description = DatasetDescription("A", "a@b.org", "CC0-1.0", None, "words")
    assert export(store, tmp_path / "datasets", stack=stack, description=description).is_dir()
    assert list(minari.list_local_datasets()) == ["atari/breakout/mine-v0"]
    dataset = minari.load_dataset("atari/breakout/mine-v0")
    assert dataset.observation_space.shape == ((4 if stack else 1), 84, 84)
    assert (dataset.action_space.n, dataset.total_steps, dataset.env_spec) == (4, 27, None)
    assert store.terminated is not None
    for episode, start, end, terminated in zip(
        dataset, store.episode_starts, store.episode_ends, store.terminated, strict=True
    ):
        states = [store.state(step)[slice(None) if stack else slice(3, 4)] for step in range(start, end)]
        last = np.concatenate([states[-1][1:], states[-1][-1:]])  # nothing moves, so the newest frame comes again
        assert np.array_equal(episode.observations, [*states, last])
        assert episode.observations.dtype == np.uint8
        assert np.array_equal(episode.actions, store.actions[start:end])
        rewards = store.rewards if store.raw_rewards is None else store.raw_rewards
        assert np.array_equal(episode.rewards, rewards[start:end])
        assert episode.terminations.tolist() == [False] * (end - start - 1) + [terminated]
        assert episode.truncations.tolist() == [False] * (end - start - 1) + [not terminated]
    metadata = dataset.storage.metadata
    assert (metadata["author"], metadata["license"], metadata["algorithm_name"]) == ({"A"}, "CC0-1.0", "scripted")
    assert metadata["description"] == "words"

    run = MinariRun(tmp_path / "datasets", "Breakout", 1, 4)
    again = build(tmp_path / "again", run, "all")
    assert again.digest == store.digest
    assert again.terminated is not None
    assert np.array_equal(again.terminated, store.terminated)
    assert again.metadata.source.recording == RECORDING
    assert run.has_raw_rewards == raw_rewards


def test_the_description_says_what_a_stranger_needs(tmp_path: Path) -> None:
    path = export(write_store(tmp_path / "store", raw_rewards=False), tmp_path)
    text = json.loads((path / "data/metadata.json").read_text())["description"]
    assert "Origin: played by scripted, recorded by atari-dt; selection: method all." in text
    for part in ("actions: 0.25", "clipped to", "NOOP, FIRE"):
        assert part in text


def test_an_export_of_selected_episodes_says_who_played_them(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    selected = select_from_store(tmp_path / "selected", tmp_path / "store", Selection.of("top"), show_progress=False)
    path = export(selected, tmp_path)
    metadata = read_minari_metadata(path / "data")
    assert metadata.recording == RECORDING
    assert metadata.texts["algorithm_name"] == "scripted"
    text = json.loads((path / "data/metadata.json").read_text())["description"]
    selection = "selection: method all, then method top, top_episode_percent 10."
    assert f"Origin: played by scripted, recorded by atari-dt; {selection}" in text


def test_an_export_names_the_trained_policies_that_played(tmp_path: Path) -> None:
    settings: dict[str, Scalar] = {
        "policy_0": "sb3/dqn@0123",
        "policy_0_sha256": "ab",
        "policy_1": "best.zip",
        "num_envs": 4,
    }
    recording = dataclasses.replace(RECORDING, agent="hub", settings=settings)
    path = export(write_store(tmp_path / "store", recording=recording), tmp_path)
    metadata = json.loads((path / "data/metadata.json").read_text())
    assert metadata["algorithm_name"] == "sb3/dqn@0123, best.zip"
    assert "Origin: played by sb3/dqn@0123, best.zip, recorded by atari-dt; selection" in metadata["description"]


def test_an_export_of_other_data_names_its_source(tmp_path: Path) -> None:
    path = export(write_store(tmp_path / "store", recording=None), tmp_path)
    metadata = json.loads((path / "data/metadata.json").read_text())
    assert "algorithm_name" not in metadata
    assert "Origin: dopamine, run 1; selection: method all." in metadata["description"]


def test_observations_are_compressed_and_memory_is_bounded(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", [1500], repeat_frames=True)
    frames = np.memmap(store.path / "frames.npy", np.uint8, "r+", offset=128)
    frames[:] = 0
    frames.flush()
    with limited_memory(35):  # the episode has 42 MB of stacks
        path = export(store, tmp_path / "datasets")
    assert sum(file.stat().st_size for file in path.rglob("*.hdf5")) < 1500 * 200


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("atari/breakout/mine", "'atari/breakout/mine' is not a name of a Minari dataset"),
        ("../mine-v0", "is not a name"),
        ("/mine-v0", "is not a name"),
        ("a//mine-v0", "is not a name"),
        ("a/mine-v0", "is not a name"),  # Minari's namespaces have two letters
        ("mine v0", "is not a name"),
        ("used/mine-v0", "the Minari dataset used/mine-v0 exists already in "),
        ("used/mine-v0/other-v0", "used/mine-v0 is a Minari dataset itself"),
        ("used", "is not a name"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "used/mine-v0/data").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    store = write_random_store(tmp_path.parent / f"{tmp_path.name}_store", [3])
    with pytest.raises(InputError) as error:
        export(store, tmp_path, name)
    assert message in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_minari_accepts_the_names_that_are_accepted(tmp_path: Path) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    store = write_random_store(tmp_path / "store", [1])
    for name in ("mine-v0", "atari/ms-pacman/a_b-c-v12", "xy/z-v0"):
        export(store, tmp_path, name)
        assert parse_dataset_id(name)[2] == int(name.rsplit("-v", 1)[1])


def test_rows_that_are_not_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds the rows of the paper's original draw, .* `selection` corrected"):
        export(write_store(tmp_path / "store", method="original"), tmp_path / "datasets")
    store = write_store(tmp_path / "old")
    store.terminated = None
    with pytest.raises(InputError, match=r"old does not tell terminated from truncated episodes, like st"):
        export(store, tmp_path / "datasets")
    assert not (tmp_path / "datasets").exists()


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9999])
def test_a_full_disk_leaves_nothing(tmp_path: Path, share: float) -> None:
    """The HDF5 library itself would end the process here."""
    store = write_random_store(tmp_path / "store", [20] * 4)
    (tmp_path / "datasets").mkdir()
    size = (export(store, tmp_path / "elsewhere") / "data/main_data.hdf5").stat().st_size
    with limited_file_size(int(share * size)), pytest.raises(OSError, match="File too large") as error:
        export(store, tmp_path / "datasets")
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "datasets/atari/breakout/mine-v0")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: ProgressBar, n: float | None = 1) -> None:
        raise KeyboardInterrupt

    store = write_random_store(tmp_path / "store", [20] * 4)
    monkeypatch.setattr(ProgressBar, "update", interrupt)
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        export(store, tmp_path / "datasets")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
