"""The Decision Transformer and behavior cloning (Chen et al. 2021): predict the actions of a context."""

from __future__ import annotations

import torch
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch, ContextLoader
from atari_dt.config import Head, ModelConfig
from atari_dt.games.ram_variables import require_observation
from atari_dt.method_config import MethodConfig, SequenceConfig
from atari_dt.methods.method import Objective
from atari_dt.model.decision_transformer import DecisionTransformer, DecisionTransformerOutput
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.vector_encoder import VectorEncoder
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.predictors import ContextModel
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.observation import ObservationSpec


class ActionPrediction(Objective[ContextBatch]):
    """Cross-entropy of the dataset's actions, in nats (Chen et al. 2021, section 3).

    The squared errors of the predicted states and returns, if the config has such heads, are added with its weights.

    Args:
        model: Network to train.
    """

    def __init__(self, model: ContextModel):
        super().__init__()
        self.model = model
        self.metrics = ("loss", "action_accuracy")
        if heads := model.config.predict:
            self.metrics = (*self.metrics, "action_loss", *(f"{head}_loss" for head in heads))
            self.validation_loss = "action_loss"

    def forward(self, batch: ContextBatch) -> Tensor:
        """Return the loss, the fraction of actions that the model finds most probable, and the parts of the loss."""
        output = self.model(
            batch.states,
            batch.actions,
            batch.returns_to_go,
            batch.timesteps,
            batch.attention_mask,
            targets=batch.actions,
        )
        correct = (output.action_logits.detach().argmax(-1) == batch.actions) & batch.attention_mask
        accuracy = correct.sum() / batch.attention_mask.sum()
        if not self.model.config.predict:
            return torch.stack([output.loss, accuracy])
        loss, parts = output.loss, [output.loss.detach()]
        for head in self.model.config.predict:
            head_loss = self._head_loss(head, output, batch)
            loss = loss + getattr(self.model.config, f"{head}_loss_weight") * head_loss
            parts.append(head_loss.detach())
        return torch.stack([loss, accuracy, *parts])

    def _head_loss(self, head: Head, output: DecisionTransformerOutput, batch: ContextBatch) -> Tensor:
        """Return the squared error of the next states or returns, averaged over the entries of a state.

        It is divided by the number of steps, although the last step of each context has no next step in it.
        """
        if head == "state":
            assert isinstance(self.model, DecisionTransformer)
            encoder = self.model.state_encoder
            assert isinstance(encoder, VectorEncoder)
            predictions, targets = output.state_predictions, encoder.normalize(batch.states)
        else:
            predictions, targets = output.return_predictions, batch.returns_to_go.unsqueeze(-1)
        assert predictions is not None
        errors = (predictions[:, :-1] - targets[:, 1:]).square().mean(-1) * batch.attention_mask[:, 1:]
        return errors.sum() / batch.attention_mask.sum()


class SequenceMethod:
    """The Decision Transformer, or behavior cloning if the config says that the network reads no returns-to-go."""

    network: type[PretrainedModel] = DecisionTransformer
    action_score = "the logit"

    def make_network(self, config: MethodConfig, store: TrajectoryStore) -> PretrainedModel:
        """Return an untrained network that embeds every timestep of a store.

        Raises:
            InputError: If the store does not hold what the config observes.
        """
        observation = require_observation(config.observation, config.variables, store)
        assert isinstance(config, ModelConfig)
        model = DecisionTransformer(config, store.num_actions, int(store.timesteps.max()), observation)
        if isinstance(model.state_encoder, VectorEncoder):
            assert store.metadata.ram_statistics is not None
            model.state_encoder.set_statistics(*store.metadata.ram_statistics.normalizer(observation))
        return model

    def window_length(self, config: MethodConfig) -> int:
        """Return K, the number of steps of a context."""
        return _narrow(config).context_length

    def usable_steps(self, steps: IntArray, store: TrajectoryStore) -> IntArray:
        """Return all steps: each starts a context."""
        return steps

    def make_loader(self, config: MethodConfig, store: TrajectoryStore, device: torch.device) -> ContextLoader:
        """Return a loader of contexts."""
        observation = require_observation(config.observation, config.variables, store)
        return ContextLoader(store, _narrow(config).context_length, device, observation)

    def example_batch(self, config: MethodConfig, observation: ObservationSpec) -> ContextBatch:
        """Return one context of zeros."""
        shape = 1, _narrow(config).context_length
        indices = torch.zeros(shape, dtype=torch.int64)
        states = torch.zeros(*shape, *observation.state_shape, dtype=torch.uint8)
        return ContextBatch(states, indices, torch.zeros(shape), indices, torch.ones(shape, dtype=torch.bool))

    def make_objective(self, model: PretrainedModel, seed: int) -> ActionPrediction:
        """Return the cross-entropy of the actions."""
        assert isinstance(model, ContextModel)
        return ActionPrediction(model)

    def make_policy(
        self,
        model: PretrainedModel,
        num_envs: int,
        protocol: EvaluationProtocol,
        sampling: Sampling,
        planning: PlanningConfig,
    ) -> DecisionTransformerPolicy:
        """Return the policy that samples from the predicted distribution of actions."""
        planning.check(model.config)
        assert isinstance(model, ContextModel)
        return DecisionTransformerPolicy(model, num_envs, protocol, sampling)

    def encode_states(self, model: PretrainedModel, states: Tensor) -> Tensor:
        """Return the state tokens."""
        assert isinstance(model, ContextModel)
        return model.encode_states(states)

    def score_actions(self, model: PretrainedModel, encoded_states: Tensor, batch: ContextBatch) -> Tensor:
        """Return the action logits at the last step of each context."""
        assert isinstance(model, ContextModel)
        num_contexts = len(encoded_states)
        actions, returns, timesteps = (
            values.expand(num_contexts, -1) for values in (batch.actions, batch.returns_to_go, batch.timesteps)
        )
        mask = batch.attention_mask.expand(num_contexts, -1)
        logits = model.predict(encoded_states, actions, returns, timesteps, mask).action_logits
        return logits[torch.arange(num_contexts, device=logits.device), batch.attention_mask.sum(1) - 1]


def _narrow(config: MethodConfig) -> SequenceConfig:
    assert isinstance(config, SequenceConfig)
    return config
