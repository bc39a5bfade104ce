"""download_replay.py: what it fetches, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replay_data import TrajectoryStore
from tests.conftest import DATA
from tests.replay_data.dataset_hub import REVISION, DatasetHub, serve_dataset
from tests.replay_data.flaky_server import serving
from tests.replay_data.jat_files import make_row, write_jat
from tests.replay_data.recordings import indices_in_truth, truth
from tests.scripts.commands import (
    SCRIPTS,
    Refuse,
    call,
    limit_file_size,
)


def test_what_download_replay_fetches_is_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(DATA / "rl_unplugged") as server:
        assert (
            call(monkeypatch, "download_replay.py", "--out", tmp_path, "--base-url", server.url, "--num-steps", 800)
            == 0
        )
    printed = capsys.readouterr().out
    assert "steps in 4 episodes of 2 shards" in printed
    command = printed.split("python scripts/")[1].split()
    command[-1] = str(tmp_path / "store")  # instead of data/breakout
    assert call(monkeypatch, *command) == 0
    assert indices_in_truth(TrajectoryStore.open(tmp_path / "store")) == [0, 1, 2, 6]


def test_a_store_is_built_from_the_files_of_jat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [make_row(episode) for episode in truth()[:2]]
    for index, row in enumerate([*rows, rows[0]]):
        write_jat(tmp_path / "hub" / "atari-breakout" / f"train-0000{index}-of-00003.parquet", [row])
    options = "--source", "jat", "--out", tmp_path / "jat", "--num-steps", 200
    with serve_dataset(DatasetHub("jat-project/jat-dataset", tmp_path / "hub"), tmp_path / "cache"):
        assert call(monkeypatch, "download_replay.py", *options) == 0
    printed = capsys.readouterr().out
    assert f"jat: 368 steps in 2 episodes of 2 files, revision {REVISION}" in printed
    command = printed.split("python scripts/")[1].split()
    command[-1] = str(tmp_path / "store")
    assert call(monkeypatch, *command) == 0
    printed = capsys.readouterr().out
    assert "368 steps in 2 episodes of shards 0-1" in printed
    assert "jat lacks shards 2 of the run's 3\n" in printed
    assert "checksums" not in printed
    store = TrajectoryStore.open(tmp_path / "store")
    assert indices_in_truth(store) == [0, 1]
    assert store.metadata.source.details["revision"] == REVISION


def test_a_download_that_finds_the_disk_full_says_so(tmp_path: Path) -> None:
    with serving(DATA / "rl_unplugged") as server:
        command = [
            sys.executable,
            str(SCRIPTS / "download_replay.py"),
            "--out",
            str(tmp_path),
            "--base-url",
            server.url,
        ]
        result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_file_size)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith(f"error: {tmp_path}/Breakout/run_1-0000")
    assert "File too large" in last
    assert all(file.name.endswith(".partial") for file in (tmp_path / "Breakout").iterdir())  # to go on from


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--game Breakot --out {tmp}/new", "unknown game 'Breakot'"),
        ("--game Galaxian --out {tmp}/new", "RL Unplugged has no Galaxian; it has the 46 games Alien, Amidar, Ass"),
        ("--num-steps 0 --out {tmp}/new", "--num-steps must be at least 1, not 0"),
        ("--base-url http://127.0.0.1:9/x --out {tmp}/new", "http://127.0.0.1:9/x/Breakout/run_1-00000"),
        ("--run 6 --out {tmp}/new", "--run must be from 1 to 5, not 6"),
        ("--source jat --run 1 --out {tmp}/new", "--run is an option of --source rl_unplugged; leave it out for jat"),
        ("--source jat --base-url http://a --out {tmp}/new", "--base-url is an option of --source rl_unplugged; leave"),
        ("--source jat --num-connections 2 --out {tmp}/new", "--num-connections is an option of --source rl_unplugged"),
        (
            "--source jat --game Adventure --out {tmp}/new",
            "the JAT dataset has no Adventure; it has the 57 games Alien",
        ),
        ("--source jat --num-steps 0 --out {tmp}/new", "--num-steps must be at least 1, not 0"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("download_replay.py", options, message)
