"""collect_replay.py: what it records, and what it refuses."""

from __future__ import annotations

import hashlib
import shlex
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from replay_data import TrajectoryStore
from replay_data.sources.dopamine_reader import DopamineLog
from tests.atari_dt.collection.policies.saved_agents import dqn_weights, write_agent
from tests.scripts.commands import (
    Refuse,
    assert_failed_write_leaves_nothing,
    assert_interruption_leaves_nothing,
    call,
)


def test_collect_replay_sums_up_what_it_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table against the log's own episodes; the command that it names next; and once more when it is complete."""
    monkeypatch.chdir(tmp_path)
    small = ("--num-envs", 4, "--steps-per-update", 32, "--minibatch-size", 64, "--epochs", 1, "--max-steps", 15)
    command = ("--out", tmp_path / "own", "--num-steps", 3000, "--device", "cpu", "--precision", "fp32", *small)
    assert call(monkeypatch, "collect_replay.py", *command) == 0
    printed = capsys.readouterr().out
    log = tmp_path / "own" / "Breakout" / "1" / "replay_logs"
    table = [line.split() for line in printed.splitlines()[1:11]]
    episodes = [
        found
        for buffer in DopamineLog(tmp_path / "own", "Breakout", 1, 4).shards.values()
        for found in buffer.episodes()
    ]
    assert [line[0] for line in table] == [f"{first}-{first + 4}" for first in range(0, 50, 5)]
    assert sum(int(line[1]) for line in table) == len(episodes)
    scores = [float(episode.raw_rewards.sum()) for episode in episodes if episode.raw_rewards is not None]
    of_tenths = [(int(line[1]), float(line[4])) for line in table]
    assert sum(number * mean for number, mean in of_tenths) / len(scores) == pytest.approx(np.mean(scores), abs=0.06)
    assert max(float(line[5]) for line in table) == max(scores)
    size = sum(path.stat().st_size for path in log.iterdir())
    assert f"50 buffers of 60 rows, {size / 1e6:,.0f} MB, {size / 3000:.0f} bytes per row" in printed
    picture = cv2.imread(str(log.parent / "returns.png"))
    assert picture is not None
    assert picture.std() > 10

    following = shlex.split(next(line for line in printed.splitlines() if line.startswith("next:")))[2:]
    assert call(monkeypatch, Path(following[0]).name, *following[1:-1], tmp_path / "store") == 0
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.metadata.source.recording is not None
    assert store.metadata.source.recording.settings["precision"] == "fp32"
    assert following[following.index("--selection") + 1] == "even"
    assert following[-2:] == ["--out", "data/breakout"]
    assert len(store) >= 1000
    capsys.readouterr()
    (tmp_path / "data" / "breakout").mkdir(parents=True)
    assert call(monkeypatch, "collect_replay.py", *command, "--resume") == 0
    note, *others = capsys.readouterr().out.splitlines()
    assert note == f"note:   {log.parent} was complete already; nothing was recorded"
    assert others == printed.replace("--out data/breakout\n", "--out data/breakout-2\n").splitlines()


AGENT = """
import numpy as np

def make_policy(game, num_actions):
    assert (game, num_actions) == ("Breakout", 4)
    return lambda observations: np.full(len(observations), 3)

def make_nothing(game, num_actions):
    return None
"""


def test_trained_agents_play_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files at two epsilons: the sidecars, the table of scores, the next command, and how to resume."""
    weights = dqn_weights()
    for name, action in (("fire.zip", 1), ("right.zip", 2)):
        weights["q_net.q_net.0.bias"][:] = 0
        weights["q_net.q_net.0.bias"][action] = 1000
        write_agent(tmp_path / name, weights)
    monkeypatch.chdir(tmp_path)
    options = ("--agent", "hub", "--policies", "fire.zip", "right.zip", "--epsilons", 0, 1, "--num-envs", 4)
    command = ("--out", tmp_path / "own", "--num-steps", 500, "--max-steps", 30, *options)
    assert call(monkeypatch, "collect_replay.py", *command) == 0
    printed, progress = capsys.readouterr()
    assert progress.splitlines()[:2] == ["playing fire.zip", "playing right.zip"]
    assert [
        sum(line.startswith(f"policy {index}: {name}") for line in printed.splitlines())
        for index, name in enumerate(("fire.zip", "right.zip"))
    ] == [1, 1]
    log = DopamineLog(tmp_path / "own", "Breakout", 1, 4)
    actions = [set(episode.actions.tolist()) for buffer in log.shards.values() for episode in buffer.episodes()]
    assert actions[:8] == [{1}, {1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}, {1}, {1, 2}, {0, 1, 2, 3}, {0, 1, 2, 3}]
    table = [line.split() for line in printed.splitlines() if line.split()[0] in ("0", "1")]
    assert [(line[0], int(line[1])) for line in table] == [
        (epsilon, sum((index // 2 % 2 == int(epsilon)) for index in range(len(actions)))) for epsilon in ("0", "1")
    ]
    following = shlex.split(next(line for line in printed.splitlines() if line.startswith("next:")))[2:]
    assert call(monkeypatch, Path(following[0]).name, *following[1:-1], tmp_path / "store") == 0
    recording = TrajectoryStore.open(tmp_path / "store").metadata.source.recording
    assert recording is not None
    assert recording.agent == "hub"
    assert recording.settings["policy_1"] == "right.zip"
    assert recording.settings["policy_1_sha256"] == hashlib.sha256(Path("right.zip").read_bytes()).hexdigest()

    write_agent(tmp_path / "other.zip", weights)
    for policies, changes in (
        (("right.zip", "fire.zip"), "their order has changed"),
        (("fire.zip", "other.zip"), "right.zip is missing, other.zip is new"),
        (("fire.zip", "right.zip"), "fire.zip has changed"),
    ):
        if changes == "fire.zip has changed":
            write_agent(tmp_path / "fire.zip", weights)
        names = iter(policies)
        changed = [next(names) if word in ("fire.zip", "right.zip") else word for word in command]
        capsys.readouterr()
        assert call(monkeypatch, "collect_replay.py", *changed, "--resume") == 1
        assert f"was recorded with other --policies: {changes}; resume it with" in capsys.readouterr().err


def test_a_function_makes_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "left_agent.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    options = ("--out", tmp_path / "own", "--num-steps", 250, "--max-steps", 20, "--num-envs", 1, "--epsilons", 0)
    assert call(monkeypatch, "collect_replay.py", "--agent", "left_agent:make_policy", *options) == 0
    shards = DopamineLog(tmp_path / "own", "Breakout", 1, 4).shards.values()
    assert {int(action) for shard in shards for episode in shard.episodes() for action in episode.actions} == {3}
    capsys.readouterr()
    agent = "left_agent:make_nothing"
    assert call(monkeypatch, "collect_replay.py", "--agent", agent, "--out", tmp_path / "new") == 1
    assert "it must return a policy" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_recording_without_an_episode_says_how_to_record_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its advice for ``--max-steps``, followed to the limit."""
    options = ["--agent", "scripted", "--game", "Pong", "--num-workers", "1"]
    lines = []
    for max_steps in (247, 246):
        sizes = ("--num-steps", 250, "--max-steps", max_steps)
        assert call(monkeypatch, "collect_replay.py", *options, *sizes, "--out", tmp_path / str(max_steps)) == 0
        printed = capsys.readouterr().out
        logs = tmp_path / str(max_steps) / "Pong" / "1" / "replay_logs"
        ram_size = sum(path.stat().st_size for path in logs.glob("ram_*.gz"))
        assert f"bytes per row, {ram_size / 250:.0f} of them RAM\n" in printed
        lines.append(printed.splitlines()[-1])
    assert lines[0].startswith(
        "note:   no episode ends in the recording's 250 rows, so no dataset can be built from it"
    )
    assert lines[0].endswith("record again with --num-steps 300, or with --max-steps 246 or less")
    assert lines[1].startswith("next:   python scripts/build_dataset.py")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--game Breakot --out {tmp}/new", "unknown game 'Breakot'; did you mean Breakout"),
        ("--agent scripted --game Qbert --out {tmp}/new", "there is no scripted policy for Qbert"),
        ("--num-steps 0 --out {tmp}/new", "--num-steps must be at least 250, not 0"),
        ("--seed -1 --out {tmp}/new", "--seed must be between 0 and"),
        ("--agent scripted --num-workers 0 --out {tmp}/new", "--num-workers must be between 1 and"),
        ("--agent scripted --num-workers 5000 --out {tmp}/new", "cores, not 5000"),
        ("--agent scripted --num-envs 8 --out {tmp}/new", "do not apply to scripted players"),
        ("--agent dqn --out {tmp}/new", "there is no agent 'dqn'; set --agent to q_learning, scripted, hub, or"),
        ("--agent hub --out {tmp}/new", "hub plays trained agents; name them with --policies"),
        ("--policies a.zip --out {tmp}/new", "do not apply to q_learning; leave them out: --policies"),
        (
            "--agent hub --policies a.zip --epochs 1 --out {tmp}/new",
            "apply to q_learning only; leave them out: --epochs",
        ),
        ("--agent hub --policies a.zip --epsilons --out {tmp}/new", "--epsilons must name at least one probability"),
        ("--agent hub --policies a.zip --epsilons 2 --out {tmp}/new", "--epsilons must be between 0 and 1, not 2.0"),
        ("--agent hub --policies a.zip --num-envs 0 --out {tmp}/new", "--num-envs must be between 1 and 1024, not 0"),
        ("--agent a.b:c --device cuda --out {tmp}/new", "do not apply to a.b:c; leave them out: --device"),
        ("--num-workers 2 --out {tmp}/new", "set the number of environments with --num-envs"),
        ("--num-envs 3 --minibatch-size 128 --out {tmp}/new", "--minibatch-size (128) must divide --num-envs"),
        ("--device tpu --out {tmp}/new", "there is no device 'tpu' here"),
        ("--num-steps 99999999999 --out {tmp}/new", "Breakout/1 needs 25000.0 GB, but"),
        ("--sticky-actions 2 --out {tmp}/new", "--sticky-actions must be a probability"),
        ("--out {log}", "/Breakout/1 exists already; choose another --out or --run"),
        ("--resume --out {log}", "is not a recording that can be resumed"),
        ("--out {store}/metadata.json/x", "Not a directory; check the path"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("collect_replay.py", options, message)


def test_a_failed_write_leaves_nothing(run: Path, tmp_path: Path) -> None:
    assert_failed_write_leaves_nothing(
        "collect_replay.py", "--agent scripted --num-steps 100000 --out {tmp}/new", run, tmp_path
    )


@pytest.mark.parametrize(
    ("command", "signal_number", "early"),
    [
        ("collect_replay.py --agent scripted", signal.SIGINT, True),
        ("collect_replay.py --agent scripted", signal.SIGTERM, False),
        ("collect_replay.py --num-envs 4", signal.SIGTERM, True),
        ("collect_replay.py --num-envs 4", signal.SIGINT, False),
    ],
)
def test_an_interruption_leaves_nothing(
    tmp_path: Path, command: str, signal_number: signal.Signals, early: bool
) -> None:
    assert_interruption_leaves_nothing(command, tmp_path, signal_number, early)
