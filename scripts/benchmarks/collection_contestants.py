"""What `benchmark_collection` measures: environments, the player with its recorder, and a plain PyTorch loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.collection.pqn import PQNPlayer, lambda_returns
from atari_dt.collection.recorder import record
from atari_dt.collection.rollout import Rollout
from atari_dt.config import PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.games.catalogue import Game
from atari_dt.hardware import autocast, find_device, find_precision
from atari_dt.rendering.replay_summary import disk_usage
from replay_data.sources.dopamine_format import NUM_BUFFERS

COMPONENTS = ("emulator", "network", "learner", "recorder")


def play_randomly(game: Game, learning: PQNConfig, updates: int) -> float:
    """Return the steps/s of the environments alone, with uniformly random actions."""
    env, rng = AleVectorEnv(game, learning.num_envs, EnvironmentConfig(), autoreset=True), np.random.default_rng(0)
    env.reset(np.arange(learning.num_envs))
    steps = updates * learning.steps_per_update
    actions = rng.integers(len(env.action_meanings), size=(steps, learning.num_envs))
    start = time.perf_counter()
    for actions_of_step in actions:
        env.step(actions_of_step)
    return actions.size / (time.perf_counter() - start)


def play_and_record(game: Game, learning: PQNConfig, updates: int) -> tuple[float, list[float], float]:
    """Return the steps/s of the player while it records, the shares of its time, and the bytes per row of the log."""
    environment, steps = EnvironmentConfig(), learning.num_envs * learning.steps_per_update
    player = PQNPlayer(game, environment, updates * steps, learning, seed=0)
    times, shares = [], []

    class TimedPlayer:
        state, restore = player.state, player.restore

        def play(self) -> Generator[Rollout, None, None]:
            for rollout in player.play():
                times.append(time.perf_counter())
                shares.append([rollout.metrics[f"{name}_share"] for name in COMPONENTS])
                yield rollout

    with tempfile.TemporaryDirectory() as directory:
        buffers = record(
            game,
            TimedPlayer,
            Path(directory),
            agent="q_learning",
            num_steps=updates * steps // 2,  # the log lacks the episodes that have not ended
            environment=environment,
            seed=0,
            settings={},
            show_progress=False,
        )
        bytes_per_row = disk_usage(Path(directory) / game.name / "1" / "replay_logs", buffers)[1]
        events = EventAccumulator(str(Path(directory) / game.name / "1" / "tensorboard"))
        events.Reload()
        writer_share = events.Scalars("writer_share")[-1].value
    assert len(buffers) == NUM_BUFFERS
    speed = (len(times) - 1) * steps / (times[-1] - times[0])
    return speed, [*np.mean(shares[1:], axis=0).tolist(), writer_share], bytes_per_row


def play_plain_loop(game: Game, learning: PQNConfig, updates: int) -> float:
    """Return the steps/s of the same algorithm with PyTorch's modules, autocast and RAdam, without a recorder."""
    device = find_device(learning.device)
    dtype = find_precision(learning.precision, device)
    num_envs, num_steps = learning.num_envs, learning.steps_per_update
    env = AleVectorEnv(game, num_envs, EnvironmentConfig(), autoreset=True)
    num_actions = len(env.action_meanings)
    network = nn.Sequential(
        *(nn.Conv2d(4, 32, 8, 4), nn.LayerNorm([32, 20, 20]), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2), nn.LayerNorm([64, 9, 9]), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.LayerNorm([64, 7, 7]), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(3136, 512), nn.LayerNorm(512), nn.ReLU(), nn.Linear(512, num_actions)),
    ).to(device)
    optimizer = torch.optim.RAdam(network.parameters(), lr=learning.learning_rate)

    def values(states: Tensor) -> Tensor:
        with autocast(device, dtype):
            return network(states / 255).float()

    states = torch.from_numpy(env.reset(np.arange(num_envs))).to(device)
    start = 0.0
    for update in range(updates):
        if update == 1:
            start = time.perf_counter()  # the first update warms up
        rollout_states, rollout_actions, max_values, rewards, done = [], [], [], [], []
        for _ in range(num_steps):
            with torch.no_grad():
                max_value, greedy_actions = values(states).max(1)
            explore = torch.rand(num_envs, device=device) < 0.05
            random_actions = torch.randint(num_actions, (num_envs,), device=device)
            actions = torch.where(explore, random_actions, greedy_actions)
            rollout_states.append(states)
            rollout_actions.append(actions)
            max_values.append(max_value)
            next_states, raw_rewards, done_of_step = env.step(actions.cpu().numpy())
            states = torch.from_numpy(next_states).to(device)
            rewards.append(torch.from_numpy(raw_rewards.clip(-1, 1)).to(device))
            done.append(torch.from_numpy(done_of_step).to(device))
        with torch.no_grad():
            max_values.append(values(states).amax(1))
        all_done = torch.stack(done)
        arguments = (all_done, torch.zeros_like(all_done), learning.discount, learning.trace_decay)
        returns = lambda_returns(torch.stack(rewards), torch.stack(max_values), *arguments).flatten()
        all_states, all_actions = torch.cat(rollout_states), torch.cat(rollout_actions)
        for _ in range(learning.epochs):
            for batch in torch.randperm(num_envs * num_steps, device=device).split(learning.minibatch_size):
                chosen_values = values(all_states[batch]).gather(1, all_actions[batch, None]).squeeze(1)
                loss = F.mse_loss(chosen_values, returns[batch])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), learning.grad_norm_clip)
                optimizer.step()
    return (updates - 1) * num_envs * num_steps / (time.perf_counter() - start)
