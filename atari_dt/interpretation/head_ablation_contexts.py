"""Play episodes and keep the contexts that the actions were predicted from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.interpretation.head_ablation import Contexts
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.policy import Floats, Ints
from replay_data import InputError


class ContextRecorder:
    """Policy that keeps a random sample of the full contexts of another policy.

    Every context of K steps has the same chance to be in the sample (Vitter 1985, algorithm R), whatever the number and
    the lengths of the episodes. Shorter contexts, of the first steps of an episode, are left out.

    Args:
        policy: Policy that plays, with ``keep_last_step``.
        context_length: K.
        max_contexts: Size of the sample; all contexts are kept if there are fewer.
        seed: Seed of the sample.
    """

    def __init__(self, policy: DecisionTransformerPolicy, context_length: int, max_contexts: int, seed: int):
        self._policy, self._context_length, self._max_contexts = policy, context_length, max_contexts
        self._rng = np.random.default_rng(seed)
        self._num_seen = 0
        self._sample: list[tuple[Tensor, ...]] = []

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""
        return self._policy.returns_to_go

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Begin an episode in each of the given environments."""
        self._policy.start(env_indices, target_returns, seeds)

    @torch.inference_mode()
    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose actions with the other policy, int64 ``[M]``, and sample the contexts."""
        actions = self._policy.act(env_indices, states, rewards)
        step = self._policy.last_step
        assert step is not None
        inputs = step.forward_pass
        taken = torch.from_numpy(actions).to(inputs.actions.device)[:, None]
        columns = inputs.state_tokens, torch.cat([inputs.actions, taken], 1), inputs.returns_to_go, inputs.timesteps
        for row in np.flatnonzero(step.num_steps == self._context_length):
            index = len(self._sample)
            if index == self._max_contexts:
                index = int(self._rng.integers(self._num_seen + 1))
            self._num_seen += 1
            if index < self._max_contexts:
                self._sample[index : index + 1] = [tuple(values[row].clone() for values in columns)]
        return actions

    def contexts(self) -> Contexts:
        """Return the sample.

        Raises:
            InputError: If no episode lasted K steps.
        """
        if not self._sample:
            raise InputError(
                f"no episode lasted {self._context_length} steps, the model's context length; change `seed` or raise "
                "`episodes`"
            )
        return Contexts(*(torch.stack(column) for column in zip(*self._sample, strict=True)))
