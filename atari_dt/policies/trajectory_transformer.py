"""The policy of the Trajectory Transformer: plan with a beam search, or imitate the data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.model.trajectory_transformer import TokenCache, TrajectoryTransformer
from atari_dt.policies.beam_search import MIN_TOKENS, BeamSearch, Plans
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.policy import Floats, Ints
from atari_dt.policies.predictors import pad_rows
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling, draw_actions
from replay_data import InputError


class TrajectoryTransformerPolicy:
    """Policy that acts with a Trajectory Transformer on the last steps of each environment.

    It plans anew at every step and takes the first action of the best plan, or samples the action from the model's
    distribution given the same history. The actions of an episode depend on its seed, its states and its rewards only.

    Args:
        model: Trained model with its ``dataset``, in evaluation mode, on the device it plays on.
        num_envs: N.
        protocol: Settings of the environment.
        sampling: How actions are sampled without a planner.
        planning: Settings of the planner.

    Attributes:
        returns_to_go: Zeros, float32 ``[N]``.
        last_plan: Plans of the environments of the last call of `act`, in order; None before it, and without a planner.

    Raises:
        InputError: If the model does not know its dataset, its sequences are too short for the context, or a setting
            has no effect.
    """

    last_plan: Plans | None = None

    def __init__(
        self,
        model: TrajectoryTransformer,
        num_envs: int,
        protocol: EvaluationProtocol | None = None,
        sampling: Sampling | None = None,
        planning: PlanningConfig | None = None,
    ):
        self._model, self._planning = model, planning or PlanningConfig()
        self._sampling = sampling or Sampling()
        (protocol or EvaluationProtocol()).check_context_settings(model.config)
        max_steps, context = model.config.sequence_length, self._planning.context
        if context >= max_steps:
            raise InputError(
                f"`context` must be less than {max_steps}, the model's number of steps in a sequence, not {context}"
            )
        self._search: BeamSearch[TokenCache] | None = None
        if self._planning.planner == "beam":
            if self._sampling != Sampling():
                raise InputError(
                    "`temperature` and `top_k` have no effect on a planner, which does not sample actions; leave them "
                    "out, or set `planner` to none"
                )
            given = self._planning.planning_discount
            self._search = BeamSearch(model, self._planning, model.config.discount if given is None else given)
        self._clip_rewards = model.require_dataset().reward_clipping
        self._device = next(model.parameters()).device
        # The last steps of each environment, newest last; the newest one has no action and reward yet.
        num_steps = context + 1
        self._states = np.zeros((num_envs, num_steps, *model.observation.state_shape), dtype=np.uint8)
        self._actions = np.zeros((num_envs, num_steps), dtype=np.int64)
        self._rewards = np.zeros((num_envs, num_steps), dtype=np.float32)
        self._num_steps = np.zeros(num_envs, dtype=np.int64)  # of these steps; no more than `num_steps`
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Forget the steps of the environments, and seed their generators; target returns are ignored."""
        self._num_steps[env_indices] = 0
        for env_index, seed in zip(env_indices, seeds, strict=True):
            self._rngs[env_index] = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of the environments, int64 ``[M]``."""
        self._add_states(env_indices, states, rewards)
        num_steps = self._num_steps[env_indices]
        actions = np.zeros(len(env_indices), dtype=np.int64)
        plans = []
        # Sequences of one length share their forward passes. Episodes differ in it in their first steps only.
        for length in np.unique(num_steps):
            members = np.flatnonzero(num_steps == length)
            envs = env_indices[members]
            tokens, rngs = self._tokens(envs, length), [self._rngs[env_index] for env_index in envs]
            if self._search is None:
                actions[members] = self._imitate(tokens, rngs)
            else:
                plans.append((members, self._search.plan(tokens, rngs)))
        if plans:
            self.last_plan = Plans.join(plans)
            actions = self.last_plan.actions[:, 0]
        self._actions[env_indices, -1] = actions
        return actions

    def _imitate(self, tokens: Tensor, rngs: list[np.random.Generator]) -> Ints:
        """Draw actions from the model's distribution after tokens ``[M, T]``."""
        _, logits = self._model.start(pad_rows(tokens, -(-MIN_TOKENS // tokens.shape[1])))
        probabilities = self._sampling.probabilities(logits[: len(tokens), : self._model.num_actions])
        return draw_actions(probabilities, rngs)

    def _add_states(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> None:
        """Add the rewards of the steps before and the states of new steps."""
        received = rewards.clip(-1, 1) if self._clip_rewards else rewards
        self._rewards[env_indices, -1] = received
        for history in (self._states, self._actions, self._rewards):
            history[env_indices, :-1] = history[env_indices, 1:]
        self._states[env_indices, -1] = states
        self._num_steps[env_indices] = np.minimum(self._num_steps[env_indices] + 1, self._states.shape[1])

    def _tokens(self, env_indices: Ints, num_steps: int) -> Tensor:
        """Return the tokens of the newest steps up to the newest observation, int64 ``[M, T]``."""
        histories = self._states, self._actions, self._rewards, np.zeros_like(self._rewards)
        steps = (torch.from_numpy(history[env_indices, -num_steps:]).to(self._device) for history in histories)
        return self._model.encode_steps(*steps)[:, :-3]
