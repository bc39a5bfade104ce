"""The Trajectory Transformer (Janner et al. 2021, arXiv:2106.02039): predict every token of a trajectory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atari_dt.batches.contexts import ContextBatch
from atari_dt.batches.trajectories import TrajectoryBatch, TrajectoryLoader, discounted_values
from atari_dt.games.ram_variables import require_observation
from atari_dt.method_config import MethodConfig
from atari_dt.methods.method import Objective
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from atari_dt.policies.trajectory_transformer import TrajectoryTransformerPolicy
from atari_dt.trajectory_config import NUM_EXTRA_TOKENS, TrajectoryTransformerConfig
from replay_data import InputError, TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.observation import ObservationSpec


class TokenPrediction(Objective[TrajectoryBatch]):
    """Weighted cross-entropy of all tokens, in nats (Janner et al. 2021, equation 1).

    As in the authors' code, the loss is a mean over tokens, which is not divided by their mean weight. The first token
    of a trajectory follows nothing and is not predicted; it counts as a token with loss 0, so that every step counts
    the same.

    Args:
        model: Network to train.
    """

    def __init__(self, model: TrajectoryTransformer):
        super().__init__()
        self.model = model
        self.metrics = ("loss", "action_accuracy")

    def forward(self, batch: TrajectoryBatch) -> Tensor:
        """Return the loss, and the fraction of the data's actions that the model finds most probable."""
        losses, correct = self.token_losses(batch)
        config, num_actions = self.model.config, batch.mask.sum()
        weights = torch.ones(self.model.tokens_per_step, device=losses.device)
        weights[-3], weights[-2], weights[-1] = config.action_weight, config.reward_weight, config.value_weight
        loss = (losses.sum((0, 1)) * weights).sum() / (num_actions * self.model.tokens_per_step)
        return torch.stack([loss, correct.sum() / num_actions])

    def token_losses(self, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each token, without weights, and whether each action is the most probable one.

        Args:
            batch: B trajectories of L steps of E tokens.

        Returns:
            ``(losses, correct)``: float32 ``[B, L, E]`` in nats, 0 on padding and for the first token of a trajectory;
            bool ``[B, L]``, false on padding.
        """
        tokens = self.model.encode_steps(batch.states, batch.actions, batch.rewards, batch.values)
        logits = self.model(tokens[:, :-1])
        losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)
        by_step = F.pad(losses, (1, 0)).unflatten(1, (-1, self.model.tokens_per_step))
        observed = self.model.tokens_per_step - NUM_EXTRA_TOKENS  # the last of them predicts the action
        predicted = logits[:, observed - 1 :: self.model.tokens_per_step].argmax(-1)
        return by_step * batch.mask[..., None], (predicted == batch.actions) & batch.mask


class TrajectoryMethod:
    """The Trajectory Transformer, which predicts and plans with one model of states, actions, rewards and values."""

    network = TrajectoryTransformer
    action_score = "the logit"

    def make_network(self, config: MethodConfig, store: TrajectoryStore) -> TrajectoryTransformer:
        """Return an untrained network whose tokens are fitted to a store.

        Raises:
            InputError: If the store does not hold what the config observes, or there are more actions than tokens.
        """
        config = _narrow(config)
        observation = require_observation(config.observation, config.variables, store)
        model = TrajectoryTransformer(config, store.num_actions, observation)
        states = observation.select(store.require_ram())
        values = discounted_values(store.rewards, store.episode_ends, config.discount)
        columns = [*states.T, np.arange(store.num_actions), store.rewards, values]
        model.discretizer.fit(columns, config.discretization)
        return model

    def window_length(self, config: MethodConfig) -> int:
        """Return the number of steps in a sequence."""
        return _narrow(config).sequence_length

    def usable_steps(self, steps: IntArray, store: TrajectoryStore) -> IntArray:
        """Return all steps: each starts a sequence."""
        return steps

    def make_loader(self, config: MethodConfig, store: TrajectoryStore, device: torch.device) -> TrajectoryLoader:
        """Return a loader of trajectories."""
        config = _narrow(config)
        observation = require_observation(config.observation, config.variables, store)
        return TrajectoryLoader(store, config.sequence_length, config.discount, device, observation)

    def example_batch(self, config: MethodConfig, observation: ObservationSpec) -> TrajectoryBatch:
        """Return one trajectory of zeros."""
        shape = 1, _narrow(config).sequence_length
        states, numbers = torch.zeros(*shape, *observation.state_shape, dtype=torch.uint8), torch.zeros(shape)
        return TrajectoryBatch(states, numbers.long(), numbers, numbers, torch.ones(shape, dtype=torch.bool))

    def make_objective(self, model: PretrainedModel, seed: int) -> TokenPrediction:
        """Return the cross-entropy of the tokens."""
        assert isinstance(model, TrajectoryTransformer)
        return TokenPrediction(model)

    def make_policy(
        self,
        model: PretrainedModel,
        num_envs: int,
        protocol: EvaluationProtocol,
        sampling: Sampling,
        planning: PlanningConfig,
    ) -> TrajectoryTransformerPolicy:
        """Return the policy that plans with a beam search, or samples actions from the model."""
        assert isinstance(model, TrajectoryTransformer)
        return TrajectoryTransformerPolicy(model, num_envs, protocol, sampling, planning)

    def encode_states(self, model: PretrainedModel, states: Tensor) -> Tensor:
        """Return the number that the token of each entry stands for, float32 ``[..., V]``.

        Raises:
            InputError: If gradients are wanted: tokens have none.
        """
        assert isinstance(model, TrajectoryTransformer)
        if states.requires_grad:
            raise InputError(
                "the Trajectory Transformer reads tokens, through which no gradient flows; choose occlusion instead"
            )
        return model.decode_observations(model.encode_observations(states))

    def score_actions(self, model: PretrainedModel, encoded_states: Tensor, batch: ContextBatch) -> Tensor:
        """Return the action logits at the last step of each context, without a search.

        The rewards of the earlier steps are differences of returns-to-go. Values have no influence on action logits.
        """
        assert isinstance(model, TrajectoryTransformer)
        num_contexts = len(encoded_states)
        actions, returns = (each.expand(num_contexts, -1) for each in (batch.actions, batch.returns_to_go))
        rewards = F.pad(returns[:, :-1] - returns[:, 1:], (0, 1))
        tokens = model.encode_steps(encoded_states, actions, rewards, torch.zeros_like(rewards))
        last_observed = batch.attention_mask.sum(1) * model.tokens_per_step - NUM_EXTRA_TOKENS - 1
        logits = model(tokens[:, :-1])
        return logits[torch.arange(num_contexts, device=logits.device), last_observed, : model.num_actions]


def _narrow(config: MethodConfig) -> TrajectoryTransformerConfig:
    assert isinstance(config, TrajectoryTransformerConfig)
    return config
