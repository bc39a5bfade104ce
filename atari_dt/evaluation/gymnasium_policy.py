"""A trained model as a policy for any Gymnasium vector environment."""

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
    """A trained model as a player of any Gymnasium vector environment; `load_policy` makes one.

    Args:
        model: with its ``dataset``, on the device where it is to play, in evaluation mode.
        target_return: that every episode is asked for, in the dataset's reward units.
        protocol: as in `DecisionTransformerPolicy`.
        sampling: likewise.
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
        """What the model was trained on: the game, the meanings of its actions, the largest return."""
        return require_dataset(self._model)

    @property
    def returns_to_go(self) -> Floats:
        """What each game has still to reach, float32 ``[N]``."""
        return self._playing().returns_to_go

    def reset(self, num_envs: int, seed: int = 0, autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> None:
        """Begin an episode in each of N games.

        Args:
            num_envs: N.
            seed: of the action sampling.
            autoreset_mode: ``envs.metadata["autoreset_mode"]``: when the first observation of the next episode comes
                after one that ended. In `NEXT_STEP`, Gymnasium's default, one step later, and the action before it is
                not played; otherwise together with ``dones``.
        """
        self._policy = DecisionTransformerPolicy(self._model, num_envs, self._protocol, self._sampling)
        self._games = np.arange(num_envs)
        self._seeds = np.random.default_rng(seed)
        self._waits = autoreset_mode == AutoresetMode.NEXT_STEP
        self._starts = np.ones(num_envs, dtype=bool)  # whose next observation is an episode's first

    def act(self, observations: npt.NDArray[np.uint8], rewards: npt.NDArray[Any], dones: npt.NDArray[np.bool_]) -> Ints:
        """Choose an action for every game.

        Args:
            observations: uint8 ``[N, 4, 84, 84]`` or ``[N, 84, 84, 4]``, oldest frame first.
            rewards: ``[N]``, of the last step, as the game paid them; what is given before the first step is not read.
            dones: bool ``[N]``, terminated or truncated in the last step; likewise.

        Returns:
            Action indices, int64 ``[N]``.

        Raises:
            ValueError: if the shapes or types are others, or `reset` was not called.
        """
        policy = self._playing()
        shape = len(self._games), 4, 84, 84
        states = np.asarray(observations)
        if states.shape == (len(self._games), 84, 84, 4):
            states = states.transpose(0, 3, 1, 2)
        if states.shape != shape or states.dtype != np.uint8:
            raise ValueError(f"observations must be uint8 {shape}, not {states.dtype} {states.shape}")
        dones = np.asarray(dones, dtype=bool)
        starting = self._starts if self._waits else self._starts | dones
        self._starts = dones & ~starting if self._waits else np.zeros_like(dones)
        games = np.flatnonzero(starting)
        targets = np.full(len(games), self.target_return, dtype=np.float32)
        policy.start(games, targets, self._seeds.integers(2**31, size=len(games)))
        return policy.act(self._games, np.ascontiguousarray(states), np.asarray(rewards, dtype=np.float32))

    def _playing(self) -> DecisionTransformerPolicy:
        if self._policy is None:
            raise ValueError("call reset with the number of games first")
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
    """Read a trained model and let it play in other people's code.

    Args:
        run_directory: what scripts/train.py wrote, or one of its checkpoints.
        return_multiple: of the dataset's largest return, for the target return.
        target_return: instead, in the dataset's reward units.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        protocol: which rewards lower the return-to-go, and how; by default as the data was made.
        sampling: temperature and top-k; by default the softmax as it is.

    Raises:
        InputError: if there is no such run or device, or the model does not know its dataset, or the multiple asks
            for nothing.
    """
    model = DecisionTransformer.from_pretrained(latest_checkpoint(run_directory)).to(find_device(device))
    dataset = require_dataset(model)
    if target_return is None:
        cloning = model.config.conditioning == "none"
        target_return = 0.0 if cloning else compute_target_returns(dataset, [return_multiple])[0]
    return GymnasiumPolicy(model, target_return, protocol, sampling)
