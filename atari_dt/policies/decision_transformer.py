"""The policy of the Decision Transformer, this project's or Hugging Face's, and of behavior cloning.

The return-to-go starts at the target return and is lowered by the reward of every step, in
`DecisionTransformerPolicy._lower_returns_to_go`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.policies.policy import Floats, Ints
from atari_dt.policies.predictors import (
    MIN_STATES,
    CachePredictor,
    ContextModel,
    ForwardPass,
    Predictor,
    WindowPredictor,
    pad_rows,
)
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling, draw_actions
from replay_data import InputError


@dataclass(frozen=True)
class PolicyStep:
    """Inputs and outputs of one call of `DecisionTransformerPolicy.act` for M environments.

    Attributes:
        num_steps: Number of steps in each context, at most K, int64 ``[M]``.
        forward_pass: Inputs and outputs of the model, with attention weights.
        probabilities: Probabilities that the actions were drawn with, float64 ``[M, num_actions]``.
    """

    num_steps: Ints
    forward_pass: ForwardPass
    probabilities: npt.NDArray[np.float64]


class DecisionTransformerPolicy:
    """Policy that acts with a Decision Transformer on the last K steps of each environment.

    Each state is encoded once, when it is new. The protocol decides whether the model runs on the whole context of
    every step, or on the newest step alone, with cached keys and values.

    Args:
        model: Trained model with its ``dataset``, in evaluation mode, on the device it plays on.
        num_envs: N.
        protocol: Rewards that lower the return-to-go, the returns and timesteps that the model reads, and the cache.
        sampling: How actions are sampled.
        keep_last_step: Whether to keep ``last_step``, including attention weights; impossible with a cache.

    Attributes:
        returns_to_go: Return-to-go of each environment, float32 ``[N]``.
        last_step: Inputs and outputs of the last call of `act`; None unless ``keep_last_step`` is set.

    Raises:
        InputError: If the model does not know its dataset, or cannot read timesteps or use a cache as the protocol sets
            them.
        ValueError: If ``keep_last_step`` is set, and the protocol uses a cache.
    """

    last_step: PolicyStep | None = None

    def __init__(
        self,
        model: ContextModel,
        num_envs: int,
        protocol: EvaluationProtocol | None = None,
        sampling: Sampling | None = None,
        keep_last_step: bool = False,
    ):
        self._model = model
        self._sampling = sampling or Sampling()
        protocol = protocol or EvaluationProtocol()
        if protocol.window_timestep == "current" and model.config.timestep_encoding == "per_step":
            raise InputError(
                "`window_timestep` must be 'first' for this model, which reads a timestep at every step of its context"
            )
        self._clip_rewards = model.require_dataset().reward_clipping and protocol.reward_units == "dataset"
        self._device = next(model.parameters()).device
        self._window: WindowPredictor | None = None
        if protocol.uses_cache(model.config):
            if keep_last_step:
                raise ValueError("a policy with a cache has no attention weights to keep")
            assert isinstance(model, DecisionTransformer)
            self._predictor: Predictor = CachePredictor(model, num_envs, protocol)
        else:
            self._predictor = self._window = WindowPredictor(model, num_envs, protocol, keep_last_step)
        self._keep_last_step = keep_last_step
        self._elapsed = np.zeros(num_envs, dtype=np.int64)  # steps since the start of each episode
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Begin an episode in each of the environments and set its return-to-go to the target return."""
        self._elapsed[env_indices] = 0
        self.returns_to_go[env_indices] = target_returns
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._rngs[env_index] = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of the environments, int64 ``[M]``."""
        self._lower_returns_to_go(env_indices, rewards)
        elapsed, returns_to_go = self._elapsed[env_indices], self.returns_to_go[env_indices]
        state_tokens = self._encode(torch.from_numpy(states).to(self._device))
        logits = self._predictor.predict(env_indices, elapsed, state_tokens, returns_to_go)
        probabilities = self._sampling.probabilities(logits)
        actions = draw_actions(probabilities, [self._rngs[env_index] for env_index in env_indices])
        self._predictor.add_actions(env_indices, elapsed, actions)
        self._elapsed[env_indices] += 1
        if self._keep_last_step and self._window is not None and self._window.last_pass is not None:
            num_steps = np.minimum(elapsed + 1, self._model.config.context_length)
            self.last_step = PolicyStep(num_steps, self._window.last_pass, probabilities)
        return actions

    @torch.inference_mode()
    def probabilities_under(self, env_indices: Ints, shifts: Floats) -> npt.NDArray[np.float64]:
        """Return the action probabilities of the last `act` under other target returns, given the same history.

        Args:
            env_indices: Environments of that call, int64 ``[M]``.
            shifts: Differences of R target returns from the played one, float32 ``[R]``; added to every return-to-go of
                the context.

        Returns:
            Action probabilities, float64 ``[M, R, num_actions]``.

        Raises:
            ValueError: If the policy uses a cache, which holds one history.
        """
        if self._window is None:
            raise ValueError("a policy with a cache knows the probabilities under one target return only")
        logits = self._window.predict_again(env_indices, self._elapsed[env_indices] - 1, shifts)
        return self._sampling.probabilities(logits).reshape(len(env_indices), len(shifts), -1)

    def _lower_returns_to_go(self, env_indices: Ints, rewards: Floats) -> None:
        """Subtract the reward of the last step from each return-to-go.

        In the first step of an episode there is no reward yet. Rewards are clipped to [-1, 1] if the dataset's are,
        unless the protocol uses raw rewards.
        """
        received = rewards.clip(-1, 1) if self._clip_rewards else rewards
        received = np.where(self._elapsed[env_indices] > 0, received, 0)
        self.returns_to_go[env_indices] -= received.astype(np.float32)

    def _encode(self, states: Tensor) -> Tensor:
        """Return the tokens of states ``[M, *state_shape]``, float32 ``[M, state_token_size]``."""
        return self._model.encode_states(pad_rows(states, MIN_STATES))[: len(states)]
