"""A causal transformer with GPT-2's pre-norm blocks and minGPT's initialization, as in the paper.

With rotary position encoding, which the paper does not use, queries and keys are rotated by their positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.model.key_value_cache import NewTokens

ALL_POSITIONS = slice(None)

HeadEditor: TypeAlias = Callable[[Tensor, slice], Tensor]
"""Function from the outputs of the heads of a layer at Q tokens, ``[B, Q, heads * head_dim]``, and the positions of
these tokens to the outputs that replace them."""


class Dropout(nn.Module):
    """Dropout that is fast on a CPU.

    On a CPU this class draws 16 random bits per element, which takes a quarter of the time of PyTorch's dropout, which
    draws 32 bits per element one after another. The probability is then the multiple of 2⁻¹⁶ nearest to ``p``, and the
    scale of the remaining elements matches it. On other devices, and in compiled code, this is PyTorch's dropout.

    Args:
        p: Probability of zeroing an element.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """In training mode, zero random elements of ``x`` and scale the others up; otherwise return ``x``."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not self.training or not self.p:
            return F.dropout(x, self.p, self.training)
        size, threshold = x.numel(), min(round(self.p * 2**16), 2**16 - 1)
        random_words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        mask = random_words.view(torch.int16)[:size].view(x.shape) >= threshold - 2**15
        return x * mask.to(x.dtype) * (2**16 / (2**16 - threshold))


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token attends to itself and to earlier tokens.

    Args:
        embed_dim: D, dimension of a token.
        num_heads: Number of attention heads.
        dropout: Dropout probability of the attention weights.

    Attributes:
        edit_heads: Function that replaces the outputs of the heads before the output projection; None to keep them.
    """

    edit_heads: HeadEditor | None = None

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = Dropout(dropout)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(
        self,
        x: Tensor,
        query_positions: slice = ALL_POSITIONS,
        output_attention: bool = False,
        rotation: Tensor | None = None,
        selection: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention from some tokens to all tokens.

        Args:
            x: Tokens ``[B, T, D]``.
            query_positions: Positions of the Q tokens to compute; all by default.
            output_attention: Whether to return the attention weights.
            rotation: Rotation of queries and keys, from `rotation_table`; None without rotary position encoding.
            selection: As in `select`.

        Returns:
            ``(y, attention)``: ``[B, Q, D]``, and attention weights ``[B, heads, Q, T]``, whose rows sum to 1, or None.
        """
        num_tokens = x.shape[1]
        query, key, value = (heads.transpose(1, 2) for heads in self.project(x, query_positions, rotation))
        attention = None
        # For short sequences on a CPU, the backward pass of the fused kernel is slower than that of this code.
        if output_attention or (torch.is_grad_enabled() and not x.is_cuda):
            with torch.autocast(x.device.type, enabled=False):  # autocast would convert the softmax's output to float32
                future = torch.full((num_tokens, num_tokens), -math.inf, dtype=query.dtype, device=x.device).triu(1)
                scores = torch.baddbmm(
                    future[query_positions],
                    query.flatten(0, 1) / math.sqrt(query.shape[-1]),
                    key.flatten(0, 1).transpose(-2, -1),
                )
                attention = scores.softmax(-1).view(*query.shape[:-1], num_tokens)
                y = self.dropout(attention) @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            if query_positions == ALL_POSITIONS:
                y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
            else:
                past = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=x.device).tril()[query_positions]
                y = F.scaled_dot_product_attention(query, key, value, past, dropout)
        y = rearrange(y, "b h q d -> b q (h d)")
        if self.edit_heads is not None:
            y = self.edit_heads(y, query_positions)
        return self.projection(select(y, selection)), attention if output_attention else None

    def extend(self, x: Tensor, layer: int, new_tokens: NewTokens, query_positions: slice, rotation: Tensor) -> Tensor:
        """Compute attention from new tokens to cached tokens, which the new ones join.

        Args:
            x: New tokens ``[P, T, D]`` of M episodes. Rows after M are padding for the linear layers.
            layer: Index of the layer in the cache.
            new_tokens: Place of the new tokens in the cache.
            query_positions: Positions in ``x`` of the Q tokens to compute.
            rotation: Rotation of the new tokens, from `rotation_table`.

        Returns:
            ``[P, Q, D]``.

        Raises:
            ValueError: If ``edit_heads`` is set: cached tokens have no position in a context.
        """
        if self.edit_heads is not None:
            raise ValueError("the outputs of heads cannot be edited with a cache")
        num_episodes = len(new_tokens.rows)
        query, key, value = (heads[:num_episodes] for heads in self.project(x, query_positions, rotation))
        keys, values = new_tokens.store(layer, key, value)
        query, keys, values = (heads.transpose(1, 2) for heads in (query, keys, values))
        y = F.scaled_dot_product_attention(query, keys, values, new_tokens.bias[:, :, query_positions])
        y = rearrange(y, "b h q d -> b q (h d)")
        return self.projection(F.pad(y, (0, 0, 0, 0, 0, len(x) - num_episodes)))

    def project(self, x: Tensor, query_positions: slice, rotation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries ``[B, Q, heads, head_dim]``, and keys and values ``[B, T, heads, head_dim]``."""
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(x[:, query_positions], weight[:dim], bias[:dim])
        query = rearrange(query, "b q (h d) -> b q h d", h=self.num_heads)
        key_value = F.linear(x, weight[dim:], bias[dim:])
        key, value = rearrange(key_value, "b t (n h d) -> n b t h d", n=2, h=self.num_heads).unbind(0)
        if rotation is not None:
            query, key = rotate(query, rotation[..., query_positions, :, :, :]), rotate(key, rotation)
        return query, key, value


class Block(nn.Module):
    """Pre-norm transformer block: attention and a perceptron of width 4D, each with a residual connection.

    Args:
        embed_dim: D, dimension of a token.
        num_heads: Number of attention heads.
        dropout: Dropout probability of attention weights and residual branches.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = CausalSelfAttention(embed_dim, num_heads, dropout)
        self.mlp_norm = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, 4 * embed_dim)
        self.contract = nn.Linear(4 * embed_dim, embed_dim)
        self.residual_dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        query_positions: slice = ALL_POSITIONS,
        output_attention: bool = False,
        rotation: Tensor | None = None,
        selection: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform the tokens at some positions.

        Args:
            x: Tokens ``[B, T, D]``.
            query_positions: Positions of the Q tokens to compute; all by default.
            output_attention: Whether to return the attention weights.
            rotation: Rotation of queries and keys, from `rotation_table`; None without rotary position encoding.
            selection: As in `select`.

        Returns:
            ``(tokens, attention)``: ``[B, Q, D]``, and attention weights ``[B, heads, Q, T]`` or None.
        """
        y, attention = self.attention(self.attention_norm(x), query_positions, output_attention, rotation, selection)
        return self._add_branches(select(x[:, query_positions], selection), y), attention

    def extend(self, x: Tensor, layer: int, new_tokens: NewTokens, query_positions: slice, rotation: Tensor) -> Tensor:
        """Transform new tokens; arguments and result are those of `CausalSelfAttention.extend`."""
        y = self.attention.extend(self.attention_norm(x), layer, new_tokens, query_positions, rotation)
        return self._add_branches(x[:, query_positions], y)

    def _add_branches(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the output of the attention and that of the perceptron to tokens."""
        x = x + self.residual_dropout(y)
        y = self.contract(F.gelu(self.expand(self.mlp_norm(x))))
        return x + self.residual_dropout(y)


class Transformer(nn.Module):
    """Transformer blocks followed by a layer norm.

    Args:
        num_layers: Number of blocks.
        embed_dim: D, dimension of a token.
        num_heads: Number of attention heads per block.
        dropout: Dropout probability of attention weights and residual branches.
        rotary: Whether queries and keys are rotated by their positions; without it, the tokens must contain them.
    """

    def __init__(self, num_layers: int, embed_dim: int, num_heads: int, dropout: float, rotary: bool = False):
        super().__init__()
        self.rotary = rotary
        self.head_dim = embed_dim // num_heads
        self.blocks = nn.ModuleList([Block(embed_dim, num_heads, dropout) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(embed_dim)
        self.apply(init_weights)

    def forward(
        self,
        x: Tensor,
        query_positions: slice = ALL_POSITIONS,
        output_attentions: bool = False,
        selection: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Transform tokens. The last block computes only the tokens at ``query_positions``.

        Args:
            x: Tokens ``[B, T, D]``.
            query_positions: Positions of the Q tokens to return; all by default.
            output_attentions: Whether to return the attention weights.
            selection: As in `select`; only the selected tokens pass through the perceptron of the last block.

        Returns:
            ``(tokens, hidden_states, attentions)``: normalized tokens ``[B, Q, D]``; the inputs ``[B, T, D]`` of all
            blocks and the output ``[B, Q, D]`` of the last one; attention weights ``[B, heads, T, T]`` of each block,
            ``[B, heads, Q, T]`` for the last one, or an empty list.
        """
        hidden_states, attentions = [x], []
        rotation = None
        if self.rotary:
            rotation = rotation_table(torch.arange(x.shape[1], device=x.device), self.head_dim, x.dtype)
        for block in self.blocks:
            last = (query_positions, selection) if block is self.blocks[-1] else (ALL_POSITIONS, None)
            x, attention = block(x, last[0], output_attentions, rotation, last[1])
            hidden_states.append(x)
            if attention is not None:
                attentions.append(attention)
        return self.norm(x), hidden_states, attentions

    def extend(self, x: Tensor, positions: Tensor, new_tokens: NewTokens) -> Tensor:
        """Transform the last of the new tokens of each episode.

        Args:
            x: New tokens ``[P, T, D]`` of M episodes. Rows after M are padding for the linear layers.
            positions: Position of each token in its episode, int64 ``[P, T]``.
            new_tokens: Place of the tokens in the cache.

        Returns:
            Normalized tokens ``[P, 1, D]``.
        """
        rotation = rotation_table(positions, self.head_dim, x.dtype)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            query_positions = slice(-1, None) if block is self.blocks[-1] else ALL_POSITIONS
            x = block.extend(x, layer, new_tokens, query_positions, rotation)
        return self.norm(x)


def select(x: Tensor, selection: Tensor | None) -> Tensor:
    """Select a token of each context.

    Args:
        x: Tokens ``[B, Q, D]``.
        selection: Index of one of the Q tokens of each context, int64 ``[B]``; None for all tokens.

    Returns:
        Tokens ``[B, 1, D]``, or ``x`` itself.
    """
    return x if selection is None else x[torch.arange(len(x), device=x.device), selection][:, None]


def rotation_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Return the rotations of rotary position encoding (Su et al. 2021, RoFormer, section 3.2.2).

    Channels 2i and 2i + 1 of each head are rotated by position · 10000^(-2i / head_dim) radians. The scalar product of
    a query and a key then depends on the distance of their positions only. Angles are computed in float64, so that
    rotations are exact at any position of an episode.

    Args:
        positions: Positions of tokens, int64 ``[...]``.
        head_dim: Dimension of an attention head, which must be even.
        dtype: Dtype of the tokens; the table has at least the precision of float32.

    Returns:
        Cosine and sine of each angle, ``[..., 1, head_dim / 2, 2]``.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angles = positions[..., None, None] * 10_000.0**-exponents
    return torch.stack([angles.cos(), angles.sin()], dim=-1).to(torch.promote_types(dtype, torch.float32))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs of channels.

    Args:
        x: Queries or keys ``[..., T, heads, head_dim]``.
        rotation: Rotations ``[..., T, 1, head_dim / 2, 2]`` from `rotation_table`.
    """
    pairs = x.to(rotation.dtype).unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # One complex product takes half of the time of six real operations. The compiler does not know complex numbers.
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    else:
        (a, b), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
        rotated = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def init_weights(module: nn.Module) -> None:
    """Draw linear weights from Normal(0, 0.02) and set biases to zero (Radford et al. 2019, as in minGPT)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
