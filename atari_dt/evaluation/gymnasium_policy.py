"""Trained models as policies for Gymnasium vector environments."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from atari_dt.evaluation.policy import DecisionTransformerPolicy, Floats, Ints, Sampling
from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.target_returns import compute_target_returns, require_dataset
from atari_dt.hardware import find_device
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint


class GymnasiumPolicy:
    """Policy that plays any Gymnasium vector environment with a trained model; `load_policy` makes one.

    Args:
        model: Trained model with its ``dataset``, in evaluation mode, on the device it plays on.
        target_return: Target return of every episode, in the dataset's reward units.
        protocol: Protocol, as in `DecisionTransformerPolicy`.
        sampling: How actions are sampled.
    """

    def __init__(
        self,
        model: DecisionTransformer,
        target_return: float,
        protocol: EvaluationProtocol | None = None,
        sampling: Sampling | None = None,
    ):
        self._model = model
        self._protocol, self._sampling = protocol, sampling
        self.target_return = target_return
        self._policy: DecisionTransformerPolicy | None = None

    @property
    def dataset(self) -> DatasetInfo:
        """Training data of the model: its game, action meanings and largest return."""
        return require_dataset(self._model)

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""
        return self._require_policy().returns_to_go

    def reset(self, num_envs: int, seed: int = 0, autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> None:
        """Start an episode in each of N environments.

        Args:
            num_envs: N.
            seed: Seed of the action sampling.
            autoreset_mode: Value of ``envs.metadata["autoreset_mode"]``. In `NEXT_STEP`, Gymnasium's default, the first
                observation of an episode arrives one step after the previous episode is done, and the action in between
                is ignored by the environment. In `SAME_STEP`, it arrives together with ``dones``.
        """
        self._policy = DecisionTransformerPolicy(self._model, num_envs, self._protocol, self._sampling)
        self._env_indices = np.arange(num_envs)
        self._seeds = np.random.default_rng(seed)
        self._starts_next_step = autoreset_mode == AutoresetMode.NEXT_STEP
        self._starting = np.ones(num_envs, dtype=bool)  # whether the next observation is the first of an episode

    def act(self, observations: npt.NDArray[np.uint8], rewards: npt.NDArray[Any], dones: npt.NDArray[np.bool_]) -> Ints:
        """Choose an action for every environment.

        Args:
            observations: Current observations, uint8 ``[N, 4, 84, 84]`` or ``[N, 84, 84, 4]``, oldest frame first.
            rewards: Unclipped rewards of the last step, ``[N]``; ignored before the first step.
            dones: Whether the last step terminated or truncated the episode, bool ``[N]``; ignored before the first
                step.

        Returns:
            Action indices, int64 ``[N]``.

        Raises:
            ValueError: If the observations have another shape or dtype, or `reset` was not called.
        """
        policy = self._require_policy()
        num_envs = len(self._env_indices)
        shape = num_envs, 4, 84, 84
        states = np.asarray(observations)
        if states.shape == (num_envs, 84, 84, 4):
            states = states.transpose(0, 3, 1, 2)
        if states.shape != shape or states.dtype != np.uint8:
            raise ValueError(f"observations must be uint8 {shape}, not {states.dtype} {states.shape}")
        dones = np.asarray(dones, dtype=bool)
        starting = self._starting if self._starts_next_step else self._starting | dones
        self._starting = dones & ~starting if self._starts_next_step else np.zeros_like(dones)
        starting_envs = np.flatnonzero(starting)
        target_returns = np.full(len(starting_envs), self.target_return, dtype=np.float32)
        policy.start(starting_envs, target_returns, self._seeds.integers(2**31, size=len(starting_envs)))
        return policy.act(self._env_indices, np.ascontiguousarray(states), np.asarray(rewards, dtype=np.float32))

    def _require_policy(self) -> DecisionTransformerPolicy:
        """Return the policy that `reset` made."""
        if self._policy is None:
            raise ValueError("call reset with the number of environments first")
        return self._policy


def load_policy(
    run_directory: str | os.PathLike[str],
    return_multiple: float = 1.0,
    *,
    target_return: float | None = None,
    device: str = "auto",
    protocol: EvaluationProtocol | None = None,
    sampling: Sampling | None = None,
) -> GymnasiumPolicy:
    """Load a trained model as a policy for Gymnasium vector environments.

    Args:
        run_directory: Run directory written by scripts/train.py, or one of its checkpoints.
        return_multiple: Target return as a multiple of the dataset's largest return.
        target_return: Target return in the dataset's reward units, instead of a multiple.
        device: Device of the model: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        protocol: Rewards that lower the return-to-go, and the returns and timesteps that the model reads; by default as
            in training.
        sampling: How actions are sampled; by default from the softmax of the logits.

    Raises:
        InputError: If the run or device does not exist, the model does not know its dataset, or the dataset's largest
            return has no such multiple.
    """
    model = DecisionTransformer.from_pretrained(latest_checkpoint(run_directory)).to(find_device(device))
    dataset = require_dataset(model)
    if target_return is None:
        if model.config.conditioning == "none":
            target_return = 0.0  # behavior cloning does not read it
        else:
            (target_return,) = compute_target_returns(dataset, [return_multiple])
    return GymnasiumPolicy(model, target_return, protocol, sampling)
