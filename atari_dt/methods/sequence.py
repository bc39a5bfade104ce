"""The Decision Transformer and behavior cloning (Chen et al. 2021): predict the actions of a context."""

from __future__ import annotations

import torch
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch, ContextLoader
from atari_dt.config import ModelConfig
from atari_dt.method_config import MethodConfig
from atari_dt.methods.method import Objective
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import TrajectoryStore
from replay_data.contexts import IntArray


class ActionPrediction(Objective[ContextBatch]):
    """Cross-entropy of the dataset's actions, in nats (Chen et al. 2021, section 3).

    Args:
        model: Network to train.
    """

    metrics = ("loss", "action_accuracy")

    def __init__(self, model: DecisionTransformer):
        super().__init__()
        self.model = model

    def forward(self, batch: ContextBatch) -> Tensor:
        """Return the mean cross-entropy of the actions, and the fraction that the model finds most probable."""
        output = self.model(
            batch.states,
            batch.actions,
            batch.returns_to_go,
            batch.timesteps,
            batch.attention_mask,
            targets=batch.actions,
        )
        correct = (output.action_logits.detach().argmax(-1) == batch.actions) & batch.attention_mask
        return torch.stack([output.loss, correct.sum() / batch.attention_mask.sum()])


class SequenceMethod:
    """The Decision Transformer, or behavior cloning if the config says that the network reads no returns-to-go."""

    network = DecisionTransformer
    action_score = "the logit"

    def make_network(self, config: MethodConfig, store: TrajectoryStore) -> DecisionTransformer:
        """Return an untrained network that embeds every timestep of a store."""
        return DecisionTransformer(_narrow(config), store.num_actions, int(store.timesteps.max()))

    def window_length(self, config: MethodConfig) -> int:
        """Return K, the number of steps of a context."""
        return _narrow(config).context_length

    def usable_steps(self, steps: IntArray, store: TrajectoryStore) -> IntArray:
        """Return all steps: each starts a context."""
        return steps

    def make_loader(self, config: MethodConfig, store: TrajectoryStore, device: torch.device) -> ContextLoader:
        """Return a loader of contexts."""
        return ContextLoader(store, _narrow(config).context_length, device)

    def example_batch(self, config: MethodConfig) -> ContextBatch:
        """Return one context of zeros."""
        shape = 1, _narrow(config).context_length
        indices = torch.zeros(shape, dtype=torch.int64)
        states = torch.zeros(*shape, 4, 84, 84, dtype=torch.uint8)
        return ContextBatch(states, indices, torch.zeros(shape), indices, torch.ones(shape, dtype=torch.bool))

    def make_objective(self, model: PretrainedModel, seed: int) -> ActionPrediction:
        """Return the cross-entropy of the actions."""
        assert isinstance(model, DecisionTransformer)
        return ActionPrediction(model)

    def make_policy(
        self, model: PretrainedModel, num_envs: int, protocol: EvaluationProtocol, sampling: Sampling
    ) -> DecisionTransformerPolicy:
        """Return the policy that samples from the predicted distribution of actions."""
        assert isinstance(model, DecisionTransformer)
        return DecisionTransformerPolicy(model, num_envs, protocol, sampling)

    def encode_states(self, model: PretrainedModel, states: Tensor) -> Tensor:
        """Return the state tokens."""
        assert isinstance(model, DecisionTransformer)
        return model.encode_states(states)

    def score_actions(self, model: PretrainedModel, encoded_states: Tensor, batch: ContextBatch) -> Tensor:
        """Return the action logits at the last step of each context."""
        assert isinstance(model, DecisionTransformer)
        num_contexts = len(encoded_states)
        actions, returns, timesteps = (
            values.expand(num_contexts, -1) for values in (batch.actions, batch.returns_to_go, batch.timesteps)
        )
        logits = model.predict(encoded_states, actions, returns, timesteps).action_logits
        return logits[torch.arange(num_contexts, device=logits.device), batch.attention_mask.sum(1) - 1]


def _narrow(config: MethodConfig) -> ModelConfig:
    assert isinstance(config, ModelConfig)
    return config
