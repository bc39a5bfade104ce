"""Trained Atari agents of RL Baselines3 Zoo, with the scores that the zoo reports."""

from __future__ import annotations

from collections.abc import Mapping

from atari_dt.games.catalogue import Game

ZOO_SCORES: Mapping[str, Mapping[str, float]] = {
    "Asteroids": {"dqn": 782.687, "a2c": 1286.55, "ppo": 2156.174, "qrdqn": 2185.303},
    "BeamRider": {"a2c": 2890.298, "ppo": 3397.0, "dqn": 4295.946, "qrdqn": 17122.941},
    "Breakout": {"a2c": 279.793, "dqn": 358.327, "qrdqn": 393.6, "ppo": 398.033},
    "Enduro": {"a2c": 0.0, "dqn": 830.929, "ppo": 996.364, "qrdqn": 3231.2},
    "MsPacman": {"qrdqn": 997.867, "a2c": 1671.73, "ppo": 1754.356, "dqn": 2682.929},
    "Pong": {"a2c": 17.292, "qrdqn": 20.492, "dqn": 20.602, "ppo": 20.989},
    "Qbert": {"a2c": 3882.345, "dqn": 9496.774, "qrdqn": 14799.728, "ppo": 15627.108},
    "RoadRunner": {"a2c": 31671.512, "dqn": 40396.35, "ppo": 40680.645, "qrdqn": 42325.424},
    "Seaquest": {"a2c": 1721.493, "ppo": 1783.636, "dqn": 2000.29, "qrdqn": 2557.576},
    "SpaceInvaders": {"dqn": 622.742, "a2c": 627.16, "ppo": 960.331, "qrdqn": 1899.928},
}
"""Mean score of each algorithm's agent, by game, from worst to best.

Source: ``benchmark.md`` of github.com/DLR-RM/rl-baselines3-zoo (April 2026), column ``mean_reward``: agents trained for
10 million steps each, which drew their actions from the learned distribution (A2C, PPO) or explored (DQN, QR-DQN).
"""


def zoo_policies(game: Game) -> tuple[str, ...]:
    """Return the repositories of the zoo's agents of a game on the Hugging Face Hub, worst first; may be empty."""
    return tuple(f"sb3/{algorithm}-{game.name}NoFrameskip-v4" for algorithm in ZOO_SCORES.get(game.name, {}))
