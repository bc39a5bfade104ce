"""Truncated episodes of every game that ALE can play are written to a log and read back as they were played."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atari_dt.environment.config import EnvironmentConfig, Frames
from atari_dt.environment.python_env import AleEnv
from atari_dt.games.catalogue import Game, list_games
from replay_data.episode import Episode
from replay_data.sources.dopamine_reader import DopamineLog
from tests.replay_data.recordings import recording_of, same, write_log

NUM_GROUPS = 4


def play(env: AleEnv, max_steps: int, noop_probability: float, rng: np.random.Generator) -> Episode:
    """Play random actions from a new start until ``max_steps`` steps were played or the game is over."""
    env.reset()
    frames: list[Frames] = []
    actions: list[int] = []
    rewards: list[float] = []
    while len(actions) < max_steps and not env.done:
        frames.append(env.frame)
        actions.append(0 if rng.random() < noop_probability else int(rng.integers(env.num_actions)))
        rewards.append(env.step(actions[-1])[0])
    raw = np.array(rewards, np.float32)
    return Episode(np.stack(frames), np.array(actions, np.uint8), raw.clip(-1, 1), raw, env.terminated)


@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_truncated_episodes_are_read_back_as_played(group: int, tmp_path: Path) -> None:
    for game in list_games()[group::NUM_GROUPS]:
        check_game(game, tmp_path)


def check_game(game: Game, path: Path) -> None:
    """Write episodes of 1 to 8 steps, in which the player often does nothing, to buffers of 24 rows."""
    rng = np.random.default_rng(list(game.rom.encode()))
    env = AleEnv(game, EnvironmentConfig(), 0)
    played = [play(env, int(rng.integers(1, 9)), rng.choice([0.2, 1.0]), rng) for _ in range(6)]
    write_log(path, played, 24, game.name, recording_of(game.name, ["NOOP"]))
    log = DopamineLog(path, game.name, 1, env.num_actions)
    found = [episode for buffer in log.shards.values() for episode in buffer.episodes()]
    assert [len(episode) for episode in found] == [len(episode) for episode in played], game.name
    assert all(same(*pair, raw_rewards=True) for pair in zip(found, played, strict=True)), game.name
    assert not any(episode.num_uncertain_ends for episode in found)
