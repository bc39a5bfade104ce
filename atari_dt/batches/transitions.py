"""Batches of transitions, for the value-based methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.batches.loader import BatchLoader, to_tensor
from replay_data import InputError, TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.episode import STACK
from replay_data.observation import FRAMES


@dataclass(frozen=True)
class TransitionBatch:
    """B transitions, each from a step to the next one of the same episode.

    Attributes:
        states: uint8 ``[B, 4, 84, 84]``, oldest frame first.
        actions: int64 ``[B]``.
        rewards: float32 ``[B]``, clipped to [-1, 1].
        next_states: uint8 ``[B, 4, 84, 84]``; shares three frames with ``states``, without copies. Where the game
            ended, it repeats the last frame and has no meaning.
        terminated: bool ``[B]``, whether the game ended with the step, so that no reward follows.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminated: Tensor


class TransitionLoader(BatchLoader[TransitionBatch]):
    """Gathers batches of transitions from a store.

    A transition reads five frames: four of its state, and one more for the next state.

    A store does not hold the state after the last step of an episode. If the game ended there, no state follows. If a
    time limit truncated the episode, the next state is unknown, so the last step is no transition. The steps before it
    bootstrap from the states that were seen. `drop_truncated_ends` leaves out the steps that are no transitions.

    Args:
        store: Data.
        device: Device of the batches.
        resident: As in `BatchLoader`.

    Raises:
        InputError: If the store does not tell terminated from truncated episodes.
    """

    def __init__(self, store: TrajectoryStore, device: torch.device, resident: bool | None = None):
        terminated = np.zeros(len(store), dtype=np.bool_)
        last_steps = store.episode_ends - 1
        terminated[last_steps] = require_terminated(store)
        lengths = np.full(len(store), 2, dtype=np.int64)
        lengths[last_steps] = 1
        super().__init__(store, np.arange(len(store)), lengths, 2, device, FRAMES, resident)
        self._actions = to_tensor(store.actions, device)
        self._rewards = to_tensor(store.rewards.clip(-1, 1), device)
        self._terminated = to_tensor(terminated, device)

    def num_steps(self, steps: npt.ArrayLike) -> int:
        """Return the number of transitions ``[B]``."""
        return len(np.asarray(steps))

    def _complete(self, index: Tensor, observations: Tensor) -> TransitionBatch:
        return TransitionBatch(
            states=observations[:, :STACK],
            actions=self._actions[index].long(),
            rewards=self._rewards[index],
            next_states=observations[:, 1:],
            terminated=self._terminated[index],
        )


def require_terminated(store: TrajectoryStore) -> npt.NDArray[np.bool_]:
    """Return whether each episode of a store ended with the game, bool ``[E]``.

    Raises:
        InputError: If the store does not tell terminated from truncated episodes.
    """
    if store.terminated is None:
        raise InputError(
            f"{store.path} does not tell terminated from truncated episodes, like all stores of format 1, and "
            "value-based methods need to know; build it again from its source"
        )
    return store.terminated


def drop_truncated_ends(steps: IntArray, store: TrajectoryStore) -> IntArray:
    """Return the steps, of int64 ``[M]``, that are transitions: all but the last steps of truncated episodes.

    Raises:
        InputError: As `require_terminated` does.
    """
    truncated = store.episode_ends[~require_terminated(store)] - 1
    return steps[~np.isin(steps, truncated)]
