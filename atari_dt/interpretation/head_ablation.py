"""Ablate attention heads, and measure how far the predicted actions change.

Mean ablation replaces the output of a head by its mean over many contexts, so that it no longer depends on what the
context contains (as in Wang et al. 2022, arXiv:2211.00593, section 2.1). Zeros in its place would be an input that the
layers above never had. Uniform attention keeps what a head reads at each token, but no longer where it looks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atari_dt.interpretation.attention import (
    AttentionByDistance,
    attention_by_distance,
    attention_from,
    by_step_and_token_type,
    query_positions,
)
from atari_dt.model.decision_transformer import DecisionTransformer, DecisionTransformerOutput
from atari_dt.model.transformer import Block, CausalSelfAttention
from replay_data.json_fields import check_range

Replacement = Literal["mean", "uniform"]

_BATCH_SIZE = 128  # contexts in one forward pass


@dataclass(frozen=True)
class Contexts:
    """M contexts of K steps, as a model read them while it played. All tensors are on the model's device.

    Attributes:
        state_tokens: What the model's ``encode_states`` returned, float32 ``[M, K, D]``.
        actions: Actions of all K steps, int64 ``[M, K]``.
        returns_to_go: float32 ``[M, K]``.
        timesteps: int64 ``[M, K]``.
    """

    state_tokens: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def batches(self) -> Iterator[Contexts]:
        """Yield the contexts in batches for a forward pass."""
        for parts in zip(*(values.split(_BATCH_SIZE) for values in vars(self).values()), strict=True):
            yield Contexts(*parts)

    def predict(self, model: DecisionTransformer, output_attentions: bool = False) -> DecisionTransformerOutput:
        """Run the model on all contexts at once."""
        return model.predict(
            self.state_tokens,
            self.actions,
            self.returns_to_go,
            self.timesteps,
            output_attentions=output_attentions,
        )


@dataclass(frozen=True)
class Ablation:
    """What is taken away from a model.

    Attributes:
        replacement: ``"mean"`` replaces the outputs of heads by their means over contexts, at each position of a
            context; ``"uniform"`` makes the weights of their attention to all earlier tokens the same.
        layer: Index of the layer; None for all layers.
        head: Index of the head in the layer; None for all heads.
    """

    replacement: Replacement
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """Name for tables and figures, such as ``"layer 1, head 2"``; numbers start at 1."""
        if self.layer is None:
            return "all layers"
        return f"layer {self.layer + 1}" + ("" if self.head is None else f", head {self.head + 1}")

    @property
    def plays(self) -> bool:
        """Whether an ablated model plays episodes in a study; uniform attention of single heads is only measured."""
        return self.replacement == "mean" or self.head is None

    def apply(self, model: DecisionTransformer, means: Tensor) -> DecisionTransformer:
        """Return an ablated copy of a model, in evaluation mode. It cannot act with cached keys and values.

        Args:
            model: Model, which stays as it is.
            means: Mean outputs of the heads, from `observe`.
        """
        ablated = copy.deepcopy(model).eval()
        for layer, attention in enumerate(attention_layers(ablated)):
            if self.layer in (None, layer):
                head_dim = ablated.transformer.head_dim
                start, stop = (0, attention.num_heads) if self.head is None else (self.head, self.head + 1)
                channels = slice(start * head_dim, stop * head_dim)
                if self.replacement == "mean":
                    attention.edit_heads = _ReplaceOutputs(means[layer], channels)
                else:
                    _make_uniform(attention, channels)
        return ablated


def list_ablations(num_layers: int, num_heads: int) -> list[Ablation]:
    """Return all ablations of a model: of each head, each layer and all layers, by mean and then by uniform attention.

    Args:
        num_layers: Number of layers.
        num_heads: Number of heads in a layer.
    """
    return [
        ablation
        for replacement in get_args(Replacement)
        for ablation in (
            *(Ablation(replacement, layer, head) for layer in range(num_layers) for head in range(num_heads)),
            *(Ablation(replacement, layer) for layer in range(num_layers)),
            Ablation(replacement),
        )
    ]


@dataclass(frozen=True)
class Observed:
    """What the heads of an intact model do in M contexts of K steps.

    Attributes:
        means: Mean output of the heads at each of the T = ``tokens_per_step`` · K positions, before the output
            projection, float32 ``[layers, T, D]``; the outputs of the heads of a layer are concatenated.
        attention: Attention from the query tokens.
        log_probabilities: Logarithms of the action probabilities at the newest step, float64 ``[M, num_actions]``.
    """

    means: Tensor
    attention: AttentionByDistance
    log_probabilities: Tensor


@torch.inference_mode()
def observe(model: DecisionTransformer, contexts: Contexts) -> Observed:
    """Run an intact model on contexts, and average what its heads output.

    Args:
        model: Model in evaluation mode.
        contexts: At least one context.
    """
    config = model.config
    recorders = [_AddOutputs() for _ in range(config.num_layers)]
    recording = copy.deepcopy(model)
    for attention, recorder in zip(attention_layers(recording), recorders, strict=True):
        attention.edit_heads = recorder
    weights = []
    for batch in contexts.batches():
        # With attention weights, the last layer computes all positions too.
        output = batch.predict(recording, output_attentions=True)
        assert output.attentions is not None
        num_steps = torch.full((len(batch),), config.context_length, device=batch.actions.device)
        from_query = attention_from(output.attentions, query_positions(num_steps, config.conditioning))
        weights.append(by_step_and_token_type(from_query.float().cpu().numpy(), config.conditioning))
    means = torch.stack([recorder.total / len(contexts) for recorder in recorders]).to(contexts.state_tokens.dtype)
    return Observed(means, attention_by_distance(np.concatenate(weights)), log_probabilities(model, contexts))


@dataclass(frozen=True)
class Effect:
    """How far an ablation changes the predicted actions, over M contexts.

    Attributes:
        agreement: Fraction of the contexts whose most likely action stays the same.
        divergence: Mean Kullback-Leibler divergence KL(intact ‖ ablated) of the action distributions, in nats.

    Raises:
        ValueError: If a number is out of range.
    """

    agreement: float
    divergence: float

    def __post_init__(self) -> None:
        check_range("agreement", self.agreement, 0, 1)
        check_range("divergence", self.divergence, 0)


def measure_effect(model: DecisionTransformer, contexts: Contexts, observed: Observed, ablation: Ablation) -> Effect:
    """Measure an ablation on contexts.

    Args:
        model: Intact model in evaluation mode.
        contexts: Contexts to predict the next action of.
        observed: What `observe` returned for them.
        ablation: Ablation.
    """
    intact = observed.log_probabilities
    ablated = log_probabilities(ablation.apply(model, observed.means), contexts)
    agreement = (intact.argmax(-1) == ablated.argmax(-1)).double().mean()
    divergence = (intact.exp() * (intact - ablated)).sum(-1).mean()
    return Effect(float(agreement), max(0.0, float(divergence)))  # rounding may leave a tiny negative number


@torch.inference_mode()
def log_probabilities(model: DecisionTransformer, contexts: Contexts) -> Tensor:
    """Return the logarithms of the action probabilities at the newest step, float64 ``[M, num_actions]``."""
    logits = [batch.predict(model).action_logits[:, -1] for batch in contexts.batches()]
    return F.log_softmax(torch.cat(logits).double(), dim=-1)


def attention_layers(model: DecisionTransformer) -> list[CausalSelfAttention]:
    """Return the attention of each layer of a model."""
    layers = []
    for block in model.transformer.blocks:
        assert isinstance(block, Block)
        layers.append(block.attention)
    return layers


class _AddOutputs:
    """Editor that adds up the outputs of the heads and keeps them.

    Attributes:
        total: Sum over all contexts so far, float64 ``[T, D]``.
    """

    total: Tensor

    def __init__(self) -> None:
        self.total = torch.zeros(())

    def __call__(self, outputs: Tensor, positions: slice) -> Tensor:
        self.total = self.total + outputs.double().sum(0)
        return outputs


class _ReplaceOutputs:
    """Editor that replaces some channels of the outputs of the heads.

    Args:
        means: What replaces them, by position in the context, ``[T, D]``.
        channels: Channels to replace.
    """

    def __init__(self, means: Tensor, channels: slice):
        self._means, self._channels = means, channels

    def __call__(self, outputs: Tensor, positions: slice) -> Tensor:
        replaced = outputs.clone()
        replaced[..., self._channels] = self._means[positions][: outputs.shape[1], self._channels].to(outputs.dtype)
        return replaced


@torch.no_grad()
def _make_uniform(attention: CausalSelfAttention, channels: slice) -> None:
    """Set the queries of heads to zero: all scores are 0 then, and the softmax over the earlier tokens is uniform."""
    attention.qkv.weight[channels] = 0
    attention.qkv.bias[channels] = 0
