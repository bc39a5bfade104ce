"""build_dataset.py: what it writes, and what it refuses."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from replay_data import TrajectoryStore
from replay_data.testing import write_random_store
from tests.conftest import DATA
from tests.replay_data.recordings import indices_in_truth, random_episode, write_log
from tests.scripts.commands import (
    Refuse,
    assert_failed_write_leaves_nothing,
    assert_interruption_leaves_nothing,
    call,
)


def test_build_dataset_makes_the_papers_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--game Breakout --run 1 --num-buffers 5 --num-steps 8000 --trajectories-per-buffer 3 --seed 123"
    path = DATA / "dopamine_log"
    for selection in ("original", "corrected"):
        out = tmp_path / selection
        arguments = ("--source", "dopamine", "--path", path, *options.split(), "--selection", selection, "--out", out)
        assert call(monkeypatch, "build_dataset.py", *arguments) == 0
    original, corrected = (TrajectoryStore.open(tmp_path / selection) for selection in ("original", "corrected"))
    with np.load(path / "original_selection_seed123.npz") as expected:
        assert np.array_equal(original.returns_to_go, expected["rtg"])
    assert len(indices_in_truth(corrected)) == corrected.num_episodes
    assert corrected.metadata.action_meanings == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert corrected.metadata.source.selection == {
        "method": "corrected",
        "num_steps": 8000,
        "num_buffers": 5,
        "trajectories_per_buffer": 3,
        "seed": 123,
    }
    printed = capsys.readouterr().out
    assert "9,331 steps in 16 episodes of buffers 46-47, 49\n" in printed
    assert f"{path} lacks buffers 0-44 of the run's 50\n" in printed
    assert "never occurs" not in printed
    assert "uncertain" not in printed
    (tmp_path / "pong").mkdir()
    (tmp_path / "pong" / "Seaquest").symlink_to(path / "Breakout")
    options = f"--source dopamine --path {tmp_path / 'pong'} --game Seaquest --selection even --num-steps 1"
    assert call(monkeypatch, "build_dataset.py", *options.split(), "--out", tmp_path / "seaquest") == 0
    assert "DOWNLEFTFIRE never occurs; is this Seaquest?" in capsys.readouterr().out


def test_build_dataset_counts_uncertain_episode_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    write_log(tmp_path, [random_episode(rng, 9, terminated=index % 2 == 0) for index in range(5)], 100)
    options = f"--source dopamine --path {tmp_path} --selection all --out {tmp_path / 'store'}"
    assert call(monkeypatch, "build_dataset.py", *options.split()) == 0
    assert "note:   number of uncertain episode ends: 2; only black frames" in capsys.readouterr().out


def test_build_dataset_counts_scattered_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log lacks every third buffer. The next command names a directory that does not exist yet."""
    write_log(tmp_path / "log", [random_episode(np.random.default_rng(0), 17)] * 15, 20)
    for file in (tmp_path / "log").rglob("*_ckpt.*"):
        if int(file.name.split(".")[1]) % 3 == 2:
            file.unlink()
    (tmp_path / "runs" / "store").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    options = "--source dopamine --path log --selection all --out store"
    assert call(monkeypatch, "build_dataset.py", *options.split()) == 0
    assert capsys.readouterr().out.splitlines() == [
        "store: 85 steps in 5 episodes of 5 buffers",
        "return: 3.0 on average, 3 at most",
        "note:   log lacks 39 buffers of the run's 50",
        "next:   python scripts/train.py --data store --out runs/store-2",
    ]


def test_build_dataset_selects_from_a_store_and_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_store(tmp_path / "old", [40, 90, 20], game="Pong")
    frame_bytes = (tmp_path / "old" / "frames.npy").stat().st_size
    for name, option in (("linked", ()), ("copied", ("--copy-frames",))):
        arguments = ("--source", "store", "--path", tmp_path / "old", "--selection", "all", *option)
        assert call(monkeypatch, "build_dataset.py", *arguments, "--out", tmp_path / name) == 0
        printed = capsys.readouterr().out
        assert f"{tmp_path / name}: 150 steps in 3 episodes of {tmp_path / 'old'}\n" in printed
        own_bytes = sum(file.stat().st_size for file in (tmp_path / name).iterdir() if file.stat().st_nlink == 1)
        assert (own_bytes > frame_bytes) == (name == "copied")
        assert f"disk:   {own_bytes / 1e6:.1f} MB" in printed
        assert (f"the frames ({frame_bytes / 1e6:.1f} MB) are a link to those of" in printed) == (name == "linked")
        assert ("--verify compares them" in printed) == (name == "copied")
        assert f"--data {tmp_path / name} --out runs/{name}\n" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--source dopamine --path {tmp}/nowhere --out {tmp}/new", "no directory {tmp}/nowhere"),
        ("--source dopamine --path {log} --game Pong --out {tmp}/new", "no Pong in {log}; it holds Br"),
        ("--source dopamine --path {log} --game Brekout --out {tmp}/new", "did you mean Breakout"),
        ("--source dopamine --path {log} --run 2 --out {tmp}/new", "run 2 in {log}/Breakout; set --run to 1"),
        ("--source jat --path {log} --out {tmp}/new", "{log} holds a Dopamine log; set --source to dopamine"),
        ("--source rl_unplugged --path {log} --out {tmp}/new", "it holds a Dopamine log, which --source dop"),
        ("--source dopamine --path {log} --out {store}", "{store} exists already"),
        ("--source dopamine --path {log} --out {tmp}/new", "of 500,000 steps in the buffers"),
        ("--source dopamine --path {log} --num-steps 999999999 --out {tmp}/new", "{tmp}/new needs 7056.0"),
        ("--source dopamine --path {log} --num-workers 0 --out {tmp}/new", "--num-workers is 0"),
        ("--source dopamine --path {log} --selection all --seed 1 --out {tmp}/new", "--seed has no effect"),
        (
            "--source dopamine --path {log} --copy-frames --out {tmp}/new",
            "--copy-frames has no effect on --source dopa",
        ),
        (
            "--source dopamine --path {log} --selection return_range --num-buffers 1 --min-return 99 --out {tmp}/new",
            "no episode has a return of at least 99; the returns of the 8 episodes run from",
        ),
        ("--source store --path {store} --selection all --run 1 --out {tmp}/new", "--run has no effect on --source s"),
        ("--source store --path {pong} --game breakout --selection all --out {tmp}/new", "holds Pong, not Breakout"),
        ("--source store --path {store} --out {tmp}/new", "--selection corrected (the default) visits buffers, and a"),
        ("--source dopamine --path {store} --out {tmp}/new", "{store} is a trajectory store; set --source to store"),
        ("--source store --path {pong} --selection all --out {pong}/new", "{pong}/new lies in the store at {pong}"),
        (
            "--source store --path {log} --selection all --out {tmp}/new",
            "{log} is not a trajectory store; it holds a recording: build a store from it with "
            "scripts/build_dataset.py, --source dopamine and --path {log}",
        ),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("build_dataset.py", options, message)


def test_a_failed_write_leaves_nothing(run: Path, tmp_path: Path) -> None:
    assert_failed_write_leaves_nothing(
        "build_dataset.py", "--source dopamine --path {log} --selection all --out {tmp}/new", run, tmp_path
    )


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 200,000 rows, 1.4 GB of frames."""
    path = tmp_path_factory.mktemp("long")
    episode = random_episode(np.random.default_rng(0), 1000)
    episode.frames[:, 1:] = 5
    write_log(path, [episode] * 200, 50_000)
    return path


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("early", [True, False])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, long_log: Path, signal_number: signal.Signals, early: bool
) -> None:
    command = f"build_dataset.py --source dopamine --path {long_log} --selection all"
    assert_interruption_leaves_nothing(command, tmp_path, signal_number, early)
