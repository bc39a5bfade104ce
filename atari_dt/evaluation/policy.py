"""Policies that play N environments, each in its own episode under its own target return.

`DecisionTransformerPolicy` acts with a trained model. The return-to-go starts at the target return and is lowered by
the reward of every step, in `DecisionTransformerPolicy._lower_returns_to_go`. `RandomPolicy` is the uniform-random
baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.sampling import Sampling
from atari_dt.evaluation.target_returns import require_dataset
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError

Ints = npt.NDArray[np.int64]

Floats = npt.NDArray[np.float32]

# Smallest batches to run. For smaller ones, matrix libraries choose kernels that sum in another order. The logits would
# then depend on the number of environments in their last bit, and about one action in a million would change.
_MIN_STATES = 12

_MIN_TOKENS = 64


class Policy(Protocol):
    """Policy that plays N environments."""

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Start an episode in M environments and forget their previous episodes.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            target_returns: Target returns of the episodes, float32 ``[M]``.
            seeds: Seeds of the action sampling, int64 ``[M]``.
        """

    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of M environments.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            states: Current states, uint8 ``[M, 4, 84, 84]``.
            rewards: Unclipped rewards of the last step, float32 ``[M]``; ignored in the first step of an episode.

        Returns:
            Action indices, int64 ``[M]``.
        """


class RandomPolicy:
    """Uniform-random policy; the actions of an episode depend only on its seed.

    Args:
        num_envs: N.
        num_actions: Number of actions.

    Attributes:
        returns_to_go: Zeros, float32 ``[N]``.
    """

    def __init__(self, num_envs: int, num_actions: int):
        self._num_actions = num_actions
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Seed the actions of the environments; target returns are ignored."""
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._rngs[env_index] = np.random.default_rng(seed)

    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Draw an action for each of the environments, int64 ``[M]``."""
        return np.array([self._rngs[env_index].integers(self._num_actions) for env_index in env_indices])


@dataclass(frozen=True)
class PolicyStep:
    """Inputs and outputs of one call of `DecisionTransformerPolicy.act` for M environments.

    Contexts are left-aligned; values after the newest step are undefined. Tensors are on the model's device.

    Attributes:
        num_steps: Number of steps in each context, at most K, int64 ``[M]``.
        actions: Past actions, int64 ``[M, K - 1]``.
        returns_to_go: Returns-to-go as the model read them, float32 ``[M, K]``.
        timesteps: Timesteps as the model read them, int64 ``[M, K]``.
        logits: Action logits of the newest step, float32 ``[M, num_actions]``.
        probabilities: Probabilities that the actions were drawn with, float64 ``[M, num_actions]``.
        attentions: Attention weights of each layer, float32 ``[M, heads, T, T]``, from the same forward pass.
    """

    num_steps: Ints
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    logits: Tensor
    probabilities: npt.NDArray[np.float64]
    attentions: tuple[Tensor, ...]


class DecisionTransformerPolicy:
    """Policy that acts with a Decision Transformer on the last K steps of each environment.

    Each state is encoded once, when it is new, and only its token is kept. Contexts are left-aligned, so environments
    in their first K steps and environments later in their episodes share one forward pass.

    Args:
        model: Trained model with its ``dataset``, in evaluation mode, on the device it plays on.
        num_envs: N.
        protocol: Rewards that lower the return-to-go, and the returns and timesteps that the model reads.
        sampling: How actions are sampled.
        keep_last_step: Whether to keep ``last_step``, including attention weights.

    Attributes:
        returns_to_go: Return-to-go of each environment, float32 ``[N]``.
        last_step: Inputs and outputs of the last call of `act`; None unless ``keep_last_step`` is set.

    Raises:
        InputError: If the model does not know its dataset, or cannot read timesteps as the protocol sets them.
    """

    last_step: PolicyStep | None = None

    def __init__(
        self,
        model: DecisionTransformer,
        num_envs: int,
        protocol: EvaluationProtocol | None = None,
        sampling: Sampling | None = None,
        keep_last_step: bool = False,
    ):
        self._model = model
        self._protocol = protocol or EvaluationProtocol()
        self._sampling = sampling or Sampling()
        self._keep_last_step = keep_last_step
        if self._protocol.window_timestep == "current" and model.config.timestep_encoding == "per_step":
            raise InputError(
                "`window_timestep` must be 'first' for this model, which reads a timestep at every step of its context"
            )
        self._clip_rewards = require_dataset(model).reward_clipping and self._protocol.reward_units == "dataset"
        self._device = next(model.parameters()).device
        self._context_length = model.config.context_length
        num_tokens = self._context_length * (3 if model.config.conditioning == "return" else 2) - 1
        self._min_envs = -(-_MIN_TOKENS // num_tokens)
        shape = num_envs, self._context_length
        self._state_tokens = torch.zeros(*shape, model.config.embed_dim, device=self._device)
        self._actions = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._returns_to_go = torch.zeros(shape, device=self._device)
        self._timesteps = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)  # steps since the start of each episode
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Empty the contexts of the environments and set their returns-to-go to the target returns."""
        self._elapsed[env_indices] = 0
        self.returns_to_go[env_indices] = target_returns
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._rngs[env_index] = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of the environments, int64 ``[M]``."""
        self._lower_returns_to_go(env_indices, rewards)
        elapsed = self._elapsed[env_indices]
        self._drop_oldest_step(env_indices[elapsed >= self._context_length])
        newest = self._tensor(env_indices), self._tensor(np.minimum(elapsed, self._context_length - 1))
        self._state_tokens[newest] = self._encode(self._tensor(states))
        self._returns_to_go[newest] = self._tensor(self.returns_to_go[env_indices])
        self._timesteps[newest] = self._tensor(elapsed)
        if self._protocol.window_timestep == "current":
            self._timesteps[newest[0], 0] = self._tensor(elapsed)

        logits, context, attentions = self._predict(*newest, output_attentions=self._keep_last_step)
        probabilities = self._sampling.probabilities(logits)
        if attentions is not None:
            num_steps = np.minimum(elapsed + 1, self._context_length)
            self.last_step = PolicyStep(num_steps, *context, logits, probabilities, attentions)
        actions = self._draw(env_indices, probabilities)
        self._actions[newest] = self._tensor(actions)
        self._elapsed[env_indices] += 1
        return actions

    @torch.inference_mode()
    def probabilities_under(self, env_indices: Ints, shifts: Floats) -> npt.NDArray[np.float64]:
        """Return the action probabilities of the last `act` under other target returns, given the same history.

        Args:
            env_indices: Environments of that call, int64 ``[M]``.
            shifts: Differences of R target returns from the played one, float32 ``[R]``; added to every return-to-go of
                the context.

        Returns:
            Action probabilities, float64 ``[M, R, num_actions]``.
        """
        rows = self._tensor(env_indices).repeat_interleave(len(shifts))
        newest_steps = self._tensor(np.minimum(self._elapsed[env_indices], self._context_length) - 1)
        logits, _, _ = self._predict(
            rows, newest_steps.repeat_interleave(len(shifts)), self._tensor(np.tile(shifts, len(env_indices)))
        )
        return self._sampling.probabilities(logits).reshape(len(env_indices), len(shifts), -1)

    def _lower_returns_to_go(self, env_indices: Ints, rewards: Floats) -> None:
        """Subtract the reward of the last step from each return-to-go.

        In the first step of an episode there is no reward yet. Rewards are clipped to [-1, 1] if the dataset's are,
        unless the protocol uses raw rewards.
        """
        received = rewards.clip(-1, 1) if self._clip_rewards else rewards
        received = np.where(self._elapsed[env_indices] > 0, received, 0)
        self.returns_to_go[env_indices] -= received.astype(np.float32)

    def _drop_oldest_step(self, env_indices: Ints) -> None:
        """Make room for a step in contexts that are full."""
        if len(env_indices):
            rows = self._tensor(env_indices)
            for history in (self._state_tokens, self._actions, self._returns_to_go, self._timesteps):
                history[rows] = history[rows].roll(-1, dims=1)

    def _encode(self, states: Tensor) -> Tensor:
        """Return the tokens of states ``[M, 4, 84, 84]``, float32 ``[M, embed_dim]``."""
        return self._model.encode_states(_pad_rows(states, _MIN_STATES))[: len(states)]

    def _predict(
        self, env_indices: Tensor, newest_steps: Tensor, shifts: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...] | None]:
        """Run the model on the contexts of M environments.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            newest_steps: Index of the newest step in each context, int64 ``[M]``.
            shifts: Values added to the returns-to-go of each context, float32 ``[M]``.
            output_attentions: Whether to return attention weights.

        Returns:
            ``(logits, context, attentions)``: logits of the newest steps, ``[M, num_actions]``; actions, returns-to-go
            and timesteps as the model read them; attention weights of each layer, or None.
        """
        num_rows, rows = len(env_indices), _pad_rows(env_indices, self._min_envs)
        returns_to_go = self._returns_to_go[rows]
        if shifts is not None:
            returns_to_go = returns_to_go + _pad_rows(shifts, self._min_envs)[:, None]
        if self._protocol.integer_returns:
            returns_to_go = returns_to_go.trunc()
        context = self._actions[rows, : self._context_length - 1], returns_to_go, self._timesteps[rows]
        output = self._model.predict(self._state_tokens[rows], *context, output_attentions=output_attentions)
        logits = output.action_logits[torch.arange(num_rows, device=self._device), newest_steps]
        actions, returns_to_go, timesteps = (values[:num_rows] for values in context)
        attentions = output.attentions and tuple(weights[:num_rows] for weights in output.attentions)
        return logits, (actions, returns_to_go, timesteps), attentions

    def _draw(self, env_indices: Ints, probabilities: npt.NDArray[np.float64]) -> Ints:
        """Draw an action for each environment from its own generator, by inverting the cumulative distribution."""
        draws = np.array([self._rngs[env_index].random() for env_index in env_indices])
        reached = probabilities.cumsum(-1) > draws[:, None]
        most_likely = probabilities.argmax(-1)  # where rounding leaves the cumulative sum below the draw
        return np.where(reached.any(-1), reached.argmax(-1), most_likely)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _pad_rows(rows: Tensor, min_rows: int) -> Tensor:
    """Repeat the first row until there are at least ``min_rows`` rows."""
    if len(rows) >= min_rows:
        return rows
    return torch.cat([rows, rows[:1].expand(min_rows - len(rows), *rows.shape[1:])])
