"""The network of the Trajectory Transformer (Janner et al. 2021, arXiv:2106.02039).

It is a causal transformer that predicts every token of a trajectory from those before it. The tokens are those of
`Discretizer`. Differences from the authors' code:

- An action of Atari is one token, its index. Tokens that an entry does not use have probability 0.
- There is no token for the end of an episode. Sequences never cross it, and padding is not trained on.
- Rewards are those of the data; the authors give -100 where an episode ends in a failure.
- The weights of the logits are drawn from the same distribution as all others.

As in the authors' code, no token attends to a value token, not even the value token itself. So a value tells later
tokens nothing, except for the first entry of the next observation, which is read from the value token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.discretizer import Discretizer
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.transformer import ALL_POSITIONS, Block, Dropout, init_weights
from atari_dt.model.weights import Shapes, network_shapes
from atari_dt.trajectory_config import NUM_EXTRA_TOKENS, TrajectoryTransformerConfig
from replay_data import InputError
from replay_data.observation import ObservationSpec


class TokenCache:
    """Keys and values of the tokens of R sequences, in every layer. All sequences have the same length.

    Value tokens have none, because no token attends to them.

    Args:
        shape: ``(layers, R, heads, tokens, head_dim)``, with the largest number of tokens that have keys.
        device: Device of the network.

    Attributes:
        length: Number of tokens of each sequence, value tokens included.
        num_keys: Number of them that have keys.
        keys: float32, of the shape above; what follows the first ``num_keys`` tokens has no meaning.
        values: As ``keys``.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self.length = self.num_keys = 0
        self.keys, self.values = torch.empty(2, *shape, device=device).unbind()

    def select(self, rows: Tensor) -> TokenCache:
        """Return a cache of the sequences at indices ``rows``, int64 ``[M]``; an index may occur several times."""
        layers, _, *shape = self.keys.shape
        cache = TokenCache((layers, len(rows), *shape), self.keys.device)
        cache.length, cache.num_keys = self.length, self.num_keys
        for old, new in ((self.keys, cache.keys), (self.values, cache.values)):
            for layer in range(layers):
                new[layer, :, :, : self.num_keys] = old[layer, rows, :, : self.num_keys]
        return cache


class TrajectoryBlock(Block):
    """A transformer block in which no token attends to the value tokens."""

    def attend(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Transform the first tokens of sequences.

        Args:
            x: Tokens ``[B, T, D]``.
            mask: 0 where a token attends to another, -inf elsewhere, float32 ``[T, T]``.

        Returns:
            ``(tokens, key, value)``: ``[B, T, D]``, and keys and values ``[B, heads, T, head_dim]``.
        """
        query, key, value = self._heads(x)
        if torch.is_grad_enabled() and not x.is_cuda:  # faster than the fused kernel, as in `CausalSelfAttention`
            with torch.autocast(x.device.type, enabled=False):  # autocast would convert the softmax's output to float32
                mask = mask.to(query.dtype)
                query, keys = query.flatten(0, 1) / math.sqrt(query.shape[-1]), key.flatten(0, 1)
                attention = torch.baddbmm(mask, query, keys.transpose(-2, -1)).softmax(-1)
                y = (self.attention.dropout(attention) @ value.flatten(0, 1)).view(value.shape)
        else:
            dropout = self.attention.dropout.p if self.training else 0.0
            y = F.scaled_dot_product_attention(query, key, value, mask.to(query.dtype), dropout)
        return self._add_attention(x, y), key, value

    def attend_cached(self, x: Tensor, layer: int, cache: TokenCache, attended: bool) -> Tensor:
        """Transform another token of each sequence.

        Args:
            x: Tokens ``[R, 1, D]``.
            layer: Index of the layer in the cache.
            cache: Cache of the sequences, which takes up keys and values of the token.
            attended: Whether other tokens attend to it.

        Returns:
            ``[R, 1, D]``.
        """
        query, key, value = self._heads(x)
        num_keys = cache.num_keys
        if attended:
            cache.keys[layer, :, :, num_keys], cache.values[layer, :, :, num_keys] = key[:, :, 0], value[:, :, 0]
            num_keys += 1
        keys, values = cache.keys[layer, :, :, :num_keys], cache.values[layer, :, :, :num_keys]
        return self._add_attention(x, F.scaled_dot_product_attention(query, keys, values))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of tokens ``[B, T, D]``, each ``[B, heads, T, head_dim]``."""
        query, key, value = self.attention.project(self.attention_norm(x), ALL_POSITIONS, rotation=None)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _add_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the attended values of all heads ``[B, heads, T, head_dim]`` and the perceptron to tokens."""
        return self._add_branches(x, self.attention.projection(y.transpose(1, 2).flatten(2)))


class TrajectoryTransformer(PretrainedModel):
    """Predict each token of a trajectory from those before it.

    A sequence consists of whole or partial steps of E tokens: V of the observation, action, reward, value. The token of
    an action is its index; `Discretizer` defines the others. Each entry has its own embedding of each token and its own
    weights of the logits.

    Args:
        config: Config of the network.
        num_actions: Size of the game's action set.
        observation: What the network observes, a vector of V entries.

    Attributes:
        tokens_per_step: E, which is V + 3.
        vocab_size: Largest number of tokens of an entry.
        max_tokens: Largest number of tokens of a sequence, all but the last value of ``config.sequence_length`` steps.
        discretizer: Tokens of the entries.

    Raises:
        InputError: If there are more actions than tokens.
    """

    config: TrajectoryTransformerConfig
    config_types = (TrajectoryTransformerConfig,)

    def __init__(self, config: TrajectoryTransformerConfig, num_actions: int, observation: ObservationSpec):
        super().__init__(config, num_actions, observation)
        if config.vocab_size < num_actions:
            raise InputError(
                f"`vocab_size` must be at least {num_actions}, the number of actions, not {config.vocab_size}"
            )
        (self._num_variables,) = observation.state_shape
        self.tokens_per_step = self._num_variables + NUM_EXTRA_TOKENS
        self.vocab_size = config.vocab_size
        self.max_tokens = config.sequence_length * self.tokens_per_step - 1
        self.discretizer = Discretizer(self.tokens_per_step, config.vocab_size)
        dim, num_rows = config.embed_dim, self.tokens_per_step * config.vocab_size
        self.token_embedding = nn.Embedding(num_rows, dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.position_embedding = nn.Parameter(torch.zeros(self.max_tokens, dim))
        self.embedding_dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            [TrajectoryBlock(dim, config.num_heads, config.dropout) for _ in range(config.num_layers)]
        )
        self.norm = nn.LayerNorm(dim)
        # One linear layer for the heads of all entries, so that its weights are decayed.
        self.head = nn.Linear(dim, num_rows, bias=False)
        self.blocks.apply(init_weights)
        init_weights(self.head)

    @classmethod
    def from_config(cls, config: CheckpointConfig) -> TrajectoryTransformer:
        """Return the untrained network that a checkpoint's ``config.json`` describes."""
        assert isinstance(config.model, TrajectoryTransformerConfig)
        return cls(config.model, config.num_actions, config.observation)

    @classmethod
    def shapes(cls, config: CheckpointConfig, num_tensors: int) -> Shapes:
        """Return the shape of each tensor of the state dict, without allocating them."""
        assert isinstance(config.model, TrajectoryTransformerConfig)

        def build(each: TrajectoryTransformerConfig) -> TrajectoryTransformer:
            return cls(each, config.num_actions, config.observation)

        return network_shapes(build, config.model, num_tensors)

    @classmethod
    def check_buffers(cls, config: CheckpointConfig, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError if bounds of tokens do not ascend, or the token of an action is not its index."""
        bounds = weights["discretizer.bounds"].float()
        if (bounds.diff(dim=1) < 0).any():
            raise ValueError("discretizer.bounds holds bounds that do not ascend")
        actions = torch.arange(config.num_actions)
        if not torch.equal(torch.searchsorted(bounds[-NUM_EXTRA_TOKENS], actions.float(), right=True), actions):
            raise ValueError("discretizer.bounds gives actions other tokens than their indices")

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the token that follows each token.

        Args:
            tokens: int64 ``[B, T]``, from the first token of a step on; T is at most `max_tokens`.

        Returns:
            float32 ``[B, T, vocab_size]``; -inf for tokens that the entry does not use.
        """
        x = self._embed(tokens, 0)
        mask = self._mask(tokens.shape[1])
        for block in self._blocks():
            x, _, _ = block.attend(x, mask)
        return self._logits(x)

    def start(self, tokens: Tensor) -> tuple[TokenCache, Tensor]:
        """Read the first tokens of sequences.

        Args:
            tokens: As in `forward`, int64 ``[R, T]``.

        Returns:
            ``(cache, logits)``, with the logits of the next token, float32 ``[R, vocab_size]``.
        """
        x = self._embed(tokens, 0)
        num_rows, num_tokens, dim = x.shape
        mask = self._mask(num_tokens)
        with_keys = torch.nonzero(~self._is_value(num_tokens))[:, 0]
        heads, num_keys = self.config.num_heads, self.config.sequence_length * (self.tokens_per_step - 1)
        cache = TokenCache((self.config.num_layers, num_rows, heads, num_keys, dim // heads), x.device)
        cache.length, cache.num_keys = num_tokens, len(with_keys)
        for layer, block in enumerate(self._blocks()):
            x, key, value = block.attend(x, mask)
            cache.keys[layer, :, :, : cache.num_keys] = key[:, :, with_keys]
            cache.values[layer, :, :, : cache.num_keys] = value[:, :, with_keys]
        return cache, self._next_logits(x[:, -1], num_tokens - 1)

    def extend(self, cache: TokenCache, tokens: Tensor) -> Tensor:
        """Read another token of each sequence, and return the logits of the next one.

        Args:
            cache: Cache of R sequences, which is changed in place.
            tokens: int64 ``[R]``.

        Returns:
            float32 ``[R, vocab_size]``.
        """
        x = self._embed(tokens[:, None], cache.length)
        attended = cache.length % self.tokens_per_step != self.tokens_per_step - 1
        for layer, block in enumerate(self._blocks()):
            x = block.attend_cached(x, layer, cache, attended)
        cache.length, cache.num_keys = cache.length + 1, cache.num_keys + attended
        return self._next_logits(x[:, 0], cache.length - 1)

    def encode_observations(self, states: Tensor) -> Tensor:
        """Return the tokens of states, uint8 or float ``[..., V]``, as int64 ``[..., V]``."""
        return self.discretizer.encode(states, slice(self._num_variables))

    def encode_steps(self, states: Tensor, actions: Tensor, rewards: Tensor, values: Tensor) -> Tensor:
        """Return the tokens of steps.

        Args:
            states: uint8 or float ``[B, n, V]``.
            actions: int64 ``[B, n]``.
            rewards: In the units of the dataset, float32 ``[B, n]``.
            values: Discounted sum of the rewards after each step, float32 ``[B, n]``.

        Returns:
            int64 ``[B, n · tokens_per_step]``.
        """
        others = torch.stack([actions.float(), rewards, values], dim=-1)
        return self.discretizer.encode(torch.cat([states.float(), others], dim=-1)).flatten(1)

    def decode_observations(self, tokens: Tensor) -> Tensor:
        """Return the observations of tokens, int64 ``[..., V]``, as float32 ``[..., V]``."""
        return self.discretizer.decode(tokens, slice(self._num_variables))

    def decode_reward(self, tokens: Tensor) -> Tensor:
        """Return the rewards of reward tokens, int64 ``[...]``, as float32 ``[...]``."""
        return self.discretizer.means[-2][tokens]

    def decode_value(self, tokens: Tensor) -> Tensor:
        """Return the values of value tokens, int64 ``[...]``, as float32 ``[...]``."""
        return self.discretizer.means[-1][tokens]

    def expected_reward(self, logits: Tensor) -> Tensor:
        """Return the mean reward under logits of reward tokens, ``[..., vocab_size]``, as float32 ``[...]``."""
        return self.discretizer.expectation(logits, -2)

    def expected_value(self, logits: Tensor) -> Tensor:
        """Return the mean value under logits of value tokens, ``[..., vocab_size]``, as float32 ``[...]``."""
        return self.discretizer.expectation(logits, -1)

    def _blocks(self) -> list[TrajectoryBlock]:
        return [block for block in self.blocks if isinstance(block, TrajectoryBlock)]

    def _is_value(self, num_tokens: int) -> Tensor:
        """Return which of the first tokens of a sequence are value tokens, bool ``[T]``."""
        positions = torch.arange(num_tokens, device=self.position_embedding.device)
        return positions % self.tokens_per_step == self.tokens_per_step - 1

    def _mask(self, num_tokens: int) -> Tensor:
        """Return 0 where a token attends to another and -inf elsewhere, float32 ``[T, T]``."""
        device = self.position_embedding.device
        future = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device).triu(1)
        hidden = future | self._is_value(num_tokens)
        return torch.zeros(num_tokens, num_tokens, device=device).masked_fill(hidden, -math.inf)

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        """Embed tokens ``[B, T]``, the first of which has the position ``start`` in its sequence."""
        end = start + tokens.shape[1]
        if end > self.max_tokens:
            raise ValueError(f"a sequence has at most {self.max_tokens} tokens, not {end}")
        entries = torch.arange(start, end, device=tokens.device) % self.tokens_per_step
        x = self.token_embedding(tokens + self.vocab_size * entries) + self.position_embedding[start:end]
        return self.embedding_dropout(x)

    def _bias(self) -> Tensor:
        """Return 0 for tokens of the next entry that can occur and -inf for others, float32 ``[E, vocab_size]``."""
        used = self.discretizer.used
        used[self._num_variables, self.num_actions :] = False
        bias = torch.zeros(used.shape, device=used.device).masked_fill(~used, -math.inf)
        return bias.roll(-1, dims=0)

    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits of the tokens that follow tokens ``[B, T, D]``, float32 ``[B, T, vocab_size]``."""
        num_tokens = x.shape[1]
        padded = F.pad(self.norm(x), (0, 0, 0, -num_tokens % self.tokens_per_step))
        heads = self.head.weight.unflatten(0, (self.tokens_per_step, self.vocab_size))
        logits = torch.einsum("bsed,evd->bsev", padded.unflatten(1, (-1, self.tokens_per_step)), heads)
        return (logits.float() + self._bias()).flatten(1, 2)[:, :num_tokens]

    def _next_logits(self, x: Tensor, position: int) -> Tensor:
        """Return the logits of the tokens that follow the tokens ``[R, D]`` at a position, float32 ``[R, vocab]``."""
        entry = position % self.tokens_per_step
        head = self.head.weight[entry * self.vocab_size : (entry + 1) * self.vocab_size]
        return F.linear(self.norm(x), head).float() + self._bias()[entry]
