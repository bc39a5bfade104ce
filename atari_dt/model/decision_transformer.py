"""The Decision Transformer for Atari (Chen et al. 2021, section 3), which is also the behavior-cloning network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.key_value_cache import KeyValueCache, new_positions
from atari_dt.model.original_checkpoint import read_original_weights
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.state_encoder import StateEncoder
from atari_dt.model.transformer import ALL_POSITIONS, Dropout, Transformer, init_weights, select
from atari_dt.model.vector_encoder import VectorEncoder
from atari_dt.model.weights import Shapes, network_shapes
from replay_data.observation import FRAMES, ObservationSpec


class DecisionTransformerOutput(NamedTuple):
    """Output of a forward pass.

    Attributes:
        loss: Scalar mean cross-entropy over the unmasked steps, in nats; None without targets.
        action_logits: float32 ``[B, K, num_actions]``, computed at the state tokens.
        hidden_states: ``num_layers + 1`` tensors ``[B, T, D]``; None unless requested.
        attentions: ``num_layers`` tensors ``[B, heads, T, T]``; None unless requested.
        state_predictions: Prediction of the next state, normalized, float32 ``[B, K, D]``, computed at the action
            tokens; None unless the config predicts states.
        return_predictions: Prediction of the next return-to-go, in the dataset's reward units, float32 ``[B, K, 1]``,
            computed at the action tokens; None unless the config predicts returns.
    """

    loss: Tensor | None
    action_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    state_predictions: Tensor | None = None
    return_predictions: Tensor | None = None


class DecisionTransformer(PretrainedModel):
    """Map return-to-go, state and action tokens of K steps to action logits for each step.

    With ``config.conditioning == "none"`` there are no return tokens, and the model does behavior cloning. Checkpoints
    are read and written by the base class.

    Args:
        config: Architecture of the network.
        num_actions: Size of the game's action set.
        max_timestep: Largest timestep with its own embedding; later timesteps share it.
        observation: What the model observes; it decides the encoder of states.
    """

    config: ModelConfig
    config_types = (ModelConfig,)
    max_timestep: int
    state_encoder: StateEncoder | VectorEncoder

    def __init__(self, config: ModelConfig, num_actions: int, max_timestep: int, observation: ObservationSpec = FRAMES):
        super().__init__(config, num_actions, observation)
        self.max_timestep = max_timestep
        dim = config.embed_dim
        if observation.is_vector:
            self.state_encoder = VectorEncoder(config, observation)
        else:
            self.state_encoder = StateEncoder(config)
        self.action_embedding = nn.Embedding(num_actions, dim)
        if config.conditioned:
            self.return_embedding = nn.Linear(1, dim)
        rotary = config.position_encoding == "rotary"
        if not rotary:
            # 3K + 1 positions for either conditioning, one more than a context has tokens, as in the original code.
            self.position_embedding = nn.Parameter(torch.zeros(3 * config.context_length + 1, dim))
        if config.timestep_encoding != "none":
            self.timestep_embedding = nn.Parameter(torch.zeros(max_timestep + 1, dim))
        self.embedding_dropout = Dropout(config.dropout)
        self.transformer = Transformer(config.num_layers, dim, config.num_heads, config.dropout, rotary)
        self.head = nn.Linear(dim, num_actions, bias=False)
        init_weights(self.head)
        nn.init.normal_(self.action_embedding.weight, std=0.02)
        if "state" in config.predict:
            self.state_head = nn.Linear(dim, observation.state_shape[0])
        if "return" in config.predict:
            self.return_head = nn.Linear(dim, 1)

    @classmethod
    def from_config(cls, config: CheckpointConfig) -> DecisionTransformer:
        """Return the untrained network that a checkpoint's ``config.json`` describes."""
        assert isinstance(config.model, ModelConfig)
        assert config.max_timestep is not None
        return cls(config.model, config.num_actions, config.max_timestep, config.observation)

    @classmethod
    def shapes(cls, config: CheckpointConfig, num_tensors: int) -> Shapes:
        """Return the shape of each tensor of the state dict; see `network_shapes`."""
        assert isinstance(config.model, ModelConfig)

        def build(each: ModelConfig) -> DecisionTransformer:
            return cls.from_config(dataclasses.replace(config, model=each))

        return network_shapes(build, config.model, num_tensors)

    @classmethod
    def check_buffers(cls, config: CheckpointConfig, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError if the scale of the entries of a vector is not positive."""
        if config.observation.is_vector and not (weights["state_encoder.scale"] > 0).all():
            raise ValueError("state_encoder.scale holds a number that is not positive")

    @classmethod
    def from_original_checkpoint(
        cls, path: str | os.PathLike[str], num_heads: int = 8, conditioning: Conditioning = "return"
    ) -> DecisionTransformer:
        """Load weights of the original code; the model is on the CPU and in evaluation mode.

        The logits equal those of the original network. The checkpoint does not describe its training data.

        Args:
            path: File of ``torch.save`` or safetensors; see `read_original_weights`.
            num_heads: Number of attention heads, which the file does not contain; 8 in the paper.
            conditioning: ``"return"`` for ``model_type="reward_conditioned"``, ``"none"`` for ``"naive"``.

        Raises:
            InputError: If the file is damaged, holds something else, or its shapes or values are impossible.
        """
        original = read_original_weights(Path(path), num_heads, conditioning)
        config = CheckpointConfig(original.config, original.num_actions, original.max_timestep)
        weights = original.convert(cls.shapes(config, len(original.tensors)))
        model = cls.from_config(config)
        model.load_state_dict(weights)
        return model.eval()

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        returns_to_go: Tensor | None,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> DecisionTransformerOutput:
        """Predict the action of every step of B contexts.

        Contexts shorter than K are left-aligned. Attention is causal, so the padding after a context never changes its
        predictions; ``attention_mask`` only selects the steps that count in the loss.

        Args:
            states: uint8 ``[B, K, 4, 84, 84]``, oldest frame first, or ``[B, K, D]`` for a model that observes vectors.
            actions: int64 ``[B, K]``, or ``[B, K - 1]`` if the last action is not chosen yet.
            returns_to_go: float ``[B, K]``, in the dataset's reward units; ignored by behavior cloning.
            timesteps: int64 ``[B, K]``; ``config.timestep_encoding`` selects the ones to embed.
            attention_mask: bool ``[B, K]``, true at real steps and false at padding; all true by default.
            targets: int64 ``[B, K]``, actions to predict; required for a loss.
            output_attentions: Whether to return the attention weights (slower).
            output_hidden_states: Whether to return the tokens between the blocks.

        Raises:
            ValueError: If a return-conditioned model gets no ``returns_to_go``.
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
            with_heads=True,
        )

    @property
    def state_token_size(self) -> int:
        """Number of entries of what `encode_states` returns for a state."""
        return self.config.embed_dim

    def encode_states(self, states: Tensor) -> Tensor:
        """Encode states, uint8 ``[..., 4, 84, 84]`` or ``[..., D]``, as state tokens for `predict`."""
        return self.state_encoder(states)

    def predict(
        self,
        state_tokens: Tensor,
        actions: Tensor,
        returns_to_go: Tensor | None,
        timesteps: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        selected_steps: Tensor | None = None,
        with_heads: bool = False,
    ) -> DecisionTransformerOutput:
        """Run `forward` on state tokens ``[B, K, D]`` from `encode_states` instead of states.

        With ``selected_steps``, int64 ``[B]``, logits are those of one step of each context, ``[B, 1, num_actions]``.
        This is faster than to select among the logits of all steps, and gives the same bits. States and returns are
        predicted only with ``with_heads``.
        """
        steps = state_tokens.shape[1]
        action_tokens = torch.tanh(self.action_embedding(actions))
        if actions.shape[1] == steps - 1:  # pad for the rearrangement; the padding is removed below
            action_tokens = F.pad(action_tokens, (0, 0, 0, 1))
        tokens_by_type = [state_tokens, action_tokens]
        if self.config.conditioned:
            if returns_to_go is None:
                raise ValueError("a return-conditioned model needs returns_to_go")
            tokens_by_type.insert(0, self._embed_returns(returns_to_go))
        dtype = torch.promote_types(state_tokens.dtype, action_tokens.dtype)
        tokens = rearrange([each.to(dtype) for each in tokens_by_type], "n b k d -> b (k n) d")
        tokens = tokens[:, : len(tokens_by_type) * steps - (steps - actions.shape[1])]

        x = self.embedding_dropout(self._add_encodings(tokens, timesteps))
        state_positions = slice(len(tokens_by_type) - 2, None, len(tokens_by_type))
        state_predictions = return_predictions = None
        with_heads = with_heads and bool(self.config.predict)
        if output_attentions or output_hidden_states or with_heads:
            x, hidden_states, attentions = self.transformer(x, ALL_POSITIONS, output_attentions)
            if with_heads:
                state_predictions, return_predictions = self._predict_next(
                    x[:, state_positions.start + 1 :: len(tokens_by_type)]
                )
            x = select(x[:, state_positions], selected_steps)
        else:
            x, hidden_states, attentions = self.transformer(x, state_positions, selection=selected_steps)
        action_logits = self.head(x).float()

        loss = None
        if targets is not None:
            if attention_mask is not None:
                targets = targets.masked_fill(~attention_mask, -100)
            loss = F.cross_entropy(action_logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        return DecisionTransformerOutput(
            loss,
            action_logits,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
            state_predictions,
            return_predictions,
        )

    def extend(
        self,
        cache: KeyValueCache,
        rows: Tensor,
        steps: Tensor,
        previous_actions: Tensor,
        returns_to_go: Tensor,
        state_tokens: Tensor,
    ) -> Tensor:
        """Predict the action of a new step of M episodes, from its tokens and the cached ones, which it joins.

        In the first K steps of an episode, the logits are those of `predict`. Later, the cached keys and values still
        know steps that a context of K steps no longer contains. The config must be cacheable.

        Args:
            cache: Keys and values of the earlier steps.
            rows: Indices of the episodes in the cache, int64 ``[M]``.
            steps: Number of earlier steps of each episode, int64 ``[P]``; P may exceed M. Rows after M are padding.
            previous_actions: Actions of the step before, int64 ``[P]``; without effect in the first step.
            returns_to_go: float ``[P]``, in the dataset's reward units; ignored by behavior cloning.
            state_tokens: Tokens ``[P, D]`` from `encode_states`.

        Returns:
            Action logits, float32 ``[M, num_actions]``.
        """
        tokens = [torch.tanh(self.action_embedding(previous_actions)), state_tokens]
        if self.config.conditioned:
            tokens.insert(1, self._embed_returns(returns_to_go))
        new_tokens = cache.new_tokens(rows, steps[: len(rows)])
        positions = new_positions(steps, self.config.tokens_per_step)
        x = self.transformer.extend(torch.stack(tokens, dim=1), positions, new_tokens)
        return self.head(x)[: len(rows), 0].float()

    def _predict_next(self, action_tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the predictions of the next states and returns at action tokens ``[B, K, D]``."""
        return (
            self.state_head(action_tokens).float() if "state" in self.config.predict else None,
            self.return_head(action_tokens).float() if "return" in self.config.predict else None,
        )

    def _embed_returns(self, returns_to_go: Tensor) -> Tensor:
        """Return the tokens ``[..., D]`` of returns-to-go ``[...]``."""
        scaled_returns = returns_to_go.float() / self.config.return_scale
        return torch.tanh(self.return_embedding(scaled_returns.unsqueeze(-1)))

    def _add_encodings(self, tokens: Tensor, timesteps: Tensor) -> Tensor:
        """Add the embeddings of position and timestep that the config has.

        Args:
            tokens: Tokens ``[B, T, D]``.
            timesteps: int64 ``[B, K]``.
        """
        encodings = []
        if self.config.position_encoding == "learned":
            encodings.append(self.position_embedding[: tokens.shape[1]])
        if self.config.timestep_encoding != "none":
            if self.config.timestep_encoding == "window_start":
                timesteps = timesteps[:, :1]
            else:
                timesteps = timesteps.repeat_interleave(self.config.tokens_per_step, dim=1)[:, : tokens.shape[1]]
            encodings.append(self.timestep_embedding[timesteps.clamp(max=self.max_timestep)])
        return tokens + sum(encodings[1:], encodings[0]) if encodings else tokens
