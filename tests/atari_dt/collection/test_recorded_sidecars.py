"""Damaged sidecars of a recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from replay_data import ReplayFormatError
from tests.atari_dt.collection.recordings import log_files, read_episodes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw_rewards": {"rows": [0], "values": []}}, "contradict each other"),
        ({"raw_rewards": {"rows": [4, 3], "values": [2, 2]}}, "ascending rows of the buffer"),
        ({"raw_rewards": {"rows": [40], "values": [2]}}, "ascending rows of the buffer"),
        ({"raw_rewards": {"rows": [0], "values": [7]}}, "its raw rewards, clipped, are not the rewards of the buffer"),
        ({"raw_rewards": {"rows": [3], "values": [float("nan")]}}, "an item of values is nan, not a finite number"),
        ({"rows": 41}, "it describes 41 rows, but the buffer has 40"),
        ({"episodes": None}, "TypeError"),
    ],
)
def test_damaged_sidecar_is_named(complete: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    directory = tmp_path / "Breakout" / "1" / "replay_logs"
    directory.mkdir(parents=True)
    for name, content in log_files(complete).items():
        (directory / name).write_bytes(content)
    for index in (0, 7) if "clipped" in message else (7,):
        path = directory / f"recording_ckpt.{index}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ReplayFormatError, match=rf"recording_ckpt.\d.json is damaged .*{message}.*copy it again"):
        read_episodes(tmp_path)
    path.write_text("{")
    with pytest.raises(ReplayFormatError, match="copy it again"):
        read_episodes(tmp_path)
    path.unlink()
    assert all(episode.raw_rewards is None for episode in read_episodes(tmp_path))
