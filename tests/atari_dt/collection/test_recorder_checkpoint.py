"""Recorder checkpoints: format version 1, damage, and checkpoints that are missing."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tracemalloc
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atari_dt.collection.recorder import read_recording
from atari_dt.collection.recorder_checkpoint import RecorderCheckpoint
from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode, Rollout
from replay_data import InputError, ReplayFormatError
from replay_data.episode import Episode
from tests.atari_dt.collection.recordings import (
    NumberedEpisodes,
    log_files,
    numbered_episode,
    read_episodes,
    record_breakout,
)
from tests.conftest import DATA
from tests.replay_data.recordings import same

VERSION_1 = DATA / "version_1" / "recording"


def gray_episode(index: int) -> Episode:
    steps = np.arange(20 + 11 * (index % 5))
    levels = (1 + (37 * index + steps) % 250).astype(np.uint8)
    frames = np.ascontiguousarray(np.broadcast_to(levels[:, None, None], (len(steps), 84, 84)))
    raw_rewards = np.where((index + steps) % 5 == 0, 2, 0).astype(np.float32)
    actions = ((index + steps) % 4).astype(np.uint8)
    return Episode(frames, actions, raw_rewards.clip(-1, 1), raw_rewards, terminated=index % 3 != 2)


class GrayEpisodes(NumberedEpisodes):
    """The player behind tests/data/version_1/recording: three episodes per rollout of 300 steps."""

    def play(self) -> Generator[Rollout, None, None]:
        while True:
            indices = range(self.index, self.index + 3)
            self.index = indices.stop
            episodes = [
                FinishedEpisode(CompressedEpisode.pack(gray_episode(index)), {"played": 100.0 * index + 90})
                for index in indices
            ]
            yield Rollout(episodes, 300, {})


def test_version_1_recording_is_resumed(tmp_path: Path) -> None:
    """A recording interrupted under version 1 continues as if version 2 had recorded all of it."""
    options: dict[str, Any] = {"agent": "gray", "num_steps": 5000, "seed": 7}
    settings = {"num_envs": 4, "discount": 0.99}  # version 1 calls the first one "num_games"
    record_breakout(tmp_path / "new", GrayEpisodes, settings=settings, **options)
    shutil.copytree(VERSION_1, tmp_path / "old")
    with pytest.raises(InputError, match=r"other settings: num_envs \(was 4, is 5\)"):
        record_breakout(tmp_path / "old", GrayEpisodes, settings=settings | {"num_envs": 5}, resume=True, **options)
    recording_path = tmp_path / "old" / "Breakout" / "1" / "recording.json"
    content = recording_path.read_text()
    recording_path.write_text(json.dumps(json.loads(content) | {"format_version": 3}))
    with pytest.raises(InputError, match=r"not a recording that can be resumed.*format version 3 is newer than 2"):
        record_breakout(tmp_path / "old", GrayEpisodes, settings=settings, resume=True, **options)
    recording_path.write_text(content)
    record_breakout(tmp_path / "old", GrayEpisodes, settings=settings, resume=True, **options)

    old, new = log_files(tmp_path / "old"), log_files(tmp_path / "new")
    version_1_sidecars = {"recording_ckpt.0.json", "recording_ckpt.1.json"}
    assert old.keys() == new.keys()
    assert all(old[name] == new[name] for name in old if name.endswith(".gz"))
    pairs = zip(*(read_recording(tmp_path / name / "Breakout" / "1") for name in ("old", "new")), strict=True)
    for index, (old_sidecar, new_sidecar) in enumerate(pairs):
        assert old_sidecar.episodes == new_sidecar.episodes
        assert replace(old_sidecar.recording, versions={}) == replace(new_sidecar.recording, versions={})
        name = f"recording_ckpt.{index}.json"
        assert ("format_version" in json.loads(old[name])) == (name not in version_1_sidecars)


def test_a_recording_resumes_with_another_precision(tmp_path: Path) -> None:
    shutil.copytree(VERSION_1, tmp_path / "log")
    recording_path = tmp_path / "log" / "Breakout" / "1" / "recording.json"
    recording_path.write_text(json.dumps(json.loads(recording_path.read_text()) | {"precision": "bf16"}))
    settings = {"num_envs": 4, "discount": 0.99, "precision": "fp32"}
    record_breakout(
        tmp_path / "log", GrayEpisodes, agent="gray", num_steps=5000, seed=7, settings=settings, resume=True
    )
    assert read_recording(tmp_path / "log" / "Breakout" / "1")[-1].recording.settings["precision"] == "fp32"


def test_version_1_checkpoint_has_the_fields_of_version_2() -> None:
    checkpoint = RecorderCheckpoint.read(VERSION_1 / "Breakout" / "1")
    assert (checkpoint.num_complete, checkpoint.add_count, checkpoint.num_steps_played) == (2, 158, 600)
    assert checkpoint.stage == ".partial-7g0xwe46"
    assert checkpoint.player_state == b"6"
    assert [details for _, details in checkpoint.episodes] == [{"played": 490.0}, {"played": 590.0}]
    for index, (episode, _) in zip((4, 5), checkpoint.episodes, strict=True):
        assert same(episode.unpack(), gray_episode(index), raw_rewards=True)


def test_checkpoint_reads_what_it_wrote(tmp_path: Path) -> None:
    episodes = [FinishedEpisode(CompressedEpisode.pack(numbered_episode(i)), {"skill": i / 2}) for i in range(3)]
    (tmp_path / "checkpoints").mkdir()
    for written in (
        RecorderCheckpoint(7, 123, episodes, 456, ".partial-x", b"state"),
        RecorderCheckpoint(50, 2000, [], 2001, None, b""),
    ):
        written.write(tmp_path)
        found = RecorderCheckpoint.read(tmp_path)  # the latest one
        assert replace(found, episodes=()) == replace(written, episodes=())
        assert found.to_json() == written.to_json()
        assert found.to_json()["format_version"] == 2
        for (one, _), (other, _) in zip(found.episodes, written.episodes, strict=True):
            assert same(one.unpack(), other.unpack(), raw_rewards=True)
    written.remove_older(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["buffers-50"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format version 3 is newer than 2"),
        ({"format_version": None}, "format_version is None, not of type int"),
        ({"add_count": "158"}, "add_count is '158'"),
        ({"num_complete": None}, "num_complete is None"),
        ({"num_steps_played": 1.5}, "num_steps_played is 1.5"),
        ({"stage": 3}, "stage is 3"),
        ({"stage": ".partial-/../../2"}, "not a directory of the recorder"),
        ({"stage": "/tmp"}, "not a directory of the recorder"),
        ({"add_count": -1}, "add_count is -1"),
        ({"num_complete": 2}, "it was saved after 2 buffers"),
        ({"details": [{"skill": float("nan")}]}, "skill is nan, not a finite number"),
        ({"details": []}, "shorter"),
        ({"details": [{"skill": "good"}]}, "skill of an episode is not a number"),
        ({"details": [None]}, "None"),
    ],
)
def test_malformed_progress_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    episode = FinishedEpisode(CompressedEpisode.pack(numbered_episode(0)), {"skill": 0.5})
    (tmp_path / "checkpoints").mkdir()
    RecorderCheckpoint(1, 158, [episode], 200, None, b"state").write(tmp_path)
    path = tmp_path / "checkpoints" / "buffers-01" / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=rf"buffers-01 is damaged .*{message}.* buffers can be used"):
        RecorderCheckpoint.read(tmp_path)


def malformed_episodes(name: str, path: Path) -> None:
    """Replace one array of an ``episodes.npz`` with one episode of 20 steps."""
    with np.load(path) as loaded:
        arrays = dict(loaded)
    zeros = gzip.compress(bytes(20_000_000))
    changes: dict[str, dict[str, Any]] = {
        "lengths": {"lengths": np.array([19])},
        "negative lengths": {"lengths": np.array([-20])},
        "dtype": {"actions": arrays["actions"].astype(np.float64)},
        "NaN": {"raw_rewards": np.full(20, np.nan, np.float32)},
        "too many frames": {"frames": np.frombuffer(zeros, np.uint8), "sizes": np.array([len(zeros)])},
        "too much RAM": {"ram": np.frombuffer(zeros, np.uint8), "ram_sizes": np.array([len(zeros)])},
        "RAM without sizes": {"ram": np.frombuffer(gzip.compress(bytes(20 * 128)), np.uint8)},
    }
    save = np.savez_compressed if name == "compressed" else np.savez
    save(path, **(arrays | changes.get(name, {})))
    if name == "shape":
        content = path.read_bytes()
        path.write_bytes(content.replace(b"'shape': (20,), }  ", b"'shape': (2000,), }"))


@pytest.mark.parametrize(
    "name",
    [
        *("lengths", "negative lengths", "dtype", "NaN", "too many frames", "compressed", "shape", "named pipe"),
        *("too much RAM", "RAM without sizes"),
    ],
)
def test_malformed_episodes_are_refused(tmp_path: Path, name: str) -> None:
    episode = FinishedEpisode(CompressedEpisode.pack(gray_episode(0)), {"skill": 0.5})
    (tmp_path / "checkpoints").mkdir()
    RecorderCheckpoint(1, 158, [episode], 200, None, b"state").write(tmp_path)
    path = tmp_path / "checkpoints" / "buffers-01" / "episodes.npz"
    if name == "named pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        malformed_episodes(name, path)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="buffers-01 is damaged"):
            RecorderCheckpoint.read(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_buffers_without_a_checkpoint_are_left_alone(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    before = log_files(tmp_path)
    directory = tmp_path / "Breakout" / "1"
    missing = directory / "replay_logs" / "$store$_action_ckpt.49.gz"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(ReplayFormatError, match=r"action_ckpt.49.gz is missing; copy it back"):
        record_breakout(tmp_path, resume=True)
    (directory / "replay_logs" / ".partial-x").mkdir()
    (directory / "replay_logs" / ".partial-x" / missing.name).touch()
    with pytest.raises(ReplayFormatError, match=r"the recorder was killed .* continue the recording with `resume`"):
        read_episodes(tmp_path)
    shutil.rmtree(directory / "replay_logs" / ".partial-x")
    missing.write_bytes(content)
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint to resume from; its buffers can be used"):
        record_breakout(tmp_path, resume=True)
    assert log_files(tmp_path) == before
