"""Attention from the state token that an action is read at to every return, state and action token of its context.

Tokens are the model's own: (return-to-go, state, action) of each step, or (state, action) in behavior cloning.
Contexts of fewer than K steps are left-aligned, so the acting token's place says how many steps there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.config import Conditioning

Floats = npt.NDArray[np.float32]


def token_types(conditioning: Conditioning) -> tuple[str, ...]:
    """Name the tokens of a step, in their order."""
    return ("return", "state", "action") if conditioning == "return" else ("state", "action")


def query_positions(num_steps: Tensor, conditioning: Conditioning) -> Tensor:
    """Places of the acting state tokens, int64 ``[B]``, in contexts of ``num_steps`` steps, int64 ``[B]``."""
    kinds = token_types(conditioning)
    return len(kinds) * (num_steps - 1) + kinds.index("state")


def attention_from(attentions: Sequence[Tensor], places: Tensor) -> Tensor:
    """Pick the attention of one token of each context.

    Args:
        attentions: for each layer ``[B, heads, T, T]``, as the model returns them.
        places: int64 ``[B]``, the tokens'; `query_positions` of the acting ones.

    Returns:
        ``[B, layers, heads, T]``; each row sums to 1, and is 0 behind the token.
    """
    contexts = torch.arange(len(places), device=places.device)
    return torch.stack([weights[contexts, :, places] for weights in attentions], dim=1)


def attention_rollout(attentions: Sequence[Tensor], places: Tensor) -> Tensor:
    """Follow attention through all layers, from one token of each context to the input tokens.

    Abnar & Zuidema 2020 (Quantifying Attention Flow in Transformers, section 3): heads are averaged, the residual path
    is half of each layer, A' = (A + I) / 2, and the layers' matrices are multiplied.

    Args:
        attentions: as in `attention_from`.
        places: likewise.

    Returns:
        ``[B, T]``; rows sum to 1, and are 0 behind the token.
    """
    tokens = attentions[0].shape[-1]
    row = torch.nn.functional.one_hot(places, tokens).to(attentions[0].dtype)
    for weights in reversed(attentions):
        row = (row + torch.einsum("bt,bts->bs", row, weights.mean(1))) / 2
    return row


def by_step_and_token_type(weights: Floats, conditioning: Conditioning) -> Floats:
    """Group the weights of the tokens of K steps, ``[..., T]``, by step and kind; the last action may be missing.

    Returns:
        ``[..., K, kinds]``, kinds as in `token_types`; an action that is missing has weight 0.
    """
    kinds = len(token_types(conditioning))
    missing = -weights.shape[-1] % kinds
    padded = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
    return padded.reshape(*weights.shape[:-1], -1, kinds)


@dataclass(frozen=True)
class AttentionByDistance:
    """How far back each head looks, averaged over contexts of K steps.

    Attributes:
        weights: float64 ``[layers, heads, K, kinds]``: mean attention to the tokens of the step that lies 0, 1, … steps
            before the acting one.
        entropy: float64 ``[layers, heads]``, in nats: the mean entropy of a context's weights; 0 where a head looks at
            one token, the logarithm of their number where it looks at all alike.
        contexts: how many were averaged.
    """

    weights: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    contexts: int

    @property
    def even(self) -> npt.NDArray[np.float64]:
        """The weights ``[K, kinds]`` of a head that looks at all tokens alike; the acting step's action has none."""
        steps, kinds = self.weights.shape[2:]
        weights = np.full((steps, kinds), 1 / (steps * kinds - 1))
        weights[0, -1] = 0
        return weights

    @property
    def mean_distance(self) -> npt.NDArray[np.float64]:
        """Steps back that a head looks on average, float64 ``[layers, heads]``."""
        return self.weights.sum(-1) @ np.arange(self.weights.shape[2])


def attention_by_distance(weights: Floats) -> AttentionByDistance:
    """Average the attention of acting tokens by distance.

    Args:
        weights: ``[N, layers, heads, K, kinds]``, of N full contexts (see `by_step_and_token_type`). Shorter contexts do not
            belong here: their weights have fewer steps to go to.

    Raises:
        ValueError: if there is no context.
    """
    if not len(weights):
        raise ValueError("the mean of no contexts is not defined")
    logarithms = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    entropy = -(weights * logarithms).sum((-2, -1), dtype=np.float64).mean(0)
    return AttentionByDistance(weights.mean(0, dtype=np.float64)[:, :, ::-1], entropy, len(weights))
