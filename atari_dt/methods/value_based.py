"""What QR-DQN, CQL and REM share: Q-learning from transitions, with a target network (Mnih et al. 2015)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.batches.transitions import TransitionBatch, TransitionLoader, drop_truncated_ends
from atari_dt.method_config import MethodConfig, ValueConfig
from atari_dt.methods.method import Objective
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.q_network import QNetwork
from atari_dt.model.weights import check_weights
from atari_dt.policies.epsilon_greedy import EpsilonGreedyPolicy
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import InputError, TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.observation import ObservationSpec


class ValueObjective(Objective[TransitionBatch]):
    """Temporal-difference loss of a Q-network against a target network, which subclasses define.

    The target network is a copy of the network that is renewed every ``config.target_update_every`` updates.

    Args:
        model: Network to train.
        seed: Seed of the run.
    """

    metrics = ("loss", "action_accuracy", "td_loss", "q_value")
    validation_loss = "td_loss"

    def __init__(self, model: QNetwork, seed: int):
        super().__init__()
        self.model, self.config, self.seed = model, model.config, seed
        target = type(model).from_config(model.checkpoint_config).requires_grad_(False)
        self.target = target.to(next(model.parameters()).device)
        self.target.load_state_dict(model.state_dict())

    def forward(self, batch: TransitionBatch) -> Tensor:
        """Return the loss, the fraction of the data's actions that are greedy, the TD loss, and the mean largest Q."""
        estimates = self.model(batch.states)
        chosen = estimates[torch.arange(len(estimates), device=estimates.device), batch.actions]
        with torch.no_grad():
            next_estimates = self.target(batch.next_states)
            discounts = self.config.discount * (~batch.terminated)
            q_values = estimates.mean(-1)
            largest, greedy = q_values.max(-1)
            accuracy = (greedy == batch.actions).float().mean()
        td_loss = self.td_loss(chosen, batch.rewards, discounts, next_estimates)
        loss = td_loss + self.regularizer(estimates, chosen)
        return torch.stack([loss, accuracy, td_loss.detach(), largest.mean()])

    @abstractmethod
    def td_loss(self, chosen: Tensor, rewards: Tensor, discounts: Tensor, next_estimates: Tensor) -> Tensor:
        """Return the temporal-difference loss, a scalar.

        Args:
            chosen: Estimates of the actions in the data, float32 ``[B, N]``.
            rewards: Rewards, float32 ``[B]``.
            discounts: Discount of what follows the transition, float32 ``[B]``; 0 where the game ended.
            next_estimates: Estimates of the target network in the next state, float32 ``[B, num_actions, N]``, without
                a gradient.
        """

    def regularizer(self, estimates: Tensor, chosen: Tensor) -> Tensor | float:
        """Return what is added to the temporal-difference loss, a scalar.

        Args:
            estimates: Estimates of all actions, float32 ``[B, num_actions, N]``.
            chosen: Estimates of the actions in the data, float32 ``[B, N]``.
        """
        return 0.0

    def prepare(self, update: int) -> None:
        """Copy the weights to the target network if it is time."""
        if update % self.config.target_update_every == 0:
            self.target.load_state_dict(self.model.state_dict())

    def carried_state(self) -> Mapping[str, Tensor]:
        """Return the weights of the target network."""
        return self.target.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load the weights of the target network."""
        try:
            check_weights(state, {name: tuple(tensor.shape) for name, tensor in self.target.state_dict().items()})
        except ValueError as error:
            raise ValueError(f"of its target network: {error}") from error
        self.target.load_state_dict(state)


class ValueMethod:
    """Q-learning from logged transitions.

    Args:
        make_objective: Function from a network and the seed of the run to the objective.
    """

    network = QNetwork
    action_score = "Q"

    def __init__(self, make_objective: Callable[[QNetwork, int], ValueObjective]):
        self._make_objective = make_objective

    def make_network(self, config: MethodConfig, store: TrajectoryStore) -> QNetwork:
        """Return an untrained network for the actions of a store."""
        assert isinstance(config, ValueConfig)
        return QNetwork(config, store.num_actions)

    def window_length(self, config: MethodConfig) -> int:
        """Return 1: a transition has one action."""
        return 1

    def usable_steps(self, steps: IntArray, store: TrajectoryStore) -> IntArray:
        """Return the steps that are transitions; see `drop_truncated_ends`."""
        return drop_truncated_ends(steps, store)

    def make_loader(self, config: MethodConfig, store: TrajectoryStore, device: torch.device) -> TransitionLoader:
        """Return a loader of transitions."""
        return TransitionLoader(store, device)

    def example_batch(self, config: MethodConfig, observation: ObservationSpec) -> TransitionBatch:
        """Return one transition of zeros."""
        states = torch.zeros(1, *observation.state_shape, dtype=torch.uint8)
        return TransitionBatch(
            states, torch.zeros(1, dtype=torch.int64), torch.zeros(1), states, torch.zeros(1, dtype=torch.bool)
        )

    def make_objective(self, model: PretrainedModel, seed: int) -> ValueObjective:
        """Return the objective."""
        assert isinstance(model, QNetwork)
        return self._make_objective(model, seed)

    def make_policy(
        self,
        model: PretrainedModel,
        num_envs: int,
        protocol: EvaluationProtocol,
        sampling: Sampling,
        planning: PlanningConfig,
    ) -> EpsilonGreedyPolicy:
        """Return the epsilon-greedy policy, which depends on no setting of the protocol.

        Raises:
            InputError: If ``sampling`` or ``planning`` is not the default, or as
                `EvaluationProtocol.check_context_settings`.
        """
        planning.check(model.config)
        assert isinstance(model, QNetwork)
        protocol.check_context_settings(model.config)
        if sampling != Sampling():
            raise InputError(
                f"`temperature` and `top_k` have no effect on {model.config.label}, which takes the action with the "
                "largest Q; leave them out"
            )
        return EpsilonGreedyPolicy(model, num_envs)

    def encode_states(self, model: PretrainedModel, states: Tensor) -> Tensor:
        """Return Q of every action: the network reads nothing but the state."""
        assert isinstance(model, QNetwork)
        return model.q_values(states.flatten(0, -4)).unflatten(0, states.shape[:-3])

    def score_actions(self, model: PretrainedModel, encoded_states: Tensor, batch: ContextBatch) -> Tensor:
        """Return Q of every action at the last step of each context."""
        contexts = torch.arange(len(encoded_states), device=encoded_states.device)
        return encoded_states[contexts, batch.attention_mask.sum(1) - 1]
