"""What a learning method consists of: `Method`, and the `Objective` that it trains a network with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from atari_dt.batches.contexts import ContextBatch
from atari_dt.batches.loader import BatchLoader
from atari_dt.method_config import MethodConfig
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.policy import Policy
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.observation import ObservationSpec

Batch = TypeVar("Batch")


class Objective(nn.Module, ABC, Generic[Batch]):
    """The loss of a network on a batch, and whatever else an update needs besides the network and its optimizer.

    Args:
        model: Network to train.

    Attributes:
        metrics: Names of the values that `forward` returns, which are fields of `MetricsLine`. The first is the loss.
        validation_loss: Name of the value that is reported as the validation loss.
    """

    metrics: tuple[str, ...]
    validation_loss: str = "loss"

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return the metrics of a batch, float32 ``[len(metrics)]``.

        Each is a mean over the actions of the batch, so that a mean of several processes, weighted with their numbers
        of actions, is the metric of all of them.
        """

    def prepare(self, update: int) -> None:
        """Get ready for an update.

        Args:
            update: Number of updates made before.
        """

    def carried_state(self) -> Mapping[str, Tensor]:
        """Return the tensors that later updates depend on, besides weights and optimizer; checkpoints store them."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `carried_state` returned.

        Args:
            state: The tensors, read from a file.

        Raises:
            ValueError: If it holds something else.
        """
        if state:
            raise ValueError("it holds the state of another method")


class Method(Protocol[Batch]):
    """A learning method: how to build a network, load batches, compute the loss of a batch, and act.

    A config of `atari_dt.method_config` selects the method by name, and is passed to it.
    """

    @property
    def network(self) -> type[PretrainedModel]:
        """Type of the network."""

    def make_network(self, config: MethodConfig, store: TrajectoryStore) -> PretrainedModel:
        """Return an untrained network for the game of a store."""

    def window_length(self, config: MethodConfig) -> int:
        """Return the number of successive actions of an entry of a batch: K of a context, 1 of a transition."""

    def usable_steps(self, steps: IntArray, store: TrajectoryStore) -> IntArray:
        """Return the steps, out of int64 ``[M]``, that can be entries of a batch."""

    def make_loader(self, config: MethodConfig, store: TrajectoryStore, device: torch.device) -> BatchLoader[Batch]:
        """Return a loader of batches."""

    def example_batch(self, config: MethodConfig, observation: ObservationSpec) -> Batch:
        """Return a batch of one entry without content, whose shapes count the operations of an update."""

    def make_objective(self, model: PretrainedModel, seed: int) -> Objective[Batch]:
        """Return the objective that trains a network; the learner moves it to the network's device.

        Args:
            model: Network.
            seed: Seed of the run.
        """

    def make_policy(
        self,
        model: PretrainedModel,
        num_envs: int,
        protocol: EvaluationProtocol,
        sampling: Sampling,
        planning: PlanningConfig,
    ) -> Policy:
        """Return the policy of a trained network in ``num_envs`` environments.

        Raises:
            InputError: If the network cannot act under the protocol, with this sampling, or with this planning.
        """

    @property
    def action_score(self) -> str:
        """Name of what `score_actions` returns, as in a sentence: ``"the logit"`` or ``"Q"``."""

    def encode_states(self, model: PretrainedModel, states: Tensor) -> Tensor:
        """Return what the network computes from each state alone, for `score_actions`.

        Args:
            model: Network in evaluation mode.
            states: uint8 or float ``[..., *state_shape]``. The result has gradients with respect to float states.

        Returns:
            float32 ``[..., D]``.
        """

    def score_actions(self, model: PretrainedModel, encoded_states: Tensor, batch: ContextBatch) -> Tensor:
        """Return what the network compares the actions by at the last step of each context.

        Args:
            model: Network in evaluation mode.
            encoded_states: States of the contexts, ``[M, K, D]``; see `encode_states`.
            batch: M contexts, or one context that is shared by all M; ``batch.states`` is ignored. K is the
                `window_length` of the network, or less.

        Returns:
            float32 ``[M, num_actions]``.
        """
