"""The archive of a recording: its table and figure are those of the log, and damaged files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atari_dt.games.catalogue import find_game
from atari_dt.rendering.recording_archive import archive_recording, read_study
from atari_dt.rendering.replay_summary import replay_figure
from replay_data import InputError
from replay_data.sources.dopamine_sidecar import BufferSidecar, RecordedEpisode
from tests.atari_dt.rendering.test_replay_summary import sidecar_of

BUFFERS = (
    sidecar_of(RecordedEpisode(9, 6, 2.0, 9.5, {"played": 12}), RecordedEpisode(19, 6, 1.0, 1.0, {"played": 24})),
    sidecar_of(),
    sidecar_of(RecordedEpisode(12, 10, -0.25, -3.0)),
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "log.json"
    archive_recording(BUFFERS, 9_000, path)
    return path


def test_table_and_figure_are_those_of_the_log(archive: Path) -> None:
    study = read_study(json.loads(archive.read_text()))
    assert study.tables() == {
        "": [
            ["buffers", "episodes", "steps/episode", "return", "score", "best score"],
            ["0", "2", "6", "1.5", "5.2", "10"],
            ["1", "0", "", "", "", ""],
            ["2", "1", "10", "-0.2", "-3.0", "-3"],
        ],
        "size": [
            ["game", "player", "seed", "rows", "episodes", "MB", "bytes per row"],
            ["Breakout", "numbered", "0", "90", "3", "0", "100"],
        ],
    }
    assert study.figures()[""] == replay_figure(find_game("Breakout"), BUFFERS)
    assert [buffer.episodes for buffer in study.buffers] == [buffer.episodes for buffer in BUFFERS]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("episodes_of_buffers", [2, 0, 2], "numbers of episodes"),
        ("episodes_of_buffers", [4, -1, 0], "numbers of episodes"),
        ("type", "sweep", "its type is 'sweep'"),
        ("num_bytes", -1, "num_bytes"),
        ("rows", 0, "rows"),
    ],
)
def test_contradictions_are_refused(archive: Path, name: str, value: object, message: str) -> None:
    content = json.loads(archive.read_text()) | {name: value}
    with pytest.raises(ValueError, match=message):
        read_study(content)


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete buffer"):
        archive_recording(list[BufferSidecar](), 0, tmp_path / "log.json")
