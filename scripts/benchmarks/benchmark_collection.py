"""Measure how fast the learning player plays and records, and where its time goes, beside a plain PyTorch loop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.collection.pqn import PQNPlayer, lambda_returns
from atari_dt.collection.recorder import record
from atari_dt.collection.rollout import Rollout
from atari_dt.command_line import run
from atari_dt.config import PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.games.catalogue import Game, find_game
from atari_dt.hardware import autocast, find_device, find_precision, matmul_peak
from atari_dt.rendering.replay_summary import disk_usage
from replay_data.sources.dopamine_format import NUM_BUFFERS
from replay_data.storage.processes import ignore_signals

T = TypeVar("T")
PARTS = ("emulator", "network", "learner", "recorder")


def main(
    game: str = "Breakout",
    num_steps: int = 60_000,
    rounds: int = 2,
    learning: tyro.conf.OmitArgPrefixes[PQNConfig] = PQNConfig(),  # noqa: B008
) -> None:
    """Take turns: the emulators alone, a plain loop, and the player with its recorder; each in a process of its own.

    Args:
        game: What is played.
        num_steps: Steps to play in each turn.
        rounds: How often each has its turn; the middle is reported.
        learning: How the player learns.
    """
    found, device = find_game(game), find_device(learning.device)
    dtype = find_precision(learning.precision, device)
    updates = max(2, num_steps // (learning.num_envs * learning.steps_per_update))
    emulator, plain, ours, shares, size = [], [], [], [], 0.0
    for _ in range(rounds):
        emulator.append(alone(play_at_random, found, learning, updates))
        plain.append(alone(play_plainly, found, learning, updates))
        os.environ["OMP_WAIT_POLICY"] = "passive"  # as collect_replay.py sets it
        speed, parts, size = alone(play_and_record, found, learning, updates)
        del os.environ["OMP_WAIT_POLICY"]
        ours.append(speed)
        shares.append(parts)
    sizes = f"{learning.num_envs} games, {learning.epochs} epochs in minibatches of {learning.minibatch_size}"
    print(f"{game}, {sizes}, {dtype}")
    print(f"a large matrix product  {matmul_peak(device, dtype) / 1e9:,.0f} GFLOP/s")
    print(f"emulators alone         {np.median(emulator):,.0f} steps/s")
    print(f"a plain loop            {np.median(plain):,.0f} steps/s")
    print(f"the player, recording   {np.median(ours):,.0f} steps/s, {size:.0f} bytes a row")
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    print(f"against the plain loop  {np.median(ratios):.2f} times")
    for part, share in zip((*PARTS, "writer (beside them)"), np.median(shares, axis=0), strict=True):
        print(f"{part:23s} {share:.0%}")


def alone(contestant: Callable[[Game, PQNConfig, int], T], *arguments: Any) -> T:
    """Call it in a process of its own, with the environment's variables as they are now."""
    with ignore_signals():  # by the process, which inherits it; the parent ends it by SIGTERM
        pool = multiprocessing.get_context("spawn").Pool(1, signal.signal, (signal.SIGTERM, signal.SIG_DFL))
    with pool:
        return pool.apply(contestant, arguments)


def play_at_random(game: Game, learning: PQNConfig, updates: int) -> float:
    """Steps/s of the emulators, with random actions and nothing else."""
    games, rng = AleVectorEnv(game, learning.num_envs, EnvironmentConfig(), autoreset=True), np.random.default_rng(0)
    games.reset(np.arange(learning.num_envs))
    steps = updates * learning.steps_per_update
    actions = rng.integers(len(games.action_meanings), size=(steps, learning.num_envs))
    start = time.perf_counter()
    for step in actions:
        games.step(step)
    return actions.size / (time.perf_counter() - start)


def play_and_record(game: Game, learning: PQNConfig, updates: int) -> tuple[float, list[float], float]:
    """Steps/s of the player while it records, the shares of its time, and bytes a row."""
    environment, steps = EnvironmentConfig(), learning.num_envs * learning.steps_per_update
    player = PQNPlayer(game, environment, updates * steps, learning, seed=0)
    times, shares = [], []

    class Timed:
        state, restore = player.state, player.restore

        def play(self) -> Generator[Rollout, None, None]:
            for part in player.play():
                times.append(time.perf_counter())
                shares.append([part.metrics[f"{name}_share"] for name in PARTS])
                yield part

    with tempfile.TemporaryDirectory() as directory:
        recorded = record(
            game,
            Timed,
            Path(directory),
            agent="q_learning",
            num_steps=updates * steps // 2,  # the episodes that are open at the end are not in it
            environment=environment,
            seed=0,
            settings={},
            show_progress=False,
        )
        size = disk_usage(Path(directory) / game.name / "1" / "replay_logs", recorded)[1]
        events = EventAccumulator(str(Path(directory) / game.name / "1" / "tensorboard"))
        events.Reload()
        writer = events.Scalars("writer_share")[-1].value
    assert len(recorded) == NUM_BUFFERS
    speed = (len(times) - 1) * steps / (times[-1] - times[0])
    return speed, [*np.mean(shares[1:], axis=0).tolist(), writer], size


def play_plainly(game: Game, learning: PQNConfig, updates: int) -> float:
    """Steps/s of the same algorithm, written down with PyTorch's modules, autocast and RAdam; nothing is recorded."""
    device = find_device(learning.device)
    dtype = find_precision(learning.precision, device)
    count, length = learning.num_envs, learning.steps_per_update
    games = AleVectorEnv(game, count, EnvironmentConfig(), autoreset=True)
    network = nn.Sequential(
        *(nn.Conv2d(4, 32, 8, 4), nn.LayerNorm([32, 20, 20]), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2), nn.LayerNorm([64, 9, 9]), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.LayerNorm([64, 7, 7]), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(3136, 512), nn.LayerNorm(512), nn.ReLU(), nn.Linear(512, len(games.action_meanings))),
    ).to(device)
    optimizer = torch.optim.RAdam(network.parameters(), lr=learning.learning_rate)

    def values(states: Tensor) -> Tensor:
        with autocast(device, dtype):
            return network(states / 255).float()

    states = torch.from_numpy(games.reset(np.arange(count))).to(device)
    since = 0.0
    for update in range(updates):
        if update == 1:
            since = time.perf_counter()
        seen, actions, best, rewards, terminal = [], [], [], [], []
        for _ in range(length):
            with torch.no_grad():
                largest, greedy = values(states).max(1)
            explore = torch.rand(count, device=device) < 0.05
            chosen = torch.where(explore, torch.randint(len(games.action_meanings), (count,), device=device), greedy)
            seen.append(states)
            actions.append(chosen)
            best.append(largest)
            found, points, ended = games.step(chosen.cpu().numpy())
            states = torch.from_numpy(found).to(device)
            rewards.append(torch.from_numpy(points.clip(-1, 1)).to(device))
            terminal.append(torch.from_numpy(ended).to(device))
        with torch.no_grad():
            best.append(values(states).amax(1))
        over = torch.stack(terminal)
        arguments = (over, torch.zeros_like(over), learning.discount, learning.trace_decay)
        returns = lambda_returns(torch.stack(rewards), torch.stack(best), *arguments).flatten()
        all_states, all_actions = torch.cat(seen), torch.cat(actions)
        for _ in range(learning.epochs):
            for batch in torch.randperm(count * length, device=device).split(learning.minibatch_size):
                chosen_values = values(all_states[batch]).gather(1, all_actions[batch, None]).squeeze(1)
                loss = F.mse_loss(chosen_values, returns[batch])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), learning.grad_norm_clip)
                optimizer.step()
    return (updates - 1) * count * length / (time.perf_counter() - since)


if __name__ == "__main__":
    run(main)
