"""Keys and values of earlier tokens, so that a new step costs the model only its own tokens.

A token attends to the tokens of its own step and of the K - 1 steps before it, as in a context of K steps. The keys and
values are those that were computed when the tokens were new: those of deeper layers have seen older tokens than a
context that starts K steps ago contains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from atari_dt.config import ModelConfig


class KeyValueCache:
    """Keys and values of the last K + 1 steps of N episodes, in every layer.

    The token at position p of an episode is in slot p mod S, where S is the number of tokens of K + 1 steps. Position 0
    is the first token of the episode. The K + 1st step is there because a step arrives together with the action of the
    step before, which attends to one step more.

    Args:
        config: Config of the network, which must be cacheable.
        num_episodes: N.
        device: Device of the network.
    """

    def __init__(self, config: ModelConfig, num_episodes: int, device: torch.device):
        self._context_length = config.context_length
        self._tokens_per_step = config.tokens_per_step
        self._num_slots = config.tokens_per_step * (config.context_length + 1)
        head_dim = config.embed_dim // config.num_heads
        shape = config.num_layers, num_episodes, self._num_slots, config.num_heads, head_dim
        self._keys, self._values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def new_tokens(self, rows: Tensor, steps: Tensor) -> NewTokens:
        """Return where the new tokens of M episodes are, and what they attend to.

        The new tokens are the action of the step before, and all tokens of a step but its action, which is not chosen
        yet. In the first step of an episode, the token of the step before is at position -1, where no other token
        attends to it.

        Args:
            rows: Indices of the episodes in the cache, int64 ``[M]``.
            steps: Number of earlier steps of each episode, int64 ``[M]``.
        """
        per_step = self._tokens_per_step
        positions = new_positions(steps, per_step)
        newest = positions[:, -1:]
        held = newest - (newest - torch.arange(self._num_slots, device=steps.device)) % self._num_slots
        oldest = per_step * (positions // per_step - self._context_length + 1).clamp(min=0)
        held, queries = held[:, None], positions[:, :, None]
        visible = (held >= oldest[:, :, None]) & (held <= queries) | (held == queries)
        bias = torch.zeros(visible.shape, device=steps.device).masked_fill_(~visible, -math.inf)
        num_episodes = self._keys.shape[1]
        is_all = len(rows) == num_episodes and torch.equal(rows, torch.arange(num_episodes, device=rows.device))
        return NewTokens(self._keys, self._values, rows, is_all, positions % self._num_slots, bias[:, None])


def new_positions(steps: Tensor, tokens_per_step: int) -> Tensor:
    """Return the positions in their episodes of the tokens that come with a step, int64 ``[M, tokens_per_step]``.

    These are the action of the step before, and all tokens of the step but its action.

    Args:
        steps: Number of earlier steps of each episode, int64 ``[M]``.
        tokens_per_step: Number of tokens of a step.
    """
    return tokens_per_step * steps[:, None] + torch.arange(-1, tokens_per_step - 1, device=steps.device)


@dataclass(frozen=True)
class NewTokens:
    """Tokens of M episodes that a `KeyValueCache` is about to take up, Q of each episode.

    Attributes:
        keys: Keys of the cache ``[layers, N, S, heads, head_dim]``.
        values: Values of the cache, of the same shape.
        rows: Indices of the episodes in the cache, int64 ``[M]``.
        is_all: Whether the rows are all episodes of the cache, in order, so that it need not be copied.
        slots: Slots of the new tokens, int64 ``[M, Q]``.
        bias: 0 where a new token attends to a slot and -inf elsewhere, float32 ``[M, 1, Q, S]``.
    """

    keys: Tensor
    values: Tensor
    rows: Tensor
    is_all: bool
    slots: Tensor
    bias: Tensor

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of the new tokens; return those of all slots.

        Args:
            layer: Index of the layer.
            key: ``[M, Q, heads, head_dim]``.
            value: ``[M, Q, heads, head_dim]``.

        Returns:
            ``(keys, values)``, each ``[M, S, heads, head_dim]``.
        """
        results = []
        for cached, new in ((self.keys[layer], key), (self.values[layer], value)):
            cached[self.rows[:, None], self.slots] = new
            results.append(cached if self.is_all else cached[self.rows])
        return results[0], results[1]
