"""Recordings against the episodes that were played, also after interruptions, kills and full disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atari_dt.collection.pqn import PQNPlayer
from atari_dt.collection.recorder import read_recording
from atari_dt.collection.rollout import Player, Rollout
from atari_dt.collection.scripted import ScriptedPlayer, play_episode
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.rom import rom_sha256
from atari_dt.player_config import PQNConfig
from atari_dt.rendering.replay_summary import suggest_selection
from replay_data import InputError
from replay_data.episode import Episode
from replay_data.progress import ProgressBar
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_sidecar import BufferSidecar
from replay_data.sources.dopamine_writer import DopamineLogWriter
from replay_data.storage.locks import exclusive_lock
from tests.atari_dt.collection.killed_recorder import record_all
from tests.atari_dt.collection.recordings import (
    BREAKOUT,
    ROWS,
    NumberedEpisodes,
    log_files,
    numbered_episode,
    read_episodes,
    record_breakout,
)
from tests.atari_dt.training.processes import join, start
from tests.replay_data.recordings import build, circular_memory, same


def test_recording_holds_what_was_played(complete: Path) -> None:
    """Whole episodes in order, as Dopamine's circular memory would hold them, with sidecars and TensorBoard curves."""
    found = read_episodes(complete)
    assert len(found) > 20
    assert all(same(episode, numbered_episode(index), raw_rewards=True) for index, episode in enumerate(found))
    played = [numbered_episode(index) for index in range(len(found) + 5)]
    memories = islice(circular_memory(played, ROWS), 50)
    log = DopamineLog(complete, "Breakout", 1, 4)
    assert list(log.shards) == list(range(50))
    for buffer, memory in zip(log.shards.values(), memories, strict=True):
        assert np.array_equal(buffer.rewards(ROWS - 1), memory["reward"][: ROWS - 1])
        assert np.array_equal(buffer.terminal_rows(ROWS - 1), np.flatnonzero(memory["terminal"][: ROWS - 1]))

    sidecars = read_recording(complete / "Breakout" / "1")
    listed = [episode for sidecar in sidecars for episode in sidecar.episodes]
    assert [episode.details["index"] for episode in listed] == list(range(len(found)))
    end = 0
    for index, sidecar in enumerate(sidecars):
        assert sidecar.recording.agent == "numbered"
        assert sidecar.recording.rom_sha256 == rom_sha256(BREAKOUT)
        for episode in sidecar.episodes:
            expected = numbered_episode(int(episode.details["index"]))
            assert expected.raw_rewards is not None
            assert episode.steps == len(expected)
            assert (episode.return_, episode.score) == (expected.rewards.sum(), expected.raw_rewards.sum())
            end += 3 + len(expected)
            assert end // ROWS == index
            assert episode.row == (end - 1) % ROWS
    events = EventAccumulator(str(complete / "Breakout" / "1" / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("score")) >= len(found)
    assert events.Scalars("loss")[0].value == 0.5


def test_killed_recorder_resumes_bit_for_bit(complete: Path, tmp_path: Path) -> None:
    """Sessions that die at random moments leave complete buffers, and together the bytes of one that never died."""
    seeds = ["1", "2"]
    output = tmp_path / "sessions"
    assert join([start(record_all, tmp_path, seeds, output)]) == [0], output.with_suffix(".err").read_text()
    for seed, num_sessions in zip(seeds, output.with_suffix(".out").read_text().split(), strict=True):
        assert int(num_sessions) >= 10
        assert log_files(tmp_path / seed) == log_files(complete)
        assert [path.name for path in (tmp_path / seed / "Breakout/1/checkpoints").iterdir()] == ["buffers-50"]


class SmallPQNPlayer(PQNPlayer):
    """A small player that keeps its episodes and is interrupted after `num_rollouts`."""

    num_rollouts = 1_000_000
    played: ClassVar[list[Episode]] = []

    def __init__(self) -> None:
        config = PQNConfig(2, 32, 1, 32, precision="fp32", device="cpu")
        super().__init__(BREAKOUT, EnvironmentConfig.with_max_steps(50), 600, config, seed=1)

    def play(self) -> Generator[Rollout, None, None]:
        for rollout in islice(super().play(), self.num_rollouts):
            self.played.extend(episode.unpack() for episode, _ in rollout.episodes)
            yield rollout
        raise KeyboardInterrupt


def test_learning_player_is_recorded_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log holds the first episodes before the interruption, and all episodes after it."""
    environment = EnvironmentConfig.with_max_steps(50)
    options: dict[str, Any] = {"agent": "q_learning", "num_steps": 600, "environment": environment}
    monkeypatch.setattr(SmallPQNPlayer, "played", [])
    monkeypatch.setattr(SmallPQNPlayer, "num_rollouts", 5)
    with pytest.raises(KeyboardInterrupt, match="of 50 buffers in"):
        record_breakout(tmp_path, SmallPQNPlayer, **options)
    first = list(SmallPQNPlayer.played)
    SmallPQNPlayer.played.clear()
    monkeypatch.setattr(SmallPQNPlayer, "num_rollouts", 1000)
    record_breakout(tmp_path, SmallPQNPlayer, resume=True, **options)
    second = list(SmallPQNPlayer.played)
    found = read_episodes(tmp_path)
    num_kept = next(
        index
        for index, episode in enumerate(found)
        if index == len(first) or not same(episode, first[index], raw_rewards=True)
    )
    assert len(first) // 2 < num_kept < len(found)
    assert all(same(*pair, raw_rewards=True) for pair in zip(found[num_kept:], second, strict=False))
    sidecars = read_recording(tmp_path / "Breakout" / "1")
    ends = [episode.details["played"] for sidecar in sidecars for episode in sidecar.episodes]
    assert len(ends) == len(found)
    assert ends == sorted(set(ends))


@pytest.mark.parametrize("num_renames", [0, 1, 9])
def test_failure_after_a_checkpoint_loses_nothing(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    """The disk fails after a checkpoint was written, while none or some of its buffers are published."""
    remaining, rename = count(num_renames, -1), Path.rename

    def failing_rename(path: Path, target: Path) -> Path:
        if "_ckpt." in path.name and next(remaining) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing_rename)
        with pytest.raises(OSError, match="Input/output error"):
            record_breakout(tmp_path)
    record_breakout(tmp_path, resume=True)
    assert log_files(tmp_path) == log_files(complete)


def test_scripted_player_is_recorded_and_resumed(tmp_path: Path) -> None:
    environment = EnvironmentConfig.with_max_steps(90, sticky_actions=0.5)
    seed = 3

    class Interrupted(ScriptedPlayer):
        def play(self) -> Generator[Rollout, None, None]:
            yield from islice(super().play(), 6)
            raise KeyboardInterrupt

    def record_scripted(player: type[ScriptedPlayer], **options: Any) -> list[BufferSidecar]:
        return record_breakout(
            tmp_path,
            lambda: player(BREAKOUT, environment, seed, 1),
            agent="scripted",
            num_steps=1000,
            environment=environment,
            seed=seed,
            **options,
        )

    with pytest.raises(KeyboardInterrupt, match=r"of 50 buffers in .*Breakout/1; continue with `resume`"):
        record_scripted(Interrupted)
    before = log_files(tmp_path)
    sidecars = record_scripted(ScriptedPlayer, resume=True)
    selection = suggest_selection(sidecars)
    assert selection is not None
    assert selection.method == "all"  # episodes of 90 steps do not fit in buffers of 20 rows
    assert before.items() <= log_files(tmp_path).items()
    played = []
    for index in range(8):
        skill = (index + 0.5) * (5**0.5 - 1) / 2 % 1
        episode_seed = int(np.random.SeedSequence(seed).spawn(index + 1)[index].generate_state(1)[0] >> 1)
        played.append(play_episode(BREAKOUT, environment, skill, episode_seed))
    found = read_episodes(tmp_path)
    assert len(found) >= 8
    assert all(same(*pair, raw_rewards=True) for pair in zip(found, played, strict=False))
    assert all(np.array_equal(a.ram, b.ram) for a, b in zip(found, played, strict=False))  # type: ignore[arg-type]
    assert sum(len(sidecar.episodes) for sidecar in sidecars) == len(found)
    assert record_scripted(ScriptedPlayer, resume=True)[-1].episodes == sidecars[-1].episodes  # nothing left to do

    store = build(tmp_path / "store", DopamineLog(tmp_path, "Breakout", 1, 4), "all")
    assert store.metadata.sticky_actions == 0.5
    assert store.metadata.source.recording is not None
    assert store.metadata.source.recording.agent == "scripted"
    assert store.raw_rewards is not None
    scores = [float(episode.raw_rewards.sum()) for episode in found if episode.raw_rewards is not None]
    assert store.metadata.max_score == max(scores)


def test_bad_parameters_are_refused(complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="`num_steps` must be at least 250, not 249"):
        record_breakout(tmp_path, num_steps=249)
    for name, value in (("run", -1), ("seed", -1), ("seed", 2**63)):
        with pytest.raises(InputError, match=f"`{name}` must (be at least 0|be between)"):
            record_breakout(tmp_path, NumberedEpisodes, **{name: value})
    with pytest.raises(InputError, match="GB free"):
        record_breakout(tmp_path, num_steps=10**15)
    monkeypatch.setattr("atari_dt.collection.recorder.BYTES_PER_STEP", 0)
    with pytest.raises(InputError, match="at most 500,000,000, not 600,000,000"):
        record_breakout(tmp_path, num_steps=600_000_000)
    with pytest.raises(InputError, match=r"exists already; choose another `out` or `run`"):
        record_breakout(complete)
    with pytest.raises(InputError, match=r"other settings: seed \(was 0, is 1\), epochs \(was None, is 2\)"):
        record_breakout(complete, resume=True, seed=1, settings={"epochs": 2})
    (tmp_path / "Breakout" / "1").mkdir(parents=True)
    (tmp_path / "Breakout" / "1" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not a recording that can be resumed"):
        record_breakout(tmp_path, resume=True)
    assert (tmp_path / "Breakout" / "1" / "thesis.tex").exists()


def interrupted_after(num_episodes: int) -> Callable[[], Player]:
    class Interrupted(NumberedEpisodes):
        def play(self) -> Generator[Rollout, None, None]:
            for rollout in super().play():
                yield rollout
                if self.index > num_episodes:
                    raise KeyboardInterrupt

    return Interrupted


def test_interruption_before_the_first_buffer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="nothing was kept"):
        record_breakout(tmp_path, interrupted_after(0))
    assert not list(tmp_path.iterdir())


def test_the_bar_says_that_no_episode_has_ended_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rollout of `NumberedEpisodes` holds no episode, and the second holds one."""
    shown: list[str] = []
    monkeypatch.setattr(ProgressBar, "set_postfix_str", lambda _, text, **options: shown.append(text))
    with pytest.raises(KeyboardInterrupt):
        record_breakout(tmp_path, interrupted_after(1), show_progress=True)
    assert shown[0] == "waiting for the first episodes to end"
    assert shown[1].startswith("waiting for the first episodes to end, playing ")
    assert shown[2].startswith("score=")


def test_errors_leave_complete_buffers_and_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption, a lock, a full disk and damaged checkpoints, one after the other; then the recording resumes."""
    with pytest.raises(KeyboardInterrupt, match="of 50 buffers in"):
        record_breakout(tmp_path, interrupted_after(10))
    before = log_files(tmp_path)
    assert 0 < len(before) < 50 * 7
    assert len(before) % 7 == 0
    with exclusive_lock(tmp_path / "Breakout" / "1", "recording in"):
        with pytest.raises(InputError, match="another command is recording in"):
            record_breakout(tmp_path, resume=True)

    num_appended = count()
    append = DopamineLogWriter.append

    def append_until_full(*arguments: Any, **options: Any) -> None:
        if next(num_appended) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))
        append(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(DopamineLogWriter, "append", append_until_full)
        with pytest.raises(OSError, match="No space left"):
            record_breakout(tmp_path, resume=True)
    after = log_files(tmp_path)
    assert before.items() <= after.items()
    assert len(after) % 7 == 0
    assert len(after) > len(before)

    checkpoint = next((tmp_path / "Breakout/1/checkpoints").iterdir())
    for name in ("progress.json", "episodes.npz"):
        content = (checkpoint / name).read_bytes()
        middle = len(content) // 2
        for damaged in (content[:middle], b"", content[:middle] + b"\0\0\0" + content[middle + 3 :]):
            (checkpoint / name).write_bytes(damaged)
            with pytest.raises(InputError, match=r"is damaged .* its complete buffers can be used"):
                record_breakout(tmp_path, resume=True)
        (checkpoint / name).write_bytes(content)
    record_breakout(tmp_path, resume=True)
    assert all(
        same(episode, numbered_episode(index), raw_rewards=True)
        for index, episode in enumerate(read_episodes(tmp_path))
    )
