"""PQN, parallelized Q-learning: a player that learns a game from scratch while it is recorded.

PQN (Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024, arXiv:2407.04811) needs no replay buffer and
no target network. It steps many environments in parallel, stabilizes the network with layer normalization, and after
every few steps trains it on exactly these steps, toward Q(lambda) returns.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Generator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atari_dt.collection.q_network import QNetwork
from atari_dt.collection.rollout import EpisodeAssembler, FinishedEpisode, Rollout, Steps
from atari_dt.collection.timer import ComponentTimer
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import make_autoreset_env
from atari_dt.games.catalogue import Game
from atari_dt.hardware import (
    find_device,
    find_precision,
    set_up_compute,
    translate_compile_errors,
    translate_out_of_memory,
)
from atari_dt.model.loading import LOADING_ERRORS, load_torch
from atari_dt.model.weights import check_weights, load_optimizer
from atari_dt.player_config import PQNConfig
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import Scalar, read_count


def lambda_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, truncated: Tensor, discount: float, trace_decay: float
) -> Tensor:
    """Return the Q(lambda) returns of T steps of N environments (Gallici et al. 2024, equation 4 and its appendix).

    G_t = r_t + discount · ((1 - lambda) · V_{t+1} + lambda · G_{t+1}), where V is the largest action value of the state
    and G_T = V_T. A terminated step has G_t = r_t. After a truncated step, the next state belongs to another episode,
    so earlier steps bootstrap from the last state of their own episode: G_t = V_t.

    Args:
        rewards: float32 ``[T, N]``.
        values: float32 ``[T + 1, N]``, V_0 … V_T.
        terminated: bool ``[T, N]``, true where the return ends with the step.
        truncated: bool ``[T, N]``, true where a time limit ended the episode after the step.
        discount: Discount of future rewards.
        trace_decay: lambda.

    Returns:
        float32 ``[T, N]``.
    """
    returns = torch.empty_like(rewards)
    following = values[-1]
    for t in range(len(rewards) - 1, -1, -1):
        bootstrap = torch.lerp(values[t + 1], following, trace_decay)
        following = rewards[t] + discount * torch.where(terminated[t], 0.0, bootstrap)
        following = torch.where(truncated[t], values[t], following)
        returns[t] = following
    return returns


def rectification(step: int, beta2: float = 0.999) -> float:
    """Return the factor by which RAdam scales Adam's learning rate (Liu et al. 2020, algorithm 2).

    It is 0 in optimizer steps 1 to 5, where the variance of Adam's step cannot be estimated: these steps only update
    the moment estimates. (RAdam takes plain momentum steps there, with Adam's learning rate.)

    Args:
        step: Optimizer step, counted from 1.
        beta2: Decay rate of Adam's second moment estimate.
    """
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    if rho <= 5:
        return 0.0
    return float(((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5)


class PQNPlayer:
    """Plays N environments in parallel and learns from their steps; a `Player`.

    It learns from rewards clipped to [-1, 1]. A lost life ends the return, as the end of the game does, but not the
    episode.

    Args:
        game: The game.
        environment: Settings of the environments.
        num_steps: Steps over which the learning rate falls; exploration falls over a fraction of them.
        config: Settings of the algorithm.
        seed: Seed of the network, the environments and the exploration.
        ram: Whether to record the RAM too, which takes longer: the environments are then stepped in Python.

    Raises:
        InputError: If there is no such device, or it has too little memory.
    """

    def __init__(
        self,
        game: Game,
        environment: EnvironmentConfig,
        num_steps: int,
        config: PQNConfig,
        seed: int,
        ram: bool = False,
    ):
        self._config, self._num_steps, self._seed, self._ram = config, num_steps, seed, ram
        self._memory_advice = f"`num_envs` ({config.num_envs}) or `steps_per_update` ({config.steps_per_update})"
        compute = set_up_compute(config.device, config.precision, config.compile)
        self._device = compute.device
        self._env = make_autoreset_env(game, config.num_envs, environment, ram)
        self._num_actions = len(self._env.action_meanings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = QNetwork(self._num_actions, compute.dtype, config.network).to(self._device)
        self._network: Callable[[Tensor], Tensor] = self._model
        self._loss: Callable[..., Tensor] = self._minibatch_loss
        self._returns: Callable[..., Tensor] = lambda_returns
        if compute.compiled:
            self._network, self._loss, self._returns = (
                torch.compile(function, dynamic=False) for function in (self._network, self._loss, self._returns)
            )
        self._optimizer = torch.optim.Adam(self._model.parameters(), fused=True)
        self._generator = torch.Generator(self._device)
        self._num_played = self._num_optimizer_steps = self._num_starts = 0
        shape = (config.steps_per_update, config.num_envs)
        with translate_out_of_memory(self._device, self._memory_advice):
            self._blocks = torch.zeros((shape[0] + 1, shape[1], 21, 21, 64), dtype=torch.uint8, device=self._device)
            self._actions = torch.zeros(shape, dtype=torch.int64, device=self._device)
            self._values = torch.zeros((shape[0] + 1, shape[1]), device=self._device)

    def play(self) -> Generator[Rollout, None, None]:
        """Play without end; yield a rollout after every update of the network.

        Raises:
            InputError: If memory runs out, or the network cannot be compiled.
            FloatingPointError: If the loss is not finite.
        """
        seeds = np.random.SeedSequence([self._seed, self._num_starts]).generate_state(self._config.num_envs + 1)
        self._generator.manual_seed(int(seeds[-1]))
        self._num_starts += 1
        with translate_out_of_memory(self._device, self._memory_advice), translate_compile_errors():
            states = self._env.reset((seeds[:-1] >> 1).astype(np.int64))
            assembler = EpisodeAssembler(self._config.num_envs)
            while True:
                timer = ComponentTimer("emulator", "network", "learner", "recorder")
                steps = Steps.empty(self._config.steps_per_update, self._config.num_envs, self._ram)
                lost_life = np.empty_like(steps.terminated)
                epsilon = self._epsilon()
                for t in range(self._config.steps_per_update):
                    with timer.time("network"):
                        actions = self._act(t, states, epsilon)
                    with timer.time("recorder"):
                        steps.set_observations(t, states[:, -1], self._env.ram)
                    with timer.time("emulator"):
                        lives = self._env.lives
                        states, rewards, done = self._env.step(actions)
                    steps.actions[t], steps.raw_rewards[t] = actions, rewards
                    steps.terminated[t], steps.truncated[t] = self._env.terminated, done & ~self._env.terminated
                    lost_life[t] = (self._env.lives < lives) & ~done
                with timer.time("learner"):
                    learning_rate, metrics = self._learn(steps, lost_life, states)
                with timer.time("recorder"):
                    finished = assembler.add(steps)
                episodes = [
                    FinishedEpisode(episode, {"played": float(self._num_played + position)})
                    for episode, position in finished
                ]
                self._num_played += steps.actions.size
                metrics |= {"epsilon": epsilon, "learning_rate": learning_rate, **timer.shares()}
                yield Rollout(episodes, steps.actions.size, metrics)

    def state(self) -> bytes:
        """Return the network, the optimizer and the counters; any device can restore them.

        The environments and the random generator are not part of the state: `play` starts new ones.
        """
        content = io.BytesIO()
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "counts": [self._num_played, self._num_optimizer_steps, self._num_starts],
        }
        torch.save(state, content)
        return content.getvalue()

    def restore(self, state: bytes) -> None:
        """Load a state that `state` returned.

        Raises:
            InputError: If it is damaged, or was not saved by a PQN player of this game.
        """
        try:
            content = load_torch(io.BytesIO(state))
            shapes = {name: tuple(tensor.shape) for name, tensor in self._model.state_dict().items()}
            check_weights(content["model"], shapes)
            self._model.load_state_dict(content["model"])
            load_optimizer(self._optimizer, content["optimizer"])
            names = ("num_played", "num_optimizer_steps", "num_starts")
            counts = dict(zip(names, content["counts"], strict=True))
            self._num_played, self._num_optimizer_steps, self._num_starts = (read_count(counts, name) for name in names)
        except LOADING_ERRORS as error:
            raise InputError(
                f"the player's checkpoint is damaged ({summarize_error(error)}); the recording cannot be resumed, but "
                "its complete buffers can be used"
            ) from error

    def _epsilon(self) -> float:
        """Return the probability of a random action."""
        exploration_steps = self._config.exploration_fraction * self._num_steps
        remaining = max(0.0, 1 - self._num_played / exploration_steps) if exploration_steps else 0.0
        return self._config.final_epsilon + remaining * (1 - self._config.final_epsilon)

    @torch.no_grad()
    def _act(self, t: int, states: npt.NDArray[np.uint8], epsilon: float) -> npt.NDArray[np.int64]:
        """Return actions, int64 ``[N]``, for step t of this update, and store what `_learn` needs of the step."""
        blocks = self._model.blocks(torch.from_numpy(states).to(self._device))
        self._blocks[t] = blocks
        self._values[t], greedy = self._network(blocks).max(1)
        device, generator = self._device, self._generator
        explore = torch.rand(len(greedy), device=device, generator=generator) < epsilon
        random = torch.randint(self._num_actions, greedy.shape, device=device, generator=generator)
        self._actions[t] = torch.where(explore, random, greedy)
        return self._actions[t].cpu().numpy()

    def _learn(
        self, steps: Steps, lost_life: npt.NDArray[np.bool_], states: npt.NDArray[np.uint8]
    ) -> tuple[float, dict[str, float]]:
        """Train the network on the steps of a rollout; return the learning rate and metrics."""
        config = self._config
        learning_rate = config.learning_rate * max(0.0, 1 - self._num_played / self._num_steps)
        with torch.no_grad():
            self._values[-1] = self._network(self._model.blocks(torch.from_numpy(states).to(self._device))).amax(1)
        rewards = torch.from_numpy(steps.raw_rewards.clip(-1, 1)).to(self._device)
        terminated = torch.from_numpy(steps.terminated | lost_life).to(self._device)
        truncated = torch.from_numpy(steps.truncated).to(self._device)
        targets = self._returns(
            rewards, self._values, terminated, truncated, config.discount, config.trace_decay
        ).flatten()
        # The state after a truncated step was not seen: the step has no target.
        blocks, actions, has_target = self._blocks[:-1].flatten(0, 1), self._actions.flatten(), (~truncated).flatten()
        loss = torch.zeros((), device=self._device)
        for _ in range(config.epochs):
            order = torch.randperm(len(actions), device=self._device, generator=self._generator)
            for minibatch in order.split(config.minibatch_size):
                batch = (values.index_select(0, minibatch) for values in (blocks, actions, targets, has_target))
                minibatch_loss = self._loss(*batch)
                self._optimizer.zero_grad()
                minibatch_loss.backward()
                nn.utils.clip_grad_norm_(self._model.parameters(), config.grad_norm_clip)
                self._num_optimizer_steps += 1
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate * rectification(self._num_optimizer_steps)
                self._optimizer.step()
                loss += minibatch_loss.detach()
        mean_loss = float(loss) / (config.epochs * len(actions) / config.minibatch_size)
        if not np.isfinite(mean_loss):
            raise FloatingPointError("the loss is not finite; lower `learning_rate`")
        return learning_rate, {"loss": mean_loss, "mean_value": float(self._values[:-1].mean())}

    def _minibatch_loss(self, blocks: Tensor, actions: Tensor, targets: Tensor, has_target: Tensor) -> Tensor:
        """Return half the mean squared error of the chosen actions' values; steps without a target count as 0."""
        errors = self._model(blocks).gather(1, actions[:, None]).squeeze(1) - targets
        return 0.5 * (errors.square() * has_target).mean()


def recorded_settings(config: PQNConfig) -> dict[str, Scalar]:
    """Return the settings that a recording keeps.

    They are all fields except ``device`` and ``compile``, which do not define the algorithm. ``precision`` is the one
    that the device computes in, never ``auto``. The network ``nature`` is left out, as in recordings that were made
    before there was another one.
    """
    settings = dataclasses.asdict(config)
    precision = find_precision(config.precision, find_device(settings.pop("device")))
    del settings["compile"]
    if config.network == "nature":
        del settings["network"]
    return {**settings, "precision": "bf16" if precision == torch.bfloat16 else "fp32"}
