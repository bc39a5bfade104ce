from pathlib import Path

import numpy as np
import pytest

from atari_dt.collection.scripted import collect, play_episode
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.games.catalogue import find_game
from replay_data import InputError
from replay_data.episode import Episode


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


def test_the_store_holds_what_the_game_shows(tmp_path: Path) -> None:
    """The first episode's actions, replayed through ALE's vector environment, give the frames and points stored."""
    game = find_game("Breakout")
    store = collect(game, 100, tmp_path / "store", seed=3, num_workers=1, show_progress=False)
    assert store.raw_rewards is not None
    assert len(store) >= 100
    games = AleVectorEnv(game, 1, EnvironmentConfig())
    seed = int(np.random.SeedSequence(3).spawn(1)[0].generate_state(1)[0] >> 1)
    state = games.reset(np.array([seed]))
    for step in range(store.episode_ends[0]):
        assert (store.state(step) == state[0]).all()
        state, rewards, ended = games.step(store.actions[[step]].astype(np.int64))
        assert store.raw_rewards[step] == rewards[0]
        assert ended[0] == (step == store.episode_ends[0] - 1)


def test_a_seed_gives_the_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    game = find_game("Breakout")
    digests = [
        collect(game, 900, tmp_path / str(workers), seed=1, num_workers=workers, show_progress=False).digest
        for workers in (1, 3)
    ]
    assert digests[0] == digests[1]


def test_games_without_a_player_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Breakout and Pong"):
        collect(find_game("Qbert"), 100, tmp_path / "store")
    with pytest.raises(InputError, match="at least 1"):
        collect(find_game("Pong"), 0, tmp_path / "store")
