"""The table of agents of RL Baselines3 Zoo."""

from __future__ import annotations

from atari_dt.collection.policies.zoo import ZOO_SCORES, zoo_policies
from atari_dt.games.catalogue import find_game, list_games


def test_zoo_policies_are_repositories_of_the_game_from_worst_to_best() -> None:
    assert zoo_policies(find_game("Breakout")) == (
        "sb3/a2c-BreakoutNoFrameskip-v4",
        "sb3/dqn-BreakoutNoFrameskip-v4",
        "sb3/qrdqn-BreakoutNoFrameskip-v4",
        "sb3/ppo-BreakoutNoFrameskip-v4",
    )
    assert zoo_policies(find_game("Tennis")) == ()
    assert set(ZOO_SCORES) <= {game.name for game in list_games()}
    for scores in ZOO_SCORES.values():
        assert set(scores) == {"a2c", "dqn", "ppo", "qrdqn"}
        assert list(scores.values()) == sorted(scores.values())
