"""Recorded RAM, against an emulator that plays the recorded actions from the recorded seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.collection.agents import record_agent
from atari_dt.collection.policies import loading
from atari_dt.collection.pqn import PQNPlayer
from atari_dt.collection.recorder import RAM_SETTING
from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode, Rollout
from atari_dt.collection.scripted import play_episode
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.games.catalogue import find_game
from atari_dt.player_config import PQNConfig
from replay_data import InputError
from replay_data.episode import Episode
from replay_data.sources.dopamine_reader import DopamineLog
from tests.atari_dt.collection.recordings import (
    BREAKOUT,
    NumberedEpisodes,
    log_files,
    numbered_episode,
    read_episodes,
    record_breakout,
)
from tests.atari_dt.collection.test_policy_player import FIRING, MOVING
from tests.atari_dt.environment.test_ram import make_emulator, play_step
from tests.replay_data.recordings import build


def assert_ram_is_the_emulators(game: str, seed: int, episodes: Sequence[Episode], sticky_actions: float) -> None:
    """Play all episodes of an environment, one after another, and compare the RAM before each action."""
    ale = make_emulator(find_game(game).rom, seed, sticky_actions)
    for episode in episodes:
        ale.reset_game()
        expected = []
        for action in episode.actions:
            expected.append(ale.getRAM())
            play_step(ale, int(action))
        assert np.array_equal(episode.ram, np.stack(expected))  # type: ignore[arg-type]
        assert episode.terminated == ale.game_over()


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["Breakout", "Pong"]), st.floats(0, 1), st.integers(0, 2**31 - 1), st.integers(1, 60))
def test_scripted_episodes_have_the_emulators_ram(name: str, skill: float, seed: int, max_steps: int) -> None:
    episode = play_episode(find_game(name), EnvironmentConfig.with_max_steps(max_steps), skill, seed)
    assert not episode.terminated
    assert_ram_is_the_emulators(name, seed, [episode], 0.25)


def test_policies_record_the_emulators_ram_beside_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncated episodes of three environments, through the log and a store; then resumed."""
    monkeypatch.setattr(loading, "load_policies", lambda *_: [FIRING, MOVING])

    def record_policies(name: str, ram: bool | None, resume: bool = False) -> list[dict[str, float]]:
        buffers = record_agent(
            BREAKOUT,
            "hub",
            tmp_path / name,
            num_steps=700,
            environment=EnvironmentConfig.with_max_steps(60, sticky_actions=0.1),
            policies=("firing", "moving"),
            epsilons=(0, 1),
            num_envs=3,
            ram=ram,
            resume=resume,
            show_progress=False,
        )
        return [dict(episode.details) for buffer in buffers for episode in buffer.episodes]

    record_policies("without", None)
    details = record_policies("with", True)
    without, files = log_files(tmp_path / "without"), log_files(tmp_path / "with")
    rows = {name for name in without if name.startswith("$store$")}
    assert all(files[name] == without[name] for name in rows)
    assert files.keys() - without.keys() == {f"ram_{index}.gz" for index in range(50)}

    episodes = read_episodes(tmp_path / "with")
    of_env = defaultdict(list)
    for each, episode in zip(details, episodes, strict=True):
        of_env[each["env_index"], int(each["env_seed"])].append(episode)
    assert len(of_env) == 3
    for (_, seed), own in of_env.items():
        assert_ram_is_the_emulators("Breakout", seed, own, 0.1)
    assert not any(episode.terminated for episode in episodes)
    store = build(tmp_path / "store", DopamineLog(tmp_path / "with", "Breakout", 1, 4), "all")
    assert np.array_equal(store.require_ram(), np.concatenate([episode.ram for episode in episodes]))

    for name, other, change in (("with", False, "was True, is False"), ("without", True, "was False, is True")):
        with pytest.raises(InputError, match=rf"was recorded with other settings: ram \({change}\); resume it"):
            record_policies(name, other, resume=True)
        record_policies(name, None, resume=True)


def test_the_learning_player_records_the_emulators_ram(tmp_path: Path) -> None:
    config, environment = PQNConfig(2, 32, 1, 64, precision="fp32", device="cpu"), EnvironmentConfig.with_max_steps(30)
    buffers = record_breakout(
        tmp_path,
        lambda: PQNPlayer(BREAKOUT, environment, 1000, config, seed=5, ram=True),
        agent="q_learning",
        num_steps=500,
        environment=environment,
        settings={RAM_SETTING: True},
    )
    ends = [int(episode.details["played"]) for buffer in buffers for episode in buffer.episodes]
    episodes = read_episodes(tmp_path)
    seeds = np.random.SeedSequence([5, 0]).generate_state(2) >> 1
    for env_index in range(2):
        own = [episode for episode, end in zip(episodes, ends, strict=True) if (end - 1) % 2 == env_index]
        assert len(own) >= 5
        assert_ram_is_the_emulators("Breakout", int(seeds[env_index]), own, 0.25)


def episode_with_ram(index: int) -> Episode:
    episode = numbered_episode(index)
    ram = np.random.default_rng(index).integers(256, size=(len(episode), 128), dtype=np.uint8)
    return Episode(episode.frames, episode.actions, episode.rewards, episode.raw_rewards, episode.terminated, ram=ram)


class EpisodesWithRam(NumberedEpisodes):
    """The same player with RAM, one episode per rollout; it is interrupted after `num_rollouts`."""

    num_rollouts = 1_000_000

    def play(self) -> Generator[Rollout, None, None]:
        for _ in range(self.num_rollouts):
            episode = episode_with_ram(self.index)
            self.index += 1
            yield Rollout([FinishedEpisode(CompressedEpisode.pack(episode), {"index": self.index - 1})], 1, {})
        raise KeyboardInterrupt


def test_a_resumed_recording_has_the_ram_of_one_that_was_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"settings": {RAM_SETTING: True}}
    record_breakout(tmp_path / "whole", EpisodesWithRam, **options)
    with monkeypatch.context() as patch:
        patch.setattr(EpisodesWithRam, "num_rollouts", 9)
        with pytest.raises(KeyboardInterrupt, match="of 50 buffers in"):
            record_breakout(tmp_path / "parts", EpisodesWithRam, **options)
    record_breakout(tmp_path / "parts", EpisodesWithRam, resume=True, **options)
    assert log_files(tmp_path / "parts") == log_files(tmp_path / "whole")
    found = read_episodes(tmp_path / "parts")
    assert len(found) >= 20
    assert all(
        np.array_equal(episode.ram, episode_with_ram(index).ram)  # type: ignore[arg-type]
        for index, episode in enumerate(islice(found, 30))
    )
