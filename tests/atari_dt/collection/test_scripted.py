"""Scripted policies and the stores that they fill, against the emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atari_dt.collection.scripted import collect, play_episode
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.games.catalogue import find_game
from replay_data import InputError, TrajectoryStore
from replay_data.episode import Episode
from tests.atari_dt.environment.test_ram import make_emulator, play_step

SEED = 1


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """Several episodes of Breakout, played by one worker process."""
    out = tmp_path_factory.mktemp("stores") / "collected"
    return collect(find_game("Breakout"), 900, out, seed=SEED, num_workers=1, show_progress=False)


@pytest.mark.parametrize(("name", "best", "worst"), [("Breakout", 20, 8), ("Pong", 1, -18)])
def test_skill_goes_from_random_to_good(name: str, best: float, worst: float) -> None:
    game = find_game(name)
    skilled = [play_episode(game, EnvironmentConfig(), 1.0, seed) for seed in (0, 1)]
    random = [play_episode(game, EnvironmentConfig(), 0.0, seed) for seed in range(3)]
    assert np.mean([score(episode) for episode in skilled]) > best
    assert np.mean([score(episode) for episode in random]) < worst
    assert all(episode.terminated for episode in skilled + random)
    assert not play_episode(game, EnvironmentConfig.with_max_steps(50), 1.0, 0).terminated


def score(episode: Episode) -> float:
    assert episode.raw_rewards is not None
    return float(episode.raw_rewards.sum())


def test_store_holds_what_the_emulator_shows(collected: TrajectoryStore) -> None:
    """The actions of the first episode, replayed in ALE, give the stored frames, rewards and RAM."""
    assert collected.raw_rewards is not None
    assert len(collected) >= 900
    env = AleVectorEnv(find_game("Breakout"), 1, EnvironmentConfig())
    episode_seed = int(np.random.SeedSequence(SEED).spawn(1)[0].generate_state(1)[0] >> 1)
    state = env.reset(np.array([episode_seed]))
    emulator = make_emulator("breakout", episode_seed, 0.25)
    emulator.reset_game()
    for step in range(collected.episode_ends[0]):
        assert (collected.state(step) == state[0]).all()
        assert (collected.require_ram()[step] == emulator.getRAM()).all()
        play_step(emulator, int(collected.actions[step]))
        state, rewards, done = env.step(collected.actions[[step]].astype(np.int64))
        assert collected.raw_rewards[step] == rewards[0]
        assert done[0] == (step == collected.episode_ends[0] - 1)


def test_same_seed_gives_the_same_bytes_for_any_number_of_workers(collected: TrajectoryStore, tmp_path: Path) -> None:
    assert collected.num_episodes >= 3
    parallel = collect(find_game("Breakout"), 900, tmp_path / "parallel", seed=SEED, num_workers=3, show_progress=False)
    assert parallel.digest == collected.digest


def test_bad_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Breakout and Pong"):
        collect(find_game("Qbert"), 100, tmp_path / "store")
    with pytest.raises(InputError, match="at least 1"):
        collect(find_game("Pong"), 0, tmp_path / "store")
