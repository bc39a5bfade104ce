"""Attention weights of the state token that predicts the action.

The tokens of a step are (return-to-go, state, action), or (state, action) in behavior cloning. The action is predicted
at the state token of the newest step: the *query* token. Contexts shorter than K steps are left-aligned, so the
position of the query depends on the number of steps.
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
    """Return the types of a step's tokens, in order."""
    return ("return", "state", "action") if conditioning == "return" else ("state", "action")


def query_positions(num_steps: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the position of each context's query token.

    Args:
        num_steps: Number of steps in each context, int64 ``[B]``.
        conditioning: Conditioning of the model.

    Returns:
        Token positions, int64 ``[B]``.
    """
    types = token_types(conditioning)
    return len(types) * (num_steps - 1) + types.index("state")


def attention_from(attentions: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Return the attention weights of one query token per context.

    Args:
        attentions: Attention weights of each layer, ``[B, heads, T, T]``, as the model returns them.
        positions: Position of the query token in each context, int64 ``[B]``; see `query_positions`.

    Returns:
        Weights ``[B, layers, heads, T]``. Each row sums to 1 and is 0 after the query token.
    """
    contexts = torch.arange(len(positions), device=positions.device)
    return torch.stack([weights[contexts, :, positions] for weights in attentions], dim=1)


def attention_rollout(attentions: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Compute the attention rollout from one query token per context to the input tokens.

    Abnar & Zuidema 2020 (Quantifying Attention Flow in Transformers, section 3): average the heads, add the residual
    connection as A' = (A + I) / 2, and multiply the matrices of all layers.

    Args:
        attentions: Attention weights of each layer, ``[B, heads, T, T]``, as the model returns them.
        positions: Position of the query token in each context, int64 ``[B]``; see `query_positions`.

    Returns:
        Weights ``[B, T]``. Each row sums to 1 and is 0 after the query token.
    """
    num_tokens = attentions[0].shape[-1]
    row = torch.nn.functional.one_hot(positions, num_tokens).to(attentions[0].dtype)
    for weights in reversed(attentions):
        row = (row + torch.einsum("bt,bts->bs", row, weights.mean(1))) / 2
    return row


def by_step_and_token_type(weights: Floats, conditioning: Conditioning) -> Floats:
    """Reshape weights of the tokens of K steps by step and token type.

    Args:
        weights: Weights ``[..., T]``; the action token of the last step may be missing.
        conditioning: Conditioning of the model.

    Returns:
        Weights ``[..., K, token_types]``, in the order of `token_types`. A missing action token has weight 0.
    """
    num_types = len(token_types(conditioning))
    missing = -weights.shape[-1] % num_types
    padded = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
    return padded.reshape(*weights.shape[:-1], -1, num_types)


@dataclass(frozen=True)
class AttentionByDistance:
    """Attention weights by distance in steps from the query, averaged over contexts of K steps.

    Attributes:
        weights: Mean weights, float64 ``[layers, heads, K, token_types]``; the third index is the distance, 0 for the
            newest step.
        entropy: Mean entropy of a context's weights in nats, float64 ``[layers, heads]``: 0 for a head that attends to
            one token, ln T for uniform attention.
        num_contexts: Number of contexts averaged.
    """

    weights: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]
    num_contexts: int

    @property
    def uniform(self) -> npt.NDArray[np.float64]:
        """Weights of uniform attention, ``[K, token_types]``; the newest action token does not exist and has 0."""
        steps, num_types = self.weights.shape[2:]
        weights = np.full((steps, num_types), 1 / (steps * num_types - 1))
        weights[0, -1] = 0
        return weights

    @property
    def mean_distance(self) -> npt.NDArray[np.float64]:
        """Mean distance in steps, weighted by attention, float64 ``[layers, heads]``."""
        return self.weights.sum(-1) @ np.arange(self.weights.shape[2])


def attention_by_distance(weights: Floats) -> AttentionByDistance:
    """Average the attention of query tokens by distance.

    Args:
        weights: Weights of N full contexts, ``[N, layers, heads, K, token_types]``; see `by_step_and_token_type`.
            Exclude shorter contexts: they would bias the mean toward small distances.

    Raises:
        ValueError: If N is 0.
    """
    if not len(weights):
        raise ValueError("cannot average over no contexts")
    logarithms = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    entropy = -(weights * logarithms).sum((-2, -1), dtype=np.float64).mean(0)
    return AttentionByDistance(weights.mean(0, dtype=np.float64)[:, :, ::-1], entropy, len(weights))
