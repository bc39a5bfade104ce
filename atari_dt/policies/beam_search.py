"""Beam search with a sequence model of trajectories (Janner et al. 2021, arXiv:2106.02039, section 3.2).

Each step is a number of tokens: those of the observation, then action, reward and value. The search extends sequences
by one step at a time, and keeps those with the largest predicted return: the sum of the discounted rewards up to the
step and of the discounted value after it. Unlike the paper, it does not sample actions: there are few of them, so that
it extends every sequence with each of the most likely ones. Ties go to the more likely action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.policy import Floats, Ints
from atari_dt.policies.predictors import MIN_STATES, pad_rows

MIN_TOKENS = 64  # of a forward pass of whole sequences; see MIN_STATES

MAX_SEQUENCES = {"cpu": 512, "cuda": 8192}
"""Largest number of sequences of one search, by type of device. It bounds the memory of the cache: more games are
searched in groups, one after another, which takes a CPU no longer. The search of a single game may have
more, as its settings allow."""

CacheT = TypeVar("CacheT", bound="SequenceCache")


class SequenceCache(Protocol):
    """What a model keeps of the tokens of R sequences, so that another token costs it only that token."""

    def select(self: CacheT, rows: Tensor) -> CacheT:
        """Return the cache of the sequences at indices ``rows``, int64 ``[M]``; an index may occur several times."""


class SequenceModel(Protocol[CacheT]):
    """Model that predicts the tokens of trajectories one after the other.

    Logits of tokens that cannot come next are -inf. The token of an action is its index.
    """

    @property
    def tokens_per_step(self) -> int:
        """Number of tokens of a step: those of the observation, then action, reward and value."""

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens in a sequence: all but the last value of a number of steps."""

    @property
    def num_actions(self) -> int:
        """Number of actions."""

    def start(self, tokens: Tensor) -> tuple[CacheT, Tensor]:
        """Read the first tokens of R sequences.

        Args:
            tokens: int64 ``[R, T]``.

        Returns:
            ``(cache, logits)``, with the logits of the next token, float32 ``[R, vocab_size]``.
        """

    def extend(self, cache: CacheT, tokens: Tensor) -> Tensor:
        """Read another token of each sequence, int64 ``[R]``; return the logits of the next one.

        The cache is changed in place.
        """

    def expected_reward(self, logits: Tensor) -> Tensor:
        """Return the mean reward under the logits of reward tokens, float32 ``[R]``."""

    def expected_value(self, logits: Tensor) -> Tensor:
        """Return the mean value under the logits of value tokens, float32 ``[R]``."""

    def decode_observations(self, tokens: Tensor) -> Tensor:
        """Return the observations of tokens ``[..., V]``, float32 ``[..., V]``."""


@dataclass(frozen=True)
class Plans:
    """The best plan of H steps of each of M games.

    Attributes:
        observations: Observation at each step, the current one first, float32 ``[M, H, V]``; tokens are decoded, so
            that the current one has the error of the discretization.
        actions: Action at each step, int64 ``[M, H]``.
        rewards: Expected reward of each step, float32 ``[M, H]``.
        values: Expected value after each step, float32 ``[M, H]``.
        scores: Predicted return of the plan, float32 ``[M]``.
    """

    observations: Floats
    actions: Ints
    rewards: Floats
    values: Floats
    scores: Floats

    @classmethod
    def join(cls, parts: Sequence[tuple[Ints, Plans]]) -> Plans:
        """Return the plans of all games.

        Args:
            parts: Indices of some of the games, int64 ``[M]``, and their plans.
        """
        order = np.argsort(np.concatenate([games for games, _ in parts]))
        columns = zip(*(vars(plans).values() for _, plans in parts), strict=True)
        return cls(*(np.concatenate(column)[order] for column in columns))


class ImaginedSequences(Generic[CacheT]):
    """Sequences of tokens that a model continues.

    A sequence that is full starts over from its last ``context`` steps.

    Args:
        model: Model in evaluation mode.
        tokens: Whole steps and the observation of the current step, int64 ``[R, T]``.
        context: Number of steps to start over from, less than the model's largest number.

    Attributes:
        tokens: All tokens so far, int64 ``[R, T]``.
    """

    def __init__(self, model: SequenceModel[CacheT], tokens: Tensor, context: int):
        self._model = model
        self._num_variables = model.tokens_per_step - 3
        self._restart_tokens = context * model.tokens_per_step
        self.tokens, self._num_tokens = tokens, tokens.shape[1]  # the second: those that the model has read
        self._cache, self._logits = model.start(pad_rows(tokens, -(-MIN_TOKENS // tokens.shape[1])))

    @property
    def logits(self) -> Tensor:
        """Logits of the next token, float32 ``[R, vocab_size]``."""
        return self._logits[: len(self.tokens)]

    def append(self, tokens: Tensor) -> None:
        """Append a token to each sequence, int64 ``[R]``."""
        self.tokens = torch.cat([self.tokens, tokens[:, None]], dim=1)
        if self._num_tokens == self._model.max_tokens:
            newest = self.tokens[:, -self._restart_tokens :]
            self._cache, self._logits = self._model.start(pad_rows(newest, MIN_STATES))
            self._num_tokens = newest.shape[1]
            return
        if len(self._logits) < MIN_STATES:
            self._select(torch.arange(len(tokens), device=tokens.device))
        self._logits = self._model.extend(self._cache, pad_rows(tokens, len(self._logits)))
        self._num_tokens += 1

    def append_most_likely(self) -> None:
        """Append the most likely token to each sequence."""
        self.append(self.logits.argmax(-1))

    def append_observation(self, rngs: Sequence[np.random.Generator], top_k: int) -> None:
        """Append the tokens of an observation to each sequence.

        Args:
            rngs: Generators of M games, each of which has an equal share of the sequences, in order.
            top_k: Number of most likely tokens that each token is sampled from.
        """
        for _ in range(self._num_variables):
            if top_k == 1:
                self.append_most_likely()
                continue
            likely = self.logits.topk(min(top_k, self.logits.shape[-1]))
            draws = np.concatenate([rng.random(len(self.tokens) // len(rngs)) for rng in rngs])
            reached = likely.values.double().softmax(-1).cumsum(-1)[:, :-1]
            passed = (reached <= torch.from_numpy(draws[:, None]).to(reached.device)).sum(-1, keepdim=True)
            self.append(likely.indices.gather(-1, passed)[:, 0])

    def select(self, rows: Tensor) -> None:
        """Replace the sequences by those at the indices ``rows``, int64 ``[R]``."""
        self.tokens = self.tokens[rows]
        self._select(rows)

    def _select(self, rows: Tensor) -> None:
        """Select rows of what the model keeps, and copy the first one until there are enough of them."""
        rows = pad_rows(rows, MIN_STATES)
        self._cache, self._logits = self._cache.select(rows), self._logits[rows]


class BeamSearch(Generic[CacheT]):
    """Search for the actions with the largest predicted return.

    The cost is that of (H - 1) (V + 3) + 2 forward passes of one token, where H is the horizon, besides that of the
    first tokens. Those of actions and rewards run for ``beam_width * action_top_k`` sequences of each game, those of
    values and observations for ``beam_width``.

    Args:
        model: Model in evaluation mode.
        config: Settings of the search.
        discount: Discount of rewards and values.
    """

    def __init__(self, model: SequenceModel[CacheT], config: PlanningConfig, discount: float):
        self._model, self._config, self._discount = model, config, discount

    @torch.inference_mode()
    def plan(self, tokens: Tensor, rngs: Sequence[np.random.Generator]) -> Plans:
        """Return the best plan of each of M games.

        Args:
            tokens: Whole steps and the observation of the current step, int64 ``[M, T]``.
            rngs: Generator of each game; only samples of observations use it.
        """
        widest = self._config.beam_width * min(self._config.action_top_k, self._model.num_actions)
        size = max(1, MAX_SEQUENCES[tokens.device.type] // widest)
        parts = [
            (
                np.arange(first, min(first + size, len(tokens))),
                self._plan(tokens[first : first + size], rngs[first : first + size]),
            )
            for first in range(0, len(tokens), size)
        ]
        return Plans.join(parts)

    def _plan(self, tokens: Tensor, rngs: Sequence[np.random.Generator]) -> Plans:
        """Return the plans of games that are searched together; see `plan`."""
        model, config, num_games = self._model, self._config, len(tokens)
        sequences = ImaginedSequences(model, tokens, config.context)
        rewards, values = torch.zeros(2, num_games, 0, device=tokens.device)
        for step in range(config.horizon):
            if step:
                sequences.append_most_likely()
                sequences.append_observation(rngs, config.observation_top_k)
            actions = sequences.logits.topk(min(config.action_top_k, model.num_actions)).indices
            parents = torch.arange(len(actions), device=tokens.device).repeat_interleave(actions.shape[1])
            sequences.select(parents)
            sequences.append(actions.flatten())
            rewards = torch.cat([rewards[parents], model.expected_reward(sequences.logits)[:, None]], dim=1)
            sequences.append_most_likely()
            values = torch.cat([values[parents], model.expected_value(sequences.logits)[:, None]], dim=1)
            scores = self._predicted_returns(rewards, values).reshape(num_games, -1)
            if step < config.horizon - 1 and scores.shape[1] > config.beam_width:
                kept = scores.sort(descending=True, stable=True).indices[:, : config.beam_width]
                rows = _rows(kept, scores.shape[1]).flatten()
                sequences.select(rows)
                rewards, values = rewards[rows], values[rows]
        best = scores.argmax(1, keepdim=True)
        rows = _rows(best, scores.shape[1])[:, 0]
        num_variables = model.tokens_per_step - 3
        planned = sequences.tokens[rows, tokens.shape[1] - num_variables :]
        planned = F.pad(planned, (0, 1)).reshape(num_games, config.horizon, -1)  # the last value has no token
        observations, actions = model.decode_observations(planned[..., :num_variables]), planned[..., num_variables]
        arrays = observations, actions, rewards[rows], values[rows], scores.gather(1, best)[:, 0]
        return Plans(*(array.cpu().numpy() for array in arrays))

    def _predicted_returns(self, rewards: Tensor, values: Tensor) -> Tensor:
        """Return the predicted returns of sequences of t steps, float32 ``[R]``.

        Args:
            rewards: float32 ``[R, t]``.
            values: Value after each step, float32 ``[R, t]``; the last one counts.
        """
        num_steps = rewards.shape[1]
        discounts = self._discount ** torch.arange(num_steps + 1, device=rewards.device)
        # Not a matrix product, whose rounding depends on the number of rows.
        return (torch.cat([rewards, values[:, -1:]], dim=1) * discounts).sum(1)


def _rows(indices: Tensor, sequences_per_game: int) -> Tensor:
    """Return the rows of sequences, given as indices among those of their games, int64 ``[M, B]``."""
    return indices + sequences_per_game * torch.arange(len(indices), device=indices.device)[:, None]


@torch.inference_mode()
def imagine_observations(model: SequenceModel[CacheT], tokens: Tensor, actions: Tensor, context: int) -> Tensor:
    """Return the most likely observations under given actions, float32 ``[R, H, V]``.

    The model predicts the rewards and values too: nothing but the actions is known after the first observation.

    Args:
        model: Model in evaluation mode.
        tokens: Whole steps and the observation of the current step, int64 ``[R, T]``.
        actions: Actions from the current step on, int64 ``[R, H]``.
        context: Number of steps to start over from when a sequence is full.

    Returns:
        Observations after each action.
    """
    sequences = ImaginedSequences(model, tokens, context)
    num_variables = model.tokens_per_step - 3
    observations = []
    for action in actions.unbind(1):
        sequences.append(action)  # its logits are those of the reward
        for _ in range(2 + num_variables):
            sequences.append_most_likely()
        observations.append(model.decode_observations(sequences.tokens[:, -num_variables:]))
    return torch.stack(observations, dim=1)
