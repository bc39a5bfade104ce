"""What a policy remembers of its episodes, and how it predicts the next action from it.

`WindowPredictor` runs the model on the last K steps of each episode. `CachePredictor` runs it on the newest step and
keeps the keys and values of earlier ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.hf_decision_transformer import HFDecisionTransformer
from atari_dt.model.key_value_cache import KeyValueCache
from atari_dt.policies.policy import Floats, Ints
from atari_dt.policies.protocol import EvaluationProtocol

# Smallest batches to run. For smaller ones, matrix libraries choose kernels that sum in another order. The logits would
# then depend on the number of environments in their last bit, and about one action in a million would change.
MIN_STATES = 12

_MIN_TOKENS = 64

ContextModel: TypeAlias = DecisionTransformer | HFDecisionTransformer
"""Model that predicts actions from the last K steps."""


class Predictor(Protocol):
    """Predictor of the actions of N environments."""

    def predict(self, env_indices: Ints, elapsed: Ints, state_tokens: Tensor, returns_to_go: Floats) -> Tensor:
        """Add a step to the episodes of M environments and predict its action.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            elapsed: Number of earlier steps of each episode, int64 ``[M]``; 0 starts a new one.
            state_tokens: What the model's ``encode_states`` returned, float32 ``[M, state_token_size]``.
            returns_to_go: Returns-to-go before the step, float32 ``[M]``.

        Returns:
            Action logits, float32 ``[M, num_actions]``.
        """

    def add_actions(self, env_indices: Ints, elapsed: Ints, actions: Ints) -> None:
        """Add the actions that were chosen in the step that was predicted last.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            elapsed: As in that call, int64 ``[M]``.
            actions: Action indices, int64 ``[M]``.
        """


class ForwardPass(NamedTuple):
    """Inputs and outputs of a forward pass of `WindowPredictor` for M environments.

    Contexts are left-aligned; values after the newest step are undefined. Tensors are on the model's device.

    Attributes:
        state_tokens: What the model's ``encode_states`` returned, float32 ``[M, K, state_token_size]``.
        actions: Past actions, int64 ``[M, K - 1]``.
        returns_to_go: Returns-to-go as the model read them, float32 ``[M, K]``.
        timesteps: Timesteps as the model read them, int64 ``[M, K]``.
        logits: Action logits of the newest step, float32 ``[M, num_actions]``.
        attentions: Attention weights of each layer, float32 ``[M, heads, T, T]``; None unless requested.
    """

    state_tokens: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    logits: Tensor
    attentions: tuple[Tensor, ...] | None


class WindowPredictor:
    """Predictor that runs the model on the last K steps of each environment.

    Contexts are left-aligned, so environments in their first K steps and environments later in their episodes share one
    forward pass.

    Args:
        model: Model in evaluation mode, on the device it plays on.
        num_envs: N.
        protocol: Returns and timesteps that the model reads.
        output_attentions: Whether to keep attention weights in ``last_pass``.

    Attributes:
        last_pass: Inputs and outputs of the last call of `predict`; None before the first one.
    """

    last_pass: ForwardPass | None = None

    def __init__(
        self, model: ContextModel, num_envs: int, protocol: EvaluationProtocol, output_attentions: bool = False
    ):
        self._model, self._protocol, self._output_attentions = model, protocol, output_attentions
        self._device = next(model.parameters()).device
        self._context_length = model.config.context_length
        self._min_envs = -(-_MIN_TOKENS // (self._context_length * model.config.tokens_per_step - 1))
        shape = num_envs, self._context_length
        self._state_tokens = torch.zeros(*shape, model.state_token_size, device=self._device)
        self._actions = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._returns_to_go = torch.zeros(shape, device=self._device)
        self._timesteps = torch.zeros(shape, dtype=torch.int64, device=self._device)

    def predict(self, env_indices: Ints, elapsed: Ints, state_tokens: Tensor, returns_to_go: Floats) -> Tensor:
        """Add a step to the episodes of M environments and predict its action; see `Predictor.predict`."""
        self._drop_oldest_step(env_indices[elapsed >= self._context_length])
        newest = self._newest(env_indices, elapsed)
        self._state_tokens[newest] = state_tokens
        self._returns_to_go[newest] = self._tensor(returns_to_go)
        self._timesteps[newest] = self._tensor(elapsed)
        if self._protocol.window_timestep == "current":
            self._timesteps[newest[0], 0] = self._tensor(elapsed)
        self.last_pass = self._run(*newest, output_attentions=self._output_attentions)
        return self.last_pass.logits

    def add_actions(self, env_indices: Ints, elapsed: Ints, actions: Ints) -> None:
        """Add the actions that were chosen in the step that was predicted last; see `Predictor.add_actions`."""
        self._actions[self._newest(env_indices, elapsed)] = self._tensor(actions)

    def predict_again(self, env_indices: Ints, elapsed: Ints, shifts: Floats) -> Tensor:
        """Return the logits of the last `predict` under other target returns, given the same history.

        Args:
            env_indices: Environments of that call, int64 ``[M]``.
            elapsed: As in that call, int64 ``[M]``.
            shifts: Differences of R target returns from the played one, float32 ``[R]``; added to every return-to-go of
                the context.

        Returns:
            Action logits, float32 ``[M * R, num_actions]``.
        """
        rows, newest_steps = (each.repeat_interleave(len(shifts)) for each in self._newest(env_indices, elapsed))
        return self._run(rows, newest_steps, self._tensor(np.tile(shifts, len(env_indices)))).logits

    def _newest(self, env_indices: Ints, elapsed: Ints) -> tuple[Tensor, Tensor]:
        """Return the environments and the index of the newest step in the context of each, both int64 ``[M]``."""
        return self._tensor(env_indices), self._tensor(np.minimum(elapsed, self._context_length - 1))

    def _drop_oldest_step(self, env_indices: Ints) -> None:
        """Make room for a step in contexts that are full."""
        if len(env_indices):
            rows = self._tensor(env_indices)
            for history in (self._state_tokens, self._actions, self._returns_to_go, self._timesteps):
                history[rows] = history[rows].roll(-1, dims=1)

    def _run(
        self, env_indices: Tensor, newest_steps: Tensor, shifts: Tensor | None = None, output_attentions: bool = False
    ) -> ForwardPass:
        """Run the model on the contexts of M environments.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            newest_steps: Index of the newest step in each context, int64 ``[M]``.
            shifts: Values added to the returns-to-go of each context, float32 ``[M]``.
            output_attentions: Whether to return attention weights.
        """
        num_rows, rows = len(env_indices), pad_rows(env_indices, self._min_envs)
        returns_to_go = self._returns_to_go[rows]
        if shifts is not None:
            returns_to_go = returns_to_go + pad_rows(shifts, self._min_envs)[:, None]
        returns_to_go = read_returns(returns_to_go, self._model, self._protocol)
        context = self._actions[rows, : self._context_length - 1], returns_to_go, self._timesteps[rows]
        newest = pad_rows(newest_steps, self._min_envs)
        mask = torch.arange(self._context_length, device=self._device) <= newest[:, None]
        # The last block needs one state token of each context, if that leaves it enough tokens.
        steps = newest if num_rows >= MIN_STATES else None
        state_tokens = self._state_tokens[rows]
        output = self._model.predict(
            state_tokens, *context, mask, output_attentions=output_attentions, selected_steps=steps
        )
        logits = output.action_logits[:num_rows, 0]
        if steps is None:
            logits = output.action_logits[torch.arange(num_rows, device=self._device), newest_steps]
        attentions = output.attentions and tuple(weights[:num_rows] for weights in output.attentions)
        actions, returns_to_go, timesteps = (values[:num_rows] for values in context)
        return ForwardPass(state_tokens[:num_rows], actions, returns_to_go, timesteps, logits, attentions)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


class CachePredictor:
    """Predictor that runs the model on the newest step of each environment, with cached keys and values.

    Args:
        model: Model in evaluation mode, on the device it plays on; its config must be cacheable.
        num_envs: N.
        protocol: Returns that the model reads.
    """

    def __init__(self, model: DecisionTransformer, num_envs: int, protocol: EvaluationProtocol):
        self._model, self._protocol = model, protocol
        self._device = next(model.parameters()).device
        self._cache = KeyValueCache(model.config, num_envs, self._device)
        self._actions = torch.zeros(num_envs, dtype=torch.int64, device=self._device)

    def predict(self, env_indices: Ints, elapsed: Ints, state_tokens: Tensor, returns_to_go: Floats) -> Tensor:
        """Add a step to the episodes of M environments and predict its action; see `Predictor.predict`."""
        rows = torch.from_numpy(env_indices).to(self._device)
        returns = read_returns(torch.from_numpy(returns_to_go).to(self._device), self._model, self._protocol)
        steps = torch.from_numpy(elapsed).to(self._device)
        inputs = steps, self._actions[rows], returns, state_tokens
        return self._model.extend(self._cache, rows, *(pad_rows(each, MIN_STATES) for each in inputs))

    def add_actions(self, env_indices: Ints, elapsed: Ints, actions: Ints) -> None:
        """Add the actions that were chosen in the step that was predicted last; see `Predictor.add_actions`."""
        self._actions[torch.from_numpy(env_indices)] = torch.from_numpy(actions).to(self._device)


def read_returns(returns_to_go: Tensor, model: ContextModel, protocol: EvaluationProtocol) -> Tensor:
    """Return returns-to-go as a model reads them under a protocol.

    A return-to-go falls below those of the training data once an episode achieves more than its target return.

    Args:
        returns_to_go: float32 ``[...]``.
        model: Model, whose config says if its returns-to-go are limited.
        protocol: Protocol, which says if they are integers.
    """
    smallest = model.dataset.min_return_to_go if model.config.limit_returns and model.dataset is not None else None
    if smallest is not None:
        returns_to_go = returns_to_go.clamp(min=smallest)
    return returns_to_go.trunc() if protocol.integer_returns else returns_to_go


def pad_rows(rows: Tensor, min_rows: int) -> Tensor:
    """Repeat the first row until there are at least ``min_rows`` rows."""
    if len(rows) >= min_rows:
        return rows
    return torch.cat([rows, rows[:1].expand(min_rows - len(rows), *rows.shape[1:])])
