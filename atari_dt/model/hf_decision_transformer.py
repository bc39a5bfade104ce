"""Hugging Face's own Decision Transformer, ``transformers.DecisionTransformerModel``, on vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.method_config import HFDecisionTransformerConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.decision_transformer import DecisionTransformerOutput
from atari_dt.model.input_scaling import InputScaling
from atari_dt.model.pretrained import MissingPackageError, PretrainedModel
from atari_dt.model.transformer import select
from atari_dt.model.transformers_config import to_transformers_json, transformers_settings
from atari_dt.model.weights import Shapes, network_shapes

_UNUSED = ("encoder.wte", "predict_state", "predict_return")
"""Parts of the network whose output is not used: the embedding of words, and the heads of states and returns, which
the paper does not train either."""


class HFDecisionTransformer(PretrainedModel):
    """``transformers.DecisionTransformerModel`` with the interface of `DecisionTransformer`.

    Contexts are left-aligned outside, and padded on the left inside, as the documentation of transformers shows.
    Actions are one-hot vectors, zero where the action is not chosen yet. A checkpoint is one of transformers: plain
    ``DecisionTransformerModel.from_pretrained`` loads it.

    Args:
        config: Checkpoint config with the architecture of the network, the sizes of the game, and the scaling of its
            inputs; without a scaling, they are not scaled.

    Attributes:
        transformer: The network of transformers.
        state_token_size: D, the number of entries of a normalized state.

    Raises:
        InputError: If transformers is not installed.
    """

    config: HFDecisionTransformerConfig
    config_types = (HFDecisionTransformerConfig,)
    weights_metadata: ClassVar[dict[str, str] | None] = {"format": "pt"}
    max_timestep: int
    mean: Tensor
    scale: Tensor

    def __init__(self, config: CheckpointConfig):
        assert isinstance(config.model, HFDecisionTransformerConfig)
        assert config.max_timestep is not None
        super().__init__(config.model, config.num_actions, config.observation)
        self.max_timestep = config.max_timestep
        (self.state_token_size,) = config.observation.state_shape
        identity = InputScaling((0.0,) * self.state_token_size, (1.0,) * self.state_token_size, 1.0)
        self.scaling = config.scaling or identity
        # No part of the state dict: checkpoints hold them in config.json, since transformers refuses unknown weights.
        self.register_buffer("mean", torch.tensor(self.scaling.mean), persistent=False)
        self.register_buffer("scale", torch.tensor(self.scaling.scale), persistent=False)
        self.transformer = _build(config)
        for name in _UNUSED:
            self.transformer.get_submodule(name).requires_grad_(False)

    @property
    def checkpoint_config(self) -> CheckpointConfig:
        """This project's content of the checkpoint's ``config.json``."""
        return dataclasses.replace(super().checkpoint_config, scaling=self.scaling)

    @classmethod
    def from_config(cls, config: CheckpointConfig) -> HFDecisionTransformer:
        """Return the untrained network that a checkpoint's ``config.json`` describes."""
        return cls(config)

    @classmethod
    def shapes(cls, config: CheckpointConfig, num_tensors: int) -> Shapes:
        """Return the shape of each tensor of ``model.safetensors``; see `network_shapes`."""
        assert isinstance(config.model, HFDecisionTransformerConfig)

        def build(each: HFDecisionTransformerConfig) -> nn.Module:
            return _build(dataclasses.replace(config, model=each))

        return network_shapes(build, config.model, num_tensors, blocks="encoder.h.")

    def checkpoint_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``: that of transformers, and this project's under one key."""
        return to_transformers_json(self.checkpoint_config)

    def checkpoint_weights(self) -> dict[str, Tensor]:
        """Return the weights under the names of transformers."""
        return dict(self.transformer.state_dict())

    def load_checkpoint_weights(self, weights: Any) -> None:
        """Set the weights, given under the names of transformers."""
        self.transformer.load_state_dict(weights)

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> DecisionTransformerOutput:
        """Predict the action of every step of B contexts.

        Args:
            states: uint8 ``[B, K, D]``.
            actions: int64 ``[B, K]``, or ``[B, K - 1]`` if the last action of each context is not chosen yet.
            returns_to_go: float ``[B, K]``, in the dataset's reward units.
            timesteps: int64 ``[B, K]``.
            attention_mask: bool ``[B, K]``, true at real steps, which come first, and false at the padding after them;
                all true by default.
            targets: int64 ``[B, K]``, actions to predict; required for a loss.
            output_attentions: Whether to return the attention weights (slower).
            output_hidden_states: Whether to return the tokens between the blocks.
        """
        return self.predict(
            self.encode_states(states),
            actions,
            returns_to_go,
            timesteps,
            attention_mask,
            targets,
            output_attentions,
            output_hidden_states,
        )

    def encode_states(self, states: Tensor) -> Tensor:
        """Normalize states, uint8 or float ``[..., D]``, for `predict`."""
        return (states.float() - self.mean) / self.scale

    def predict(
        self,
        state_tokens: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        selected_steps: Tensor | None = None,
    ) -> DecisionTransformerOutput:
        """Run `forward` on normalized states ``[B, K, D]`` from `encode_states` instead of states.

        With ``selected_steps``, int64 ``[B]``, logits are those of one step of each context, ``[B, 1, num_actions]``.
        """
        num_contexts, steps = state_tokens.shape[:2]
        if attention_mask is None:
            attention_mask = torch.ones(num_contexts, steps, dtype=torch.bool, device=state_tokens.device)
        lengths = attention_mask.sum(1)
        one_hot = F.one_hot(actions, self.num_actions).to(state_tokens.dtype)
        if actions.shape[1] == steps - 1:
            is_newest = torch.arange(steps, device=lengths.device) == lengths[:, None] - 1
            one_hot = F.pad(one_hot, (0, 0, 0, 1)).masked_fill(is_newest[..., None], 0)
        output = self._run(
            pad_left(state_tokens, lengths),
            pad_left(one_hot, lengths),
            pad_left(returns_to_go.float() / self.scaling.returns, lengths)[..., None],
            pad_left(timesteps.clamp(max=self.max_timestep), lengths),
            pad_left(attention_mask, lengths),
            output_attentions,
            output_hidden_states,
        )
        logits = output.action_preds.float()
        loss = None
        if targets is not None:
            padded_targets = pad_left(targets.masked_fill(~attention_mask, -100), lengths, -100)
            loss = F.cross_entropy(logits.flatten(0, 1), padded_targets.flatten(), ignore_index=-100)
        tokens = self.config.tokens_per_step * lengths
        return DecisionTransformerOutput(
            loss,
            select(align_left(logits, lengths), selected_steps),
            tuple(align_left(each, tokens) for each in output.hidden_states) if output_hidden_states else None,
            tuple(_align_attention(each, tokens) for each in output.attentions) if output_attentions else None,
        )

    def _run(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        attention_mask: Tensor,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> Any:
        """Call transformers with contexts that are padded on the left, and return its output.

        PyTorch's fused attention returns no weights, so they are computed by transformers' own code if requested.
        """
        with self._eager_attention() if output_attentions else nullcontext():
            return self.transformer(
                states=states,
                actions=actions,
                returns_to_go=returns_to_go,
                timesteps=timesteps,
                attention_mask=attention_mask,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )

    @contextmanager
    def _eager_attention(self) -> Iterator[None]:
        """Let transformers compute attention by its own code."""
        config: Any = self.transformer.config
        implementation = config._attn_implementation
        config._attn_implementation = "eager"
        try:
            yield
        finally:
            config._attn_implementation = implementation


def pad_left(values: Tensor, lengths: Tensor, padding: float = 0) -> Tensor:
    """Move the padding of contexts from the right to the left, as transformers expects it.

    Args:
        values: ``[B, K, ...]``, whose first ``lengths`` steps are real; the others have no meaning.
        lengths: Number of real steps of each context, int64 ``[B]``.
        padding: Value of the padding of the result.

    Returns:
        Values of the same shape, whose last ``lengths`` steps are real.
    """
    steps = values.shape[1]
    moved = _rotate(values, lengths)
    is_padding = torch.arange(steps, device=lengths.device) < steps - lengths[:, None]
    return moved.masked_fill(is_padding.view(*is_padding.shape, *(1,) * (values.ndim - 2)), padding)


def align_left(values: Tensor, lengths: Tensor) -> Tensor:
    """Undo `pad_left`, except for the content of the padding: move the last ``lengths`` of K entries to the front."""
    return _rotate(values, values.shape[1] - lengths)


def _rotate(values: Tensor, offsets: Tensor) -> Tensor:
    """Rotate values ``[B, K, ...]`` along K, so that the entry at the offset of each row, int64 ``[B]``, is first."""
    rows, steps = values.shape[:2]
    index = (torch.arange(steps, device=offsets.device) + offsets[:, None]) % steps
    return values[torch.arange(rows, device=offsets.device)[:, None], index]


def _align_attention(weights: Tensor, lengths: Tensor) -> Tensor:
    """Apply `align_left` to the queries and the keys of attention weights ``[B, heads, T, T]``."""
    by_query = align_left(weights.transpose(1, 2), lengths)  # [B, T, heads, T]
    return align_left(by_query.permute(0, 3, 2, 1), lengths).permute(0, 2, 3, 1)


def _build(config: CheckpointConfig) -> nn.Module:
    """Return an untrained ``transformers.DecisionTransformerModel``.

    Raises:
        InputError: If transformers is not installed.
    """
    try:  # here, because the import takes seconds
        from transformers import DecisionTransformerConfig, DecisionTransformerModel
    except ImportError as error:
        raise MissingPackageError(
            "Hugging Face's Decision Transformer needs the package transformers; install it with "
            'pip install "atari-dt[transformers]", or pip install transformers'
        ) from error
    network: nn.Module = DecisionTransformerModel(DecisionTransformerConfig(**transformers_settings(config)))
    return network
