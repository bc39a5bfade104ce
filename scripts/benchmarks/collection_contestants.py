"""What `benchmark_collection` measures: environments, networks, players with a recorder, and a plain PyTorch loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.collection.policies.loading import load_policies
from atari_dt.collection.policies.nature_cnn import CONVOLUTIONS, NUM_FEATURES, NatureCNNPolicy
from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.collection.policy_player import PolicyPlayer
from atari_dt.collection.pqn import PQNPlayer, lambda_returns
from atari_dt.collection.q_network import SIZES
from atari_dt.collection.recorder import RAM_SETTING, record
from atari_dt.collection.rollout import Rollout
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.environment.vector_env import AleVectorEnv, make_autoreset_env
from atari_dt.games.catalogue import Game
from atari_dt.hardware import autocast, find_device, find_precision
from atari_dt.player_config import PolicyPlayerConfig, PQNConfig
from atari_dt.rendering.replay_summary import disk_usage
from replay_data.sources.dopamine_format import NUM_BUFFERS

COMPONENTS = ("emulator", "network", "learner", "recorder")

POLICY_COMPONENTS = ("emulator", "network", "recorder")


class Speed(NamedTuple):
    """Speed of a player with its recorder.

    Attributes:
        steps_per_s: Steps of all environments per second, after the first rollout.
        rows_per_s: Rows of the log per second, from the start of the environments to the last file.
        shares: Share of the time of each component, and of the writer, which works in parallel.
        bytes_per_row: Size of the log on disk.
    """

    steps_per_s: float
    rows_per_s: float
    shares: list[float]
    bytes_per_row: float


def play_randomly(game: Game, num_envs: int, num_steps: int, ram: bool) -> float:
    """Return the steps/s of the environments alone, with uniformly random actions, with or without RAM."""
    env, rng = make_autoreset_env(game, num_envs, EnvironmentConfig(), ram), np.random.default_rng(0)
    env.reset(np.arange(num_envs))
    actions = rng.integers(len(env.action_meanings), size=(-(-num_steps // num_envs), num_envs))
    start = time.perf_counter()
    for actions_of_step in actions:
        env.step(actions_of_step)
        _ = env.ram
    return actions.size / (time.perf_counter() - start)


def play_and_record(game: Game, learning: PQNConfig, updates: int, ram: bool) -> Speed:
    """Measure the player that learns while it records, with or without RAM."""
    steps = updates * learning.num_envs * learning.steps_per_update
    player = PQNPlayer(game, EnvironmentConfig(), steps, learning, 0, ram)
    return _measure(player, game, steps // 2, COMPONENTS, ram)  # the log lacks the episodes that have not ended


def play_policies_and_record(
    game: Game, policies: Sequence[str], config: PolicyPlayerConfig, num_steps: int, ram: bool
) -> Speed:
    """Measure the player of trained policies, with or without RAM; without names, a random one plays."""
    trained = load_policies(policies, game, len(action_meanings(game))) if policies else [_random_policy(game)]
    player = PolicyPlayer(game, EnvironmentConfig(), trained, config, 0, ram)
    return _measure(player, game, num_steps, POLICY_COMPONENTS, ram)


def choose_actions(game: Game, config: PolicyPlayerConfig, num_steps: int) -> float:
    """Return the states/s of an agent's network alone, in the batches of half the environments."""
    policy, batch_size = _random_policy(game), max(1, config.num_envs // 2)
    states = np.random.default_rng(0).integers(256, size=(batch_size, 4, 84, 84), dtype=np.uint8)
    policy.choose_actions(states)
    num_batches = -(-num_steps // batch_size)
    start = time.perf_counter()
    for _ in range(num_batches):
        policy.choose_actions(states)
    return num_batches * batch_size / (time.perf_counter() - start)


def _random_policy(game: Game) -> TrainedPolicy:
    """Return an agent of the size of Stable-Baselines3's, with random weights."""
    num_actions, generator = len(action_meanings(game)), torch.Generator().manual_seed(0)
    shapes = (*CONVOLUTIONS, (512, NUM_FEATURES), (num_actions, 512))
    layers = [(0.05 * torch.randn(shape, generator=generator), torch.zeros(shape[0])) for shape in shapes]
    network = NatureCNNPolicy(layers, nn.ReLU, "values", num_actions, True, find_device("auto"))
    return TrainedPolicy("random weights", "", True, network)


def _measure(
    player: PQNPlayer | PolicyPlayer, game: Game, num_steps: int, components: Sequence[str], ram: bool
) -> Speed:
    """Record a player."""
    times, steps, shares = [], [], []

    class TimedPlayer:
        state, restore = player.state, player.restore

        def play(self) -> Generator[Rollout, None, None]:
            for rollout in player.play():
                times.append(time.perf_counter())
                steps.append(rollout.num_steps)
                shares.append([rollout.metrics[f"{name}_share"] for name in components])
                yield rollout

    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        buffers = record(
            game,
            TimedPlayer,
            Path(directory),
            agent="benchmark",
            num_steps=num_steps,
            environment=EnvironmentConfig(),
            seed=0,
            settings={RAM_SETTING: ram},
            show_progress=False,
        )
        seconds = time.perf_counter() - start
        bytes_per_row = disk_usage(Path(directory) / game.name / "1" / "replay_logs", buffers).bytes_per_row
        events = EventAccumulator(str(Path(directory) / game.name / "1" / "tensorboard"))
        events.Reload()
        writer_share = events.Scalars("writer_share")[-1].value
    assert len(buffers) == NUM_BUFFERS
    speed = sum(steps[1:]) / (times[-1] - times[0])
    rows_per_s = sum(buffer.rows for buffer in buffers) / seconds
    return Speed(speed, rows_per_s, [*np.mean(shares[1:], axis=0).tolist(), writer_share], bytes_per_row)


def play_plain_loop(game: Game, learning: PQNConfig, updates: int) -> float:
    """Return the steps/s of the same algorithm with PyTorch's modules, autocast and RAdam, without a recorder."""
    device = find_device(learning.device)
    dtype = find_precision(learning.precision, device)
    num_envs, num_steps = learning.num_envs, learning.steps_per_update
    env = AleVectorEnv(game, num_envs, EnvironmentConfig(), autoreset=True)
    num_actions = len(env.action_meanings)
    channels1, channels2, channels3, units = SIZES[learning.network]
    network = nn.Sequential(
        *(nn.Conv2d(4, channels1, 8, 4), nn.LayerNorm([channels1, 20, 20]), nn.ReLU()),
        *(nn.Conv2d(channels1, channels2, 4, 2), nn.LayerNorm([channels2, 9, 9]), nn.ReLU()),
        *(nn.Conv2d(channels2, channels3, 3), nn.LayerNorm([channels3, 7, 7]), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(49 * channels3, units), nn.LayerNorm(units), nn.ReLU(), nn.Linear(units, num_actions)),
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
