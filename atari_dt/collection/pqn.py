"""A player that learns a game from nothing: parallelized Q-learning.

PQN (Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024, arXiv:2407.04811) needs no replay buffer and
no target network: many games are played side by side, layer normalization keeps the network stable, and after every few
steps it learns from exactly these steps, towards Q(lambda) returns.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._triton import has_triton

from atari_dt.collection.q_network import QNetwork
from atari_dt.collection.rollout import EpisodeAssembler, Rollout
from atari_dt.config import PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.games.catalogue import Game
from atari_dt.hardware import (
    find_device,
    find_precision,
    keep_freed_memory,
    translate_compile_errors,
    translate_out_of_memory,
)
from atari_dt.model.loading import LOADING_ERRORS
from replay_data import InputError


def lambda_returns(
    rewards: Tensor, next_values: Tensor, terminal: Tensor, cut: Tensor, discount: float, trace_decay: float
) -> Tensor:
    """Return the Q(lambda) returns of T steps of N games (Gallici et al. 2024, equation 4 and its appendix).

    G_t = r_t + discount · ((1 - lambda) · V_{t+1} + lambda · G_{t+1}), where V is the largest value of the state and
    G_T = V_T; without what follows a terminal step. Where a time limit cut an episode, the next state is another
    episode's, so that what comes before bootstraps from the last state that was seen: G_t = V_t.

    Args:
        rewards: ``[T, N]``.
        next_values: ``[T + 1, N]``; V_0 … V_T.
        terminated: bool ``[T, N]``, after which nothing follows.
        cut: bool ``[T, N]``.
        discount: of rewards.
        trace_decay: lambda.
    """
    values = next_values
    returns = torch.empty_like(rewards)
    following = values[-1]
    for t in range(len(rewards) - 1, -1, -1):
        beyond = torch.lerp(values[t + 1], following, trace_decay)
        following = rewards[t] + discount * torch.where(terminal[t], 0.0, beyond)
        following = torch.where(cut[t], values[t], following)
        returns[t] = following
    return returns


def rectification(step: int, beta2: float = 0.999) -> float:
    """The factor that RAdam puts on Adam's learning rate in step 1, 2, … (Liu et al. 2020, algorithm 2).

    While the variance of Adam's step cannot be estimated, in steps 1 to 5, it is 0: they only collect averages. (There
    they are steps along the average gradient, with the learning rate of Adam.)
    """
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    if rho <= 5:
        return 0.0
    return float(((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5)


class PQNPlayer:
    """Plays N games at once and learns from them.

    Rewards are clipped to [-1, 1] to learn from. A lost life ends the return, as a lost game does, but not the episode.

    Args:
        game: what is played.
        environment: how.
        num_steps: over which exploration and learning rate fall.
        config: how it learns.
        seed: of the network, the games and the exploration.

    Raises:
        InputError: if the device is not there, or has too little memory.
    """

    def __init__(self, game: Game, environment: EnvironmentConfig, num_steps: int, config: PQNConfig, seed: int):
        self._config, self._num_steps, self._seed = config, num_steps, seed
        self._sizes = f"num_envs ({config.num_envs}) or steps_per_update ({config.steps_per_update})"
        self._device = find_device(config.device)
        dtype = find_precision(config.precision, self._device)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._games = AleVectorEnv(game, config.num_envs, environment, autoreset=True)
        self._num_actions = len(self._games.action_meanings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = QNetwork(self._num_actions, dtype).to(self._device)
        self._network: Callable[[Tensor], Tensor] = self._model
        self._loss: Callable[..., Tensor] = self._minibatch_loss
        self._returns: Callable[..., Tensor] = lambda_returns
        if config.compile == "on" or (config.compile == "auto" and self._device.type == "cuda" and has_triton()):
            self._network, self._loss, self._returns = (
                torch.compile(function, dynamic=False) for function in (self._network, self._loss, self._returns)
            )
        self._optimizer = torch.optim.Adam(self._model.parameters(), fused=True)
        self._generator = torch.Generator(self._device)
        self._played = self._optimizer_steps = self._starts = 0
        steps = (config.steps_per_update, config.num_envs)
        with translate_out_of_memory(self._device, self._sizes):
            self._blocks = torch.zeros((steps[0] + 1, steps[1], 21, 21, 64), dtype=torch.uint8, device=self._device)
            self._actions = torch.zeros(steps, dtype=torch.int64, device=self._device)
            self._values = torch.zeros((steps[0] + 1, steps[1]), device=self._device)

    def play(self) -> Generator[Rollout, None, None]:
        """Play for ever; yield after every update.

        Raises:
            InputError: if memory runs out.
            FloatingPointError: if the loss is no longer finite.
        """
        seeds = np.random.SeedSequence([self._seed, self._starts]).generate_state(self._config.num_envs + 1)
        self._generator.manual_seed(int(seeds[-1]))
        self._starts += 1
        with translate_out_of_memory(self._device, self._sizes), translate_compile_errors():
            states = self._games.reset((seeds[:-1] >> 1).astype(np.int64))
            episodes = EpisodeAssembler(self._config.num_envs)
            while True:
                clock = _Clock()
                steps = _Steps(self._config.steps_per_update, self._config.num_envs)
                epsilon = self._epsilon()
                for t in range(self._config.steps_per_update):
                    with clock.time("network"):
                        actions = self._act(t, states, epsilon)
                    with clock.time("recorder"):
                        steps.frames[t] = states[:, -1]
                    with clock.time("emulator"):
                        lives = self._games.lives
                        states, rewards, over = self._games.step(actions)
                    steps.actions[t], steps.rewards[t] = actions, rewards
                    steps.terminated[t], steps.cut[t] = self._games.terminated, over & ~self._games.terminated
                    steps.lost_life[t] = (self._games.lives < lives) & ~over
                with clock.time("learner"):
                    learning_rate, values = self._learn(steps, states)
                with clock.time("recorder"):
                    finished = episodes.add(steps.frames, steps.actions, steps.rewards, steps.terminated, steps.cut)
                ended = [(episode, {"played": float(self._played + at)}) for episode, at in finished]
                self._played += steps.actions.size
                values |= {"epsilon": epsilon, "learning_rate": learning_rate, **clock.shares()}
                yield Rollout(ended, steps.actions.size, values)

    def state(self) -> bytes:
        """What `restore` goes on from, on any device; the games and the generator begin anew."""
        content = io.BytesIO()
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "counts": [self._played, self._optimizer_steps, self._starts],
        }
        torch.save(state, content)
        return content.getvalue()

    def restore(self, state: bytes) -> None:
        """Go on from a `state`, with new games.

        Raises:
            InputError: if it is damaged, or of another player.
        """
        try:
            content = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
            self._model.load_state_dict(content["model"])
            self._optimizer.load_state_dict(content["optimizer"])
            self._played, self._optimizer_steps, self._starts = content["counts"]
        except LOADING_ERRORS as error:
            raise InputError("the player's checkpoint is damaged; the recording cannot go on from it") from error

    def _epsilon(self) -> float:
        exploring = self._config.exploration_fraction * self._num_steps
        left = max(0.0, 1 - self._played / exploring) if exploring else 0.0
        return self._config.final_epsilon + left * (1 - self._config.final_epsilon)

    @torch.no_grad()
    def _act(self, t: int, states: npt.NDArray[np.uint8], epsilon: float) -> npt.NDArray[np.int64]:
        """Choose actions in step t of an update's; int64 ``[N]``."""
        blocks = self._model.blocks(torch.from_numpy(states).to(self._device))
        self._blocks[t] = blocks
        self._values[t], greedy = self._network(blocks).max(1)
        device, generator = self._device, self._generator
        explore = torch.rand(len(greedy), device=device, generator=generator) < epsilon
        random = torch.randint(self._num_actions, greedy.shape, device=device, generator=generator)
        self._actions[t] = torch.where(explore, random, greedy)
        return self._actions[t].cpu().numpy()

    def _learn(self, steps: _Steps, states: npt.NDArray[np.uint8]) -> tuple[float, dict[str, float]]:
        """Update the network; return the learning rate and what to show."""
        config = self._config
        learning_rate = config.learning_rate * max(0.0, 1 - self._played / self._num_steps)
        with torch.no_grad():
            self._values[-1] = self._network(self._model.blocks(torch.from_numpy(states).to(self._device))).amax(1)
        rewards = torch.from_numpy(steps.rewards.clip(-1, 1)).to(self._device)
        terminal = torch.from_numpy(steps.terminated | steps.lost_life).to(self._device)
        cut = torch.from_numpy(steps.cut).to(self._device)
        returns = self._returns(rewards, self._values, terminal, cut, config.discount, config.trace_decay).flatten()
        blocks, actions, known = self._blocks[:-1].flatten(0, 1), self._actions.flatten(), (~cut).flatten()
        loss = torch.zeros((), device=self._device)
        for _ in range(config.epochs):
            order = torch.randperm(len(actions), device=self._device, generator=self._generator)
            for minibatch in order.split(config.minibatch_size):
                minibatch_loss = self._loss(*(x.index_select(0, minibatch) for x in (blocks, actions, returns, known)))
                self._optimizer.zero_grad()
                minibatch_loss.backward()
                nn.utils.clip_grad_norm_(self._model.parameters(), config.grad_norm_clip)
                self._optimizer_steps += 1
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate * rectification(self._optimizer_steps)
                self._optimizer.step()
                loss += minibatch_loss.detach()
        mean_loss = float(loss) / (config.epochs * len(actions) / config.minibatch_size)
        if not np.isfinite(mean_loss):
            raise FloatingPointError("the loss is no longer finite; lower the learning rate")
        return learning_rate, {"loss": mean_loss, "mean_value": float(self._values[:-1].mean())}

    def _minibatch_loss(self, blocks: Tensor, actions: Tensor, returns: Tensor, known: Tensor) -> Tensor:
        errors = self._model(blocks).gather(1, actions[:, None]).squeeze(1) - returns
        return 0.5 * (errors.square() * known).mean()


def recorded_settings(config: PQNConfig) -> dict[str, Any]:
    """What a recording says of how its player learns: all but where; the precision is the one that is computed in."""
    settings = dataclasses.asdict(config)
    precision = find_precision(config.precision, find_device(settings.pop("device")))
    del settings["compile"]
    return {**settings, "precision": "bf16" if precision == torch.bfloat16 else "fp32"}


class _Steps:
    """What T steps of N games gave."""

    def __init__(self, steps: int, num_envs: int):
        shape = (steps, num_envs)
        self.frames = np.empty((*shape, 84, 84), dtype=np.uint8)
        self.actions = np.empty(shape, dtype=np.uint8)
        self.rewards = np.empty(shape, dtype=np.float32)
        self.terminated, self.cut, self.lost_life = (np.empty(shape, dtype=np.bool_) for _ in range(3))


class _Clock:
    """Which share of the time went where."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(("emulator", "network", "learner", "recorder"), 0.0)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        whole = time.perf_counter() - self._start
        return {f"{part}_share": seconds / whole for part, seconds in self._seconds.items()}
