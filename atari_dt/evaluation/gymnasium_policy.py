"""Trained models as policies for Gymnasium vector environments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from atari_dt.evaluation.target_returns import check_target_returns, compute_target_returns
from atari_dt.hardware import find_device
from atari_dt.methods.registry import find_method, load_model
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import PretrainedModel, latest_checkpoint
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.policy import Floats, Ints, Policy
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data.errors import InputError
from replay_data.observation import RAM_SIZE


class GymnasiumPolicy:
    """Policy that plays any Gymnasium vector environment with a trained model; `load_policy` makes one.

    Args:
        model: Trained model with its ``dataset``, in evaluation mode, on the device it plays on.
        target_return: Target return of every episode, in the dataset's reward units; None for a model that has none.
        protocol: Protocol, as in `DecisionTransformerPolicy`.
        sampling: How actions are sampled.
        planning: How a model that plans searches for actions.

    Raises:
        InputError: If the target return is not finite in single precision, is missing, or is given to a model that has
            none.
    """

    def __init__(
        self,
        model: PretrainedModel,
        target_return: float | None = None,
        protocol: EvaluationProtocol | None = None,
        sampling: Sampling | None = None,
        planning: PlanningConfig | None = None,
    ):
        if target_return is not None:
            _check_conditioned(model)
            check_target_returns([target_return])
        elif model.config.conditioned:
            raise InputError("`target_return` is missing; give the target return of the episodes")
        self._model = model
        self._protocol, self._sampling = protocol or EvaluationProtocol(), sampling or Sampling()
        self._planning = planning or PlanningConfig()
        self.target_return = target_return
        self._policy: Policy | None = None

    @property
    def dataset(self) -> DatasetInfo:
        """Training data of the model: its game, action meanings and largest return."""
        return self._model.require_dataset()

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""
        return self._require_policy().returns_to_go

    def reset(self, envs: VectorEnv[Any, Any, Any], seed: int = 0) -> None:
        """Start an episode in every environment.

        The environments are not stepped here, only asked for their number, their actions and their autoreset mode. In
        `NEXT_STEP`, Gymnasium's default, the first observation of an episode arrives one step after the previous
        episode is done, and the action in between is ignored by the environment. In the other modes, it arrives
        together with ``dones``.

        Args:
            envs: The N environments that the policy plays.
            seed: Seed of the action sampling.

        Raises:
            InputError: If ``envs`` is no Gymnasium vector environment, or the environments have other actions than the
                game that the model was trained on.
        """
        if not isinstance(envs, VectorEnv):
            raise InputError(
                f"`envs` must be a Gymnasium vector environment, not of type {type(envs).__name__}; make one with "
                "gymnasium.make_vec, or from single environments with gymnasium.vector.SyncVectorEnv"
            )
        _check_actions(envs, self.dataset.action_meanings)
        # AtariVectorEnv shares one metadata among all its instances; each instance has its own autoreset_mode.
        mode = getattr(envs.unwrapped, "autoreset_mode", envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        method = find_method(self._model.config)
        self._policy = method.make_policy(self._model, envs.num_envs, self._protocol, self._sampling, self._planning)
        self._env_indices = np.arange(envs.num_envs)
        self._seeds = np.random.default_rng(seed)
        self._starts_next_step = mode == AutoresetMode.NEXT_STEP
        self._starting = np.ones(envs.num_envs, dtype=bool)  # whether the next observation is the first of an episode

    def act(self, observations: npt.NDArray[np.uint8], rewards: npt.NDArray[Any], dones: npt.NDArray[np.bool_]) -> Ints:
        """Choose an action for every environment.

        Args:
            observations: Current observations: frames, uint8 ``[N, 4, 84, 84]`` or ``[N, 84, 84, 4]``, oldest first; or
                RAM, uint8 ``[N, 128]``, for a model that observes RAM or variables in it.
            rewards: Unclipped rewards of the last step, ``[N]``; ignored before the first step.
            dones: Whether the last step terminated or truncated the episode, bool ``[N]``; ignored before the first
                step.

        Returns:
            Action indices, int64 ``[N]``.

        Raises:
            ValueError: If the observations have another shape or dtype, the rewards or ``dones`` have another shape, a
                reward is not finite, or `reset` was not called.
        """
        policy = self._require_policy()
        num_envs = len(self._env_indices)
        observation = self._model.observation
        shape = num_envs, *((RAM_SIZE,) if observation.is_vector else observation.state_shape)
        states = np.asarray(observations)
        if states.shape == (num_envs, 84, 84, 4) and not observation.is_vector:
            states = states.transpose(0, 3, 1, 2)
        if states.shape != shape or states.dtype != np.uint8:
            raise ValueError(
                f"observations must be uint8 {shape} for a model that observes {observation.kind}, "
                f"not {states.dtype} {states.shape}"
            )
        if observation.is_vector:
            states = observation.select(states)
        rewards = _one_per_env("rewards", np.asarray(rewards, dtype=np.float32), num_envs)
        dones = _one_per_env("dones", np.asarray(dones, dtype=bool), num_envs)
        starting = self._starting if self._starts_next_step else self._starting | dones
        self._starting = dones & ~starting if self._starts_next_step else np.zeros_like(dones)
        if not np.isfinite(rewards[~starting]).all():
            raise ValueError("rewards must be finite")
        starting_envs = np.flatnonzero(starting)
        target_returns = np.full(len(starting_envs), self.target_return or 0.0, dtype=np.float32)
        policy.start(starting_envs, target_returns, self._seeds.integers(2**31, size=len(starting_envs)))
        return policy.act(self._env_indices, np.ascontiguousarray(states), rewards)

    def _require_policy(self) -> Policy:
        """Return the policy that `reset` made."""
        if self._policy is None:
            raise ValueError("call reset with the environments first")
        return self._policy


def _check_conditioned(model: PretrainedModel) -> None:
    """Raise InputError if a model has no target return."""
    if not model.config.conditioned:
        raise InputError(f"{model.config.title} has no target return; leave `return_multiple` and `target_return` out")


def _one_per_env(name: str, values: npt.NDArray[Any], num_envs: int) -> npt.NDArray[Any]:
    """Return values ``[N]``; a scalar counts for all environments."""
    if values.shape not in ((), (num_envs,)):
        raise ValueError(f"{name} must have one value per environment, shape {(num_envs,)}, not {values.shape}")
    return np.broadcast_to(values, num_envs)


def _check_actions(envs: VectorEnv[Any, Any, Any], expected: Sequence[str]) -> None:
    """Raise InputError if the actions of the environments are not those that the model was trained with."""
    space = envs.single_action_space
    if not isinstance(space, Discrete) or space.n != len(expected) or space.start != 0:
        raise InputError(
            f"the model was trained with the {len(expected)} actions {' '.join(expected)}, but the action space of the "
            f"environments is {space}; make them for the same game, with full_action_space=False and without wrappers "
            "that change the actions"
        )
    for meanings in _action_meanings(envs):
        # A wrapper may have made another action space out of an environment's own actions.
        if len(meanings) == len(expected) and list(meanings) != list(expected):
            raise InputError(
                f"the model was trained with the actions {' '.join(expected)}, but those of the environments are "
                f"{' '.join(meanings)}; make the environments for the same game"
            )


def _action_meanings(envs: VectorEnv[Any, Any, Any]) -> Iterable[Sequence[str]]:
    """Return the action meanings of the environments that know them."""
    base = envs.unwrapped
    if isinstance(base, AtariVectorEnv):
        return [[action.name for action in base.ale.get_action_set()]]
    if not isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
        return []
    # A worker of an AsyncVectorEnv ends when it is asked for an attribute that it lacks.
    return base.call("get_action_meanings") if all(base.call("has_wrapper_attr", "get_action_meanings")) else []


def load_policy(
    run_directory: str | os.PathLike[str],
    return_multiple: float | None = None,
    *,
    target_return: float | None = None,
    device: str = "auto",
    protocol: EvaluationProtocol | None = None,
    sampling: Sampling | None = None,
    planning: PlanningConfig | None = None,
) -> GymnasiumPolicy:
    """Load a trained model as a policy for Gymnasium vector environments.

    Args:
        run_directory: Run directory written by scripts/train.py, or one of its checkpoints.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 if no target return is given.
        target_return: Target return in the dataset's reward units, instead of a multiple.
        device: Device of the model: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        protocol: Rewards that lower the return-to-go, the returns and timesteps that the model reads, and the cache; by
            default as in training, with a cache if the model allows it.
        sampling: How actions are sampled from logits; by default from their softmax.
        planning: How a model that plans searches for actions.

    Raises:
        InputError: If the run or device does not exist, the model does not know its dataset, the dataset's largest
            return has no such multiple, both a multiple and a target return are given, or either to a model that has
            none.
    """
    model = load_model(latest_checkpoint(run_directory)).to(find_device(device))
    dataset = model.require_dataset()
    if return_multiple is not None:
        _check_conditioned(model)
        if target_return is not None:
            raise InputError("give `return_multiple` or `target_return`, not both")
    if target_return is None and model.config.conditioned:
        multiple = 1.0 if return_multiple is None else return_multiple
        target_return = compute_target_returns(dataset, [multiple])[0]
    return GymnasiumPolicy(model, target_return, protocol, sampling, planning)
