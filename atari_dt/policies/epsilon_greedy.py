"""Policies without a target return: epsilon-greedy on a Q-network, and uniform-random."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from atari_dt.model.q_network import QNetwork
from atari_dt.policies.policy import Floats, Ints
from atari_dt.policies.predictors import MIN_STATES, pad_rows


class EpsilonGreedyPolicy:
    """Policy that takes the action with the largest Q, or with the model's probability epsilon a random one.

    The actions of an episode depend on its seed and its states only.

    Args:
        model: Trained model, in evaluation mode, on the device it plays on.
        num_envs: N.

    Attributes:
        returns_to_go: Zeros, float32 ``[N]``.
    """

    def __init__(self, model: QNetwork, num_envs: int):
        self._model = model
        self._device = next(model.parameters()).device
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Seed the random actions of the environments; target returns are ignored."""
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._rngs[env_index] = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of the environments, int64 ``[M]``."""
        q_values = self._model.q_values(pad_rows(torch.from_numpy(states).to(self._device), MIN_STATES))
        actions: Ints = q_values[: len(states)].argmax(-1).cpu().numpy()
        for i, env_index in enumerate(env_indices):
            rng = self._rngs[env_index]
            if rng.random() < self._model.config.epsilon:
                actions[i] = rng.integers(self._model.num_actions)
        return actions


class RandomPolicy:
    """Uniform-random policy; the actions of an episode depend only on its seed.

    Args:
        num_envs: N.
        num_actions: Number of actions.

    Attributes:
        returns_to_go: Zeros, float32 ``[N]``.
    """

    def __init__(self, num_envs: int, num_actions: int):
        self._num_actions = num_actions
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Seed the actions of the environments; target returns are ignored."""
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._rngs[env_index] = np.random.default_rng(seed)

    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Draw an action for each of the environments, int64 ``[M]``."""
        return np.array([self._rngs[env_index].integers(self._num_actions) for env_index in env_indices])
