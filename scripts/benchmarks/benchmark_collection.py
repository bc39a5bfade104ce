"""Measure how fast players play and record, where their time goes, and how fast their parts are alone."""

from __future__ import annotations

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import tyro

from atari_dt.command_line import run
from atari_dt.player_config import DEFAULT_EPSILONS, PolicyPlayerConfig, PQNConfig
from replay_data.storage.processes import defer_signals

if TYPE_CHECKING:
    from collection_contestants import Speed

    from atari_dt.games.catalogue import Game

T = TypeVar("T")


def main(
    game: str = "Breakout",
    agent: Literal["q_learning", "hub"] = "q_learning",
    policies: tuple[str, ...] = (),
    epsilons: tuple[float, ...] = DEFAULT_EPSILONS,
    num_steps: int = 60_000,
    rounds: int = 2,
    ram: bool = False,
    learning: tyro.conf.OmitArgPrefixes[PQNConfig] = PQNConfig(),  # noqa: B008
) -> None:
    """Measure each contestant in a process of its own.

    For q_learning: the environments alone, a plain loop, and the player with its recorder. For hub: the environments
    alone, the network alone, and the player with its recorder.

    Args:
        game: Name of the game.
        agent: The player, as in collect_replay.py.
        policies: The trained agents of hub; by default, one of Stable-Baselines3's size with random weights.
        epsilons: Probabilities of a random action, for hub.
        num_steps: Number of steps of each measurement; for hub, the rows of the log.
        rounds: Number of measurements of each contestant; the medians are reported.
        ram: Record the RAM too, and step the environments alone as for that.
        learning: Config of q_learning; hub reads the number of environments.
    """
    from atari_dt.games.catalogue import find_game

    played_game = find_game(game)
    if agent == "hub":
        measure_policies(played_game, policies, PolicyPlayerConfig(epsilons, learning.num_envs), num_steps, rounds, ram)
    else:
        measure_learning(played_game, learning, num_steps, rounds, ram)


def measure_learning(game: Game, learning: PQNConfig, num_steps: int, rounds: int, ram: bool) -> None:
    """Measure the player that learns, and print the medians."""
    from collection_contestants import COMPONENTS, play_and_record, play_plain_loop, play_randomly

    from atari_dt.hardware import find_device, find_precision, matmul_peak

    device = find_device(learning.device)
    dtype = find_precision(learning.precision, device)
    steps_per_update = learning.num_envs * learning.steps_per_update
    updates = max(2, num_steps // steps_per_update)
    env_speeds, plain_speeds, speeds = [], [], []
    for _ in range(rounds):
        env_speeds.append(call_in_new_process(play_randomly, game, learning.num_envs, updates * steps_per_update, ram))
        plain_speeds.append(call_in_new_process(play_plain_loop, game, learning, updates))
        with idle_threads_waiting():
            speeds.append(call_in_new_process(play_and_record, game, learning, updates, ram))
    sizes = f"{learning.num_envs} environments, {learning.epochs} epochs in minibatches of {learning.minibatch_size}"
    print(f"{game.name}, {learning.network} network, {sizes}, {dtype}")
    print(f"large matrix product    {matmul_peak(device, dtype) / 1e9:,.0f} GFLOP/s")
    print(f"environments alone      {np.median(env_speeds):,.0f} steps/s")
    print(f"plain loop              {np.median(plain_speeds):,.0f} steps/s")
    ratios = [speed.steps_per_s / plain_speed for speed, plain_speed in zip(speeds, plain_speeds, strict=True)]
    print_speeds(speeds, COMPONENTS)
    print(f"player / plain loop     {np.median(ratios):.2f}")


def measure_policies(
    game: Game, policies: tuple[str, ...], config: PolicyPlayerConfig, num_steps: int, rounds: int, ram: bool
) -> None:
    """Measure the player of trained policies, and print the medians."""
    from collection_contestants import POLICY_COMPONENTS, choose_actions, play_policies_and_record, play_randomly

    env_speeds, network_speeds, speeds = [], [], []
    for _ in range(rounds):
        env_speeds.append(call_in_new_process(play_randomly, game, config.num_envs, num_steps, ram))
        with idle_threads_waiting():
            network_speeds.append(call_in_new_process(choose_actions, game, config, num_steps))
            speeds.append(call_in_new_process(play_policies_and_record, game, policies, config, num_steps, ram))
    print(f"{game.name}, {config.num_envs} environments, {len(policies) or 1} policies, epsilons {config.epsilons}")
    print(f"environments alone      {np.median(env_speeds):,.0f} steps/s")
    print(f"network alone           {np.median(network_speeds):,.0f} states/s")
    print_speeds(speeds, POLICY_COMPONENTS)


def print_speeds(speeds: Sequence[Speed], components: Sequence[str]) -> None:
    """Print the medians of a player's speed and of the shares of its time."""
    steps, rows, size = (
        np.median([getattr(speed, name) for speed in speeds]) for name in ("steps_per_s", "rows_per_s", "bytes_per_row")
    )
    print(
        f"player with recorder    {steps:,.0f} steps/s, {rows:,.0f} rows/s with start and end, {size:.0f} bytes per row"
    )
    shares = np.median([speed.shares for speed in speeds], axis=0)
    for component, share in zip((*components, "writer (in parallel)"), shares, strict=True):
        print(f"{component:23s} {share:.0%}")


@contextmanager
def idle_threads_waiting() -> Iterator[None]:
    """Let idle threads of processes that are started in the block wait instead of spin, as in collect_replay.py."""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    yield
    del os.environ["OMP_WAIT_POLICY"]


def call_in_new_process(contestant: Callable[..., T], *arguments: Any) -> T:
    """Call a contestant in a process of its own, which inherits the current environment variables."""
    with defer_signals():  # the process hears SIGTERM only, with which this one ends it
        pool = multiprocessing.get_context("spawn").Pool(
            1, signal.pthread_sigmask, (signal.SIG_UNBLOCK, [signal.SIGTERM])
        )
    with pool:
        return pool.apply(contestant, arguments)


if __name__ == "__main__":
    run(main)
