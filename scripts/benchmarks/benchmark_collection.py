"""Measure how fast the PQN player plays and records, where its time goes, and how fast a plain PyTorch loop plays."""

from __future__ import annotations

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tyro

from atari_dt.command_line import run
from atari_dt.config import PQNConfig
from replay_data.storage.processes import defer_signals

T = TypeVar("T")


def main(
    game: str = "Breakout",
    num_steps: int = 60_000,
    rounds: int = 2,
    learning: tyro.conf.OmitArgPrefixes[PQNConfig] = PQNConfig(),  # noqa: B008
) -> None:
    """Measure the environments alone, a plain loop, and the player with its recorder, each in a process of its own.

    Args:
        game: Name of the game.
        num_steps: Number of steps of each measurement.
        rounds: Number of measurements of each contestant; the medians are reported.
        learning: Config of the player.
    """
    from collection_contestants import COMPONENTS, play_and_record, play_plain_loop, play_randomly

    from atari_dt.games.catalogue import find_game
    from atari_dt.hardware import find_device, find_precision, matmul_peak

    played_game, device = find_game(game), find_device(learning.device)
    dtype = find_precision(learning.precision, device)
    updates = max(2, num_steps // (learning.num_envs * learning.steps_per_update))
    env_speeds, plain_speeds, player_speeds, shares, bytes_per_row = [], [], [], [], 0.0
    for _ in range(rounds):
        env_speeds.append(call_in_new_process(play_randomly, played_game, learning, updates))
        plain_speeds.append(call_in_new_process(play_plain_loop, played_game, learning, updates))
        os.environ["OMP_WAIT_POLICY"] = "passive"  # as in collect_replay.py
        speed, shares_of_round, bytes_per_row = call_in_new_process(play_and_record, played_game, learning, updates)
        del os.environ["OMP_WAIT_POLICY"]
        player_speeds.append(speed)
        shares.append(shares_of_round)
    sizes = f"{learning.num_envs} environments, {learning.epochs} epochs in minibatches of {learning.minibatch_size}"
    print(f"{game}, {sizes}, {dtype}")
    print(f"large matrix product    {matmul_peak(device, dtype) / 1e9:,.0f} GFLOP/s")
    print(f"environments alone      {np.median(env_speeds):,.0f} steps/s")
    print(f"plain loop              {np.median(plain_speeds):,.0f} steps/s")
    print(f"player with recorder    {np.median(player_speeds):,.0f} steps/s, {bytes_per_row:.0f} bytes per row")
    ratios = [speed / plain_speed for speed, plain_speed in zip(player_speeds, plain_speeds, strict=True)]
    print(f"player / plain loop     {np.median(ratios):.2f}")
    for component, share in zip((*COMPONENTS, "writer (in parallel)"), np.median(shares, axis=0), strict=True):
        print(f"{component:23s} {share:.0%}")


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
