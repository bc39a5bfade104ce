"""Sidecars: format versions 1 and 2, and content of other kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_data import ReplayFormatError
from replay_data.recording import Recording
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_sidecar import BufferSidecar, RecordedEpisode, sidecar_path
from replay_data.sources.dopamine_writer import DopamineLogWriter
from tests.conftest import DATA
from tests.replay_data.recordings import random_episode

VERSION_1 = DATA / "version_1" / "log"


def test_version_1_is_read() -> None:
    sidecar = BufferSidecar.read(VERSION_1 / "Breakout" / "1" / "replay_logs", 3)
    assert sidecar is not None
    assert sidecar.rows == 20
    assert sidecar.episodes == (RecordedEpisode(row=8, steps=20, return_=0.0, score=0.0, details={"played": 79.0}),)
    assert sidecar.clipped_rows.tolist() == sidecar.clipped_values.tolist() == []
    assert sidecar.recording == Recording(
        agent="q_learning",
        game="Breakout",
        num_steps=1000,
        seed=3,
        sticky_actions=0.25,
        max_frames=80,
        action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT"),
        rom_sha256="376323f051c3c373c887fd83abead39d87d844ff283d435f4addbfc1710c6fd5",
        settings={
            "num_envs": 4,  # "num_games" in version 1
            "steps_per_update": 32,
            "epochs": 1,
            "minibatch_size": 64,
            "learning_rate": 0.00025,
            "discount": 0.99,
            "trace_decay": 0.65,
            "final_epsilon": 0.01,
            "exploration_fraction": 0.1,
            "grad_norm_clip": 10.0,
            "precision": "bf16",
        },
        versions={"atari-dt": "0.1.0", "ale-py": "0.12.1", "numpy": "2.4.6", "torch": "2.13.0+cpu"},
    )


def test_a_log_with_a_version_1_sidecar_is_read() -> None:
    log = DopamineLog(VERSION_1, "Breakout", 1, 4)
    assert list(log.shards) == [3]
    assert log.recording is not None
    assert log.recording.agent == "q_learning"
    (buffer,) = log.shards.values()
    rows = buffer.read_to(buffer.fresh)
    assert (rows.raw_rewards == rows.rewards).all()  # known, and none was clipped
    buffer.close()


def test_version_2_is_written_and_read_back(tmp_path: Path) -> None:
    recording = Recording("numbered", "Breakout", 30, 0, 0.25, 80, ("NOOP", "FIRE"), "0" * 64, {"epochs": 2})
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, steps) for steps in (5, 6, 7)]  # the third one ends in buffer 1
    raw_rewards = [episode.raw_rewards for episode in episodes if episode.raw_rewards is not None]
    with DopamineLogWriter(tmp_path, 20, recording=recording) as writer:
        for index, episode in enumerate(episodes):
            writer.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                terminated=True,
                raw_rewards=episode.raw_rewards,
                details={"index": index},
            )
    content = json.loads(sidecar_path(tmp_path, 0).read_text())
    assert content["format_version"] == 2
    assert content["episodes"] == [
        {
            "row": row,
            "steps": len(episode),
            "return": episode.rewards.sum(),
            "score": raw.sum(),
            "index": index,
        }
        for index, (row, episode, raw) in enumerate(zip((7, 16), episodes, raw_rewards, strict=False))
    ]
    sidecar = BufferSidecar.read(tmp_path, 0)
    assert sidecar is not None
    assert sidecar.recording == recording
    assert sidecar.to_json() == content
    raw = np.concatenate([np.zeros(3, np.float32), raw_rewards[0]])
    assert np.array_equal(sidecar.raw_rewards(raw.clip(-1, 1), 0), raw)
    assert np.array_equal(sidecar.raw_rewards(raw[4:].clip(-1, 1), 4), raw[4:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format version 3 is newer than 2, the newest that this code reads"),
        ({"format_version": "2"}, "TypeError: format_version is "),
        ({"rows": None}, "rows is None"),
        ({"recording": 5}, "TypeError: 5 is "),
        ({"episodes": 5}, "TypeError"),
        ({"episodes": [5]}, "TypeError: 5 is "),
        ({"episodes": [{"row": 8, "steps": 20, "return": 0.0}]}, "KeyError: 'score'"),
        ({"episodes": [{"row": 8, "steps": 20, "return": 0.0, "score": 1, "played": "all"}]}, "played is 'all'"),
        ({"raw_rewards": {"rows": [0]}}, "KeyError: 'values'"),
        ({"raw_rewards": {"rows": [10**30], "values": [2]}}, "an item of rows is too large"),
        ({"raw_rewards": {"rows": [0.5], "values": [2]}}, "an item of rows is 0.5"),
        ({"raw_rewards": {"rows": [3], "values": [1e300]}}, "contradict each other"),
    ],
)
def test_content_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(sidecar_path(VERSION_1 / "Breakout" / "1" / "replay_logs", 3).read_text())
    sidecar_path(tmp_path, 3).write_text(json.dumps(content | change))
    with pytest.raises(ReplayFormatError, match=rf"recording_ckpt\.3\.json is damaged \(.*{message}.*copy it again"):
        BufferSidecar.read(tmp_path, 3)


def test_a_missing_or_truncated_file_is_no_traceback(tmp_path: Path) -> None:
    assert BufferSidecar.read(tmp_path, 3) is None
    for content in ("", "{", "[]", "5"):
        sidecar_path(tmp_path, 3).write_text(content)
        with pytest.raises(ReplayFormatError, match="copy it again"):
            BufferSidecar.read(tmp_path, 3)
