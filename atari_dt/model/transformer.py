"""A causal transformer: pre-norm blocks as in GPT-2, with the initialization of minGPT that the paper uses."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

EVERY_TOKEN = slice(None)


class Dropout(nn.Module):
    """Dropout; on a CPU from 16 random bits an element, which takes a quarter of the time of PyTorch's 32 in a row.

    There the probability is the multiple of 2⁻¹⁶ nearest to ``p``, and what is kept is scaled accordingly.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements of ``x`` at random while training, and scale the others up."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not self.training or not self.p:
            return F.dropout(x, self.p, self.training)
        size, dropped = x.numel(), min(round(self.p * 2**16), 2**16 - 1)
        words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[:size].view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype) * (2**16 / (2**16 - dropped))


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each token to itself and those before it."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = Dropout(dropout)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(
        self, x: Tensor, read: slice = EVERY_TOKEN, output_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within ``x``, ``[B, T, D]``, from the R tokens ``x[:, read]``.

        Returns:
            ``(y, attention)``: ``[B, R, D]``, and the weights ``[B, heads, R, T]`` (rows sum to 1) if they are asked
            for.
        """
        dim, tokens = x.shape[-1], x.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = rearrange(F.linear(x[:, read], weight[:dim], bias[:dim]), "b r (h d) -> b h r d", h=self.num_heads)
        key_value = F.linear(x, weight[dim:], bias[dim:])
        key, value = rearrange(key_value, "b t (n h d) -> n b h t d", n=2, h=self.num_heads).unbind(0)
        attention = None
        # On a CPU the fused kernel's backward pass is slower than this for sequences as short as ours.
        if output_attention or (torch.is_grad_enabled() and not x.is_cuda):
            with torch.autocast(x.device.type, enabled=False):  # which would take the softmax's output to float32
                future = torch.full((tokens, tokens), -math.inf, dtype=query.dtype, device=x.device).triu(1)[read]
                scores = torch.baddbmm(
                    future,
                    query.flatten(0, 1) / math.sqrt(query.shape[-1]),
                    key.flatten(0, 1).transpose(-2, -1),
                )
                attention = scores.softmax(-1).view(*query.shape[:-1], tokens)
                y = self.dropout(attention) @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            if read == EVERY_TOKEN:
                y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
            else:
                past = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()[read]
                y = F.scaled_dot_product_attention(query, key, value, past, dropout)
        return self.projection(rearrange(y, "b h r d -> b r (h d)")), attention if output_attention else None


class Block(nn.Module):
    """Attention and a four times wider perceptron, each behind a layer norm and beside a residual path."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = CausalSelfAttention(embed_dim, num_heads, dropout)
        self.mlp_norm = nn.LayerNorm(embed_dim)
        self.expand = nn.Linear(embed_dim, 4 * embed_dim)
        self.contract = nn.Linear(4 * embed_dim, embed_dim)
        self.residual_dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, read: slice = EVERY_TOKEN, output_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens ``x[:, read]``, ``[B, R, D]``, and, if asked for, the attention ``[B, heads, R, T]``."""
        y, attention = self.attention(self.attention_norm(x), read, output_attention)
        x = x[:, read] + self.residual_dropout(y)
        y = self.contract(F.gelu(self.expand(self.mlp_norm(x))))
        return x + self.residual_dropout(y), attention


class Transformer(nn.Module):
    """Blocks and a final layer norm."""

    def __init__(self, num_layers: int, embed_dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.blocks = nn.ModuleList([Block(embed_dim, num_heads, dropout) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(embed_dim)
        self.apply(init_weights)

    def forward(
        self, x: Tensor, read: slice = EVERY_TOKEN, output_attentions: bool = False
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Transform tokens ``[B, T, D]``; the last block computes only what those at ``read``, R of them, become.

        Returns:
            ``(tokens, hidden_states, attentions)``: normalized tokens ``[B, R, D]``; the input of every block and the
            output of the last, ``num_layers`` of ``[B, T, D]`` and one of ``[B, R, D]``; ``num_layers`` of
            ``[B, heads, T, T]``, the last one ``[B, heads, R, T]``, or none.
        """
        hidden_states, attentions = [x], []
        for block in self.blocks:
            last = block is self.blocks[-1]
            x, attention = block(x, read if last else EVERY_TOKEN, output_attentions)
            hidden_states.append(x)
            if attention is not None:
                attentions.append(attention)
        return self.norm(x), hidden_states, attentions


def init_weights(module: nn.Module) -> None:
    """Normal(0, 0.02) for linear weights, zero biases (Radford et al. 2019, as in minGPT)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
