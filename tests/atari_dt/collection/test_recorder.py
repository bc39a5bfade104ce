"""Recordings against the episodes that were played, whatever kills the recorder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atari_dt.collection.pqn import PQNPlayer
from atari_dt.collection.recorder import read_recording, record
from atari_dt.collection.rollout import CompressedEpisode, EpisodeAssembler, Player
from atari_dt.collection.scripted import ScriptedPlayer, play_episode
from atari_dt.config import PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.rom import rom_sha256
from atari_dt.environment.rom import rom_sha256
from atari_dt.games.catalogue import find_game
from atari_dt.rendering.replay_summary import suggest_selection
from replay_data import InputError, ReplayFormatError, TrajectoryStore
from replay_data.episode import Episode
from replay_data.selection.build import build_store
from replay_data.selection.methods import Selection
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_writer import DopamineLogWriter
from replay_data.storage.locks import exclusive_lock
from replay_data.store_metadata import StoreSource
from tests.atari_dt.collection import killed_recorder
from tests.atari_dt.collection.killed_recorder import NumberedEpisodes, episode
from tests.replay_data.recordings import circular_memory

ROOT = Path(__file__).parents[3]
BREAKOUT = find_game("Breakout")


def record_here(out: Path, make_player: Callable[[], Player] = NumberedEpisodes, **options: Any) -> Any:
    standard: dict[str, Any] = {"agent": "numbered", "num_steps": killed_recorder.STEPS, "seed": 0, "settings": {}}
    standard |= {"environment": EnvironmentConfig(), "show_progress": False}
    return record(BREAKOUT, make_player, out, **{**standard, **options})


def read(out: Path) -> list[Episode]:
    log = DopamineLog(out, "Breakout", 1, 4)
    return [found for buffer in log.shards.values() for found in buffer.episodes()]


def same(found: Episode, played: Episode) -> bool:
    arrays = zip(
        (found.frames, found.actions, found.rewards, found.raw_rewards),
        (played.frames, played.actions, played.rewards, played.raw_rewards),
        strict=True,
    )
    return found.terminated == played.terminated and all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in arrays
    )


def files(out: Path) -> dict[str, bytes]:
    directory = out / "Breakout" / "1" / "replay_logs"
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recordings") / "undisturbed"
    record_here(out)
    return out


def test_a_recording_holds_what_was_played(undisturbed: Path) -> None:
    """Whole episodes in order, as Dopamine's circular memory would have held them; and the JSON files' sums."""
    found = read(undisturbed)
    assert len(found) > 20
    assert all(same(each, episode(i)) for i, each in enumerate(found))
    memories = islice(circular_memory([episode(i) for i in range(len(found) + 5)], 40), 50)
    log = DopamineLog(undisturbed, "Breakout", 1, 4)
    assert list(log.shards) == list(range(50))
    for buffer, memory in zip(log.shards.values(), memories, strict=True):
        assert np.array_equal(buffer.rewards(39), memory["reward"][:39])
        assert np.array_equal(buffer.terminal_rows(39), np.flatnonzero(memory["terminal"][:39]))

    buffers = read_recording(undisturbed / "Breakout" / "1")
    listed = [each for buffer in buffers for each in buffer.episodes]
    assert [each.details["index"] for each in listed] == list(range(len(found)))
    end = 0
    for number, recorded in enumerate(buffers):
        assert recorded.recording.agent == "numbered"
        assert recorded.recording.rom_sha256 == rom_sha256(BREAKOUT)
        for each in recorded.episodes:
            played = episode(int(each.details["index"]))
            assert played.raw_rewards is not None
            assert each.steps == len(played)
            assert (each.return_, each.score) == (played.rewards.sum(), played.raw_rewards.sum())
            end += 3 + len(played)
            assert divmod(end, 40)[0] == number
            assert each.row == (end - 1) % 40
    events = EventAccumulator(str(undisturbed / "Breakout" / "1" / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("score")) >= len(found)
    assert events.Scalars("loss")[0].value == 0.5


@pytest.mark.parametrize("seed", ["1", "2"])
def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_been(undisturbed: Path, tmp_path: Path, seed: str) -> None:
    """Sessions that die at random moments leave whole buffers, and together the very bytes of one that never died."""
    command = [sys.executable, "-m", "tests.atari_dt.collection.killed_recorder", str(tmp_path / "out"), seed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10  # sessions
    assert files(tmp_path / "out") == files(undisturbed)
    assert [path.name for path in (tmp_path / "out/Breakout/1/checkpoints").iterdir()] == ["buffers-50"]


class LearningPlayer(PQNPlayer):
    """A small one, which keeps the episodes that it has played; interrupted after `rounds`."""

    rounds = 1_000_000
    played: ClassVar[list[Episode]] = []

    def __init__(self) -> None:
        config = PQNConfig(2, 32, 1, 32, precision="fp32", device="cpu")
        super().__init__(BREAKOUT, EnvironmentConfig.with_max_steps(50), 1000, config, seed=1)

    def play(self) -> Any:
        for part in islice(super().play(), self.rounds):
            self.played.extend(episode.unpack() for episode, _ in part.episodes)
            yield part
        raise KeyboardInterrupt


def test_a_learning_player_is_recorded_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it played up to some episode before the interruption, and all that it played after it."""
    environment = EnvironmentConfig.with_max_steps(50)
    options: dict[str, Any] = {"agent": "q_learning", "num_steps": 1000, "environment": environment}
    monkeypatch.setattr(LearningPlayer, "played", [])
    monkeypatch.setattr(LearningPlayer, "rounds", 8)
    with pytest.raises(KeyboardInterrupt, match="buffers are in"):
        record_here(tmp_path, LearningPlayer, **options)
    first = list(LearningPlayer.played)
    LearningPlayer.played.clear()
    monkeypatch.setattr(LearningPlayer, "rounds", 1000)
    record_here(tmp_path, LearningPlayer, resume=True, **options)
    second = list(LearningPlayer.played)
    found = read(tmp_path)
    kept = next(i for i, each in enumerate(found) if i == len(first) or not same(each, first[i]))
    assert len(first) // 2 < kept < len(found)
    assert all(same(*pair) for pair in zip(found[kept:], second, strict=False))
    ends = [each.details["played"] for part in read_recording(tmp_path / "Breakout" / "1") for each in part.episodes]
    assert len(ends) == len(found)
    assert ends == sorted(set(ends))


@pytest.mark.parametrize("renames", [0, 1, 9])
def test_what_fails_after_a_checkpoint_loses_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The buffers that the checkpoint speaks of are not shown yet, or half of them, when the disk fails."""
    left, rename = count(renames, -1), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if "_ckpt." in path.name and next(left) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output error"):
            record_here(tmp_path)
    record_here(tmp_path, resume=True)
    assert files(tmp_path) == files(undisturbed)


def test_buffers_without_a_checkpoint_are_left_alone(tmp_path: Path) -> None:
    record_here(tmp_path)
    there = files(tmp_path)
    directory = tmp_path / "Breakout" / "1"
    lost = directory / "replay_logs" / "$store$_action_ckpt.49.gz"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(ReplayFormatError, match=r"action_ckpt.49.gz is missing; copy it back"):
        record_here(tmp_path, resume=True)
    (directory / "replay_logs" / ".partial-x").mkdir()
    (directory / "replay_logs" / ".partial-x" / lost.name).touch()
    with pytest.raises(ReplayFormatError, match=r"the recorder was killed .* continue the recording with `resume`"):
        read(tmp_path)
    shutil.rmtree(directory / "replay_logs" / ".partial-x")
    lost.write_bytes(content)
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint to go on from; its buffers can be used"):
        record_here(tmp_path, resume=True)
    assert files(tmp_path) == there


def test_scripted_players_are_recorded_and_resumed(tmp_path: Path) -> None:
    game, environment = BREAKOUT, EnvironmentConfig.with_max_steps(90, sticky_actions=0.5)
    seed = 3

    class Interrupted(ScriptedPlayer):
        def play(self) -> Any:
            for number, part in enumerate(super().play()):
                if number == 6:
                    raise KeyboardInterrupt
                yield part

    def recorded(player: type[ScriptedPlayer], **options: Any) -> Any:
        return record_here(
            tmp_path,
            lambda: player(game, environment, seed, 1),
            agent="scripted",
            num_steps=1000,
            environment=environment,
            seed=seed,
            **options,
        )

    with pytest.raises(KeyboardInterrupt, match=r"of 50 buffers are in .*Breakout/1; --resume goes on"):
        recorded(Interrupted)
    before = files(tmp_path)
    buffers = recorded(ScriptedPlayer, resume=True)
    assert suggest_selection(buffers).method == "all"  # of 90 steps, in buffers of 20 rows
    assert before.items() <= files(tmp_path).items()
    played = []
    for index in range(8):
        skill = (index + 0.5) * (5**0.5 - 1) / 2 % 1
        number = int(np.random.SeedSequence(seed).spawn(index + 1)[index].generate_state(1)[0] >> 1)
        played.append(play_episode(game, environment, skill, number))
    found = read(tmp_path)
    assert len(found) >= 8
    assert all(same(*pair) for pair in zip(found, played, strict=False))
    assert sum(len(buffer.episodes) for buffer in buffers) == len(found)

    assert recorded(ScriptedPlayer, resume=True)[-1].episodes == buffers[-1].episodes  # it is complete
    log = DopamineLog(tmp_path, "Breakout", 1, 4)
    out = tmp_path / "store"
    names = ["NOOP", "FIRE", "RIGHT", "LEFT"]
    selection = Selection.of("all")
    build_store(
        out, log, selection, game="Breakout", action_meanings=names, store_source=StoreSource("dopamine"), show_progress=False
    )
    store = TrajectoryStore.open(out)
    assert store.metadata.sticky_actions == 0.5
    assert store.metadata.source.recording is not None
    assert store.metadata.source.recording.agent == "scripted"
    assert store.raw_rewards is not None
    scores = [float(each.raw_rewards.sum()) for each in found if each.raw_rewards is not None]
    assert store.metadata.max_score == max(scores)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**32))
def test_steps_of_parallel_games_become_episodes(num_envs: int, blocks: list[int], seed: int) -> None:
    """Against a recount, step by step."""
    rng = np.random.default_rng(seed)
    gathered = EpisodeAssembler(num_envs)
    running: list[list[Any]] = [[] for _ in range(num_envs)]
    for steps in blocks:
        shape = (steps, num_envs)
        frames = rng.integers(256, size=(*shape, 84, 84), dtype=np.uint8)
        actions = rng.integers(18, size=shape, dtype=np.uint8)
        rewards = rng.integers(-9, 10, size=shape).astype(np.float32)
        terminal, cut = rng.random(shape) < 0.2, rng.random(shape) < 0.1
        found = gathered.add(frames, actions, rewards, terminal, cut)
        for t in range(steps):
            for game in range(num_envs):
                running[game].append((frames[t, game], actions[t, game], rewards[t, game]))
                if terminal[t, game] or cut[t, game]:
                    packed, at = found.pop(0)
                    ended = packed.unpack()
                    assert same(CompressedEpisode.pack(ended).unpack(), ended)
                    expected = [np.array(column) for column in zip(*running[game], strict=True)]
                    assert at == t * num_envs + game + 1
                    assert ended.raw_rewards is not None
                    assert np.array_equal(ended.frames, expected[0])
                    assert np.array_equal(ended.actions, expected[1])
                    assert np.array_equal(ended.raw_rewards, expected[2])
                    assert np.array_equal(ended.rewards, expected[2].clip(-1, 1))
                    assert ended.terminated == terminal[t, game]
                    running[game] = []
        assert not found


def test_what_cannot_be_recorded_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_steps must be at least 250, not 249"):
        record_here(tmp_path, num_steps=249)
    for field, value in (("run", -1), ("seed", -1), ("seed", 2**63)):
        with pytest.raises(InputError, match=f"{field} must (be at least 0|lie between)"):
            record_here(tmp_path, NumberedEpisodes, **{field: value})
    with pytest.raises(InputError, match="GB free"):
        record_here(tmp_path, num_steps=10**15)
    with pytest.raises(InputError, match=r"exists already; choose another --out or --run"):
        record_here(undisturbed)
    with pytest.raises(InputError, match=r"other settings: seed \(0 there, 1 now\), epochs \(None there, 2 now\)"):
        record_here(undisturbed, resume=True, seed=1, settings={"epochs": 2})
    (tmp_path / "Breakout" / "1").mkdir(parents=True)
    (tmp_path / "Breakout" / "1" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="no recording that could be resumed"):
        record_here(tmp_path, resume=True)
    assert (tmp_path / "Breakout" / "1" / "thesis.tex").exists()


def interrupted_after(buffers: int) -> Callable[[], Player]:
    class Interrupted(NumberedEpisodes):
        def play(self) -> Any:
            for part in super().play():
                yield part
                if self.index > buffers:
                    raise KeyboardInterrupt

    return Interrupted


def test_what_is_left_when_it_cannot_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        record_here(tmp_path, interrupted_after(0))
    assert not list(tmp_path.iterdir())

    with pytest.raises(KeyboardInterrupt, match="buffers are in"):
        record_here(tmp_path, interrupted_after(10))
    there = files(tmp_path)
    assert 0 < len(there) < 50 * 7
    assert len(there) % 7 == 0
    with exclusive_lock(tmp_path / "Breakout" / "1", "recording in"):
        with pytest.raises(InputError, match="another command is recording in"):
            record_here(tmp_path, resume=True)

    full = count()
    append = DopamineLogWriter.append

    def filling(*arguments: Any, **options: Any) -> None:
        if next(full) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))
        append(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(DopamineLogWriter, "append", filling)
        with pytest.raises(OSError, match="No space left"):
            record_here(tmp_path, resume=True)
    after = files(tmp_path)
    assert there.items() <= after.items()
    assert len(after) % 7 == 0
    assert len(after) > len(there)

    checkpoint = next((tmp_path / "Breakout/1/checkpoints").iterdir())
    for name in ("progress.json", "episodes.npz"):
        content = (checkpoint / name).read_bytes()
        at = len(content) // 2
        for damage in (content[:at], b"", content[:at] + b"\0\0\0" + content[at + 3 :]):
            (checkpoint / name).write_bytes(damage)
            with pytest.raises(InputError, match=r"is damaged .* its buffers can be used"):
                record_here(tmp_path, resume=True)
        (checkpoint / name).write_bytes(content)
    record_here(tmp_path, resume=True)
    assert all(same(each, episode(i)) for i, each in enumerate(read(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw_rewards": {"rows": [0], "values": []}}, "contradict each other"),
        ({"raw_rewards": {"rows": [4, 3], "values": [2, 2]}}, "ascending rows of the buffer"),
        ({"raw_rewards": {"rows": [40], "values": [2]}}, "ascending rows of the buffer"),
        ({"raw_rewards": {"rows": [0], "values": [7]}}, "its raw rewards, clipped, are not the rewards of the buffer"),
        ({"raw_rewards": {"rows": [3], "values": [float("nan")]}}, "contradict each other"),
        ({"rows": 41}, "it describes 41 rows, but the buffer has 40"),
        ({"episodes": None}, "TypeError"),
    ],
)
def test_damaged_json_files_are_named(undisturbed: Path, tmp_path: Path, change: Any, message: str) -> None:
    directory = tmp_path / "Breakout" / "1" / "replay_logs"
    directory.mkdir(parents=True)
    for name, content in files(undisturbed).items():
        (directory / name).write_bytes(content)
    path = directory / "recording_ckpt.7.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if message == "its raw rewards, clipped, are not the rewards of the buffer":
        path = directory / "recording_ckpt.0.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ReplayFormatError, match=rf"recording_ckpt.\d.json is damaged .*{message}.*copy it again"):
        read(tmp_path)
    path.write_text("{")
    with pytest.raises(ReplayFormatError, match="copy it again"):
        read(tmp_path)
    path.unlink()
    assert all(each.raw_rewards is None for each in read(tmp_path))
