"""Policies that play many games at once, each game in its own episode under its own target return."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.model import DecisionTransformer

Ints = npt.NDArray[np.int64]


class Policy(Protocol):
    """What the evaluator asks of a player of N games."""

    def start(self, indices: Ints, target_returns: npt.NDArray[np.float32], seeds: Ints) -> None:
        """Forget the past of some games ``[M]`` and begin episodes there, each with its target return and seed."""

    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: npt.NDArray[np.float32]) -> Ints:
        """Choose an action for each of some games.

        Args:
            indices: ``[M]``, the games'.
            states: uint8 ``[M, 4, 84, 84]``.
            rewards: float32 ``[M]``, what followed each game's last action, as the game paid it; not read in the
                first step of an episode.

        Returns:
            Action indices, int64 ``[M]``.
        """


class RandomPolicy:
    """Every action is equally likely; an episode's actions depend on its seed alone."""

    def __init__(self, num_envs: int, num_actions: int):
        self._num_actions = num_actions
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, indices: Ints, target_returns: npt.NDArray[np.float32], seeds: Ints) -> None:
        """Seed the games' actions; the target returns mean nothing here."""
        for game, seed in zip(indices, seeds, strict=True):
            self._rngs[game] = np.random.default_rng(seed)

    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: npt.NDArray[np.float32]) -> Ints:
        """Draw an action for each of the games, int64 ``[M]``."""
        return np.array([self._rngs[game].integers(self._num_actions) for game in indices])


class DecisionTransformerPolicy:
    """Samples actions from a model that sees each game's last K steps.

    A state is encoded once, when it is new; only its token is kept. Each game's steps are left-aligned, so games in
    their first K steps and games in the middle of an episode go through the transformer together.

    Args:
        model: on the device where it is to play, in evaluation mode.
        num_envs: N.
        reward_clipping: whether the model's returns are sums of rewards clipped to [-1, 1]; the return-to-go is then
            lowered by the clipped reward.

    Attributes:
        returns_to_go: float32 ``[N]``, what each game has still to reach, in the dataset's reward units.
    """

    def __init__(self, model: DecisionTransformer, num_envs: int, reward_clipping: bool):
        self._model = model
        self._reward_clipping = reward_clipping
        self._device = next(model.parameters()).device
        self._steps = model.config.context_length
        context = num_envs, self._steps
        self._tokens = torch.zeros(*context, model.config.embed_dim, device=self._device)
        self._actions = torch.zeros(context, dtype=torch.int64, device=self._device)
        self._returns = torch.zeros(context, device=self._device)
        self._timesteps = torch.zeros(context, dtype=torch.int64, device=self._device)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)  # steps since each episode's start
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, indices: Ints, target_returns: npt.NDArray[np.float32], seeds: Ints) -> None:
        """Empty the games' contexts; the seeds are those of the action sampling."""
        self._elapsed[indices] = 0
        self.returns_to_go[indices] = target_returns
        for game, seed in zip(indices, seeds, strict=True):
            self._rngs[game] = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: npt.NDArray[np.float32]) -> Ints:
        """Sample an action for each of the games from the softmax of its logits, int64 ``[M]``."""
        if self._reward_clipping:
            rewards = rewards.clip(-1, 1)
        elapsed = self._elapsed[indices]
        self.returns_to_go[indices] -= np.where(elapsed > 0, rewards, 0).astype(np.float32)

        self._drop_oldest(indices[elapsed >= self._steps])
        last = np.minimum(elapsed, self._steps - 1)
        place = self._tensor(indices), self._tensor(last)
        self._tokens[place] = self._model.encode_states(self._tensor(states))
        self._returns[place] = self._tensor(self.returns_to_go[indices])
        self._timesteps[place] = self._tensor(elapsed)

        length = int(last.max()) + 1
        output = self._model.predict(
            self._tokens[place[0], :length],
            self._actions[place[0], : length - 1],
            self._returns[place[0], :length],
            self._timesteps[place[0], :length],
        )
        logits = output.action_logits[torch.arange(len(indices), device=self._device), place[1]]
        probabilities = logits.double().softmax(-1).cpu().numpy()
        draws = np.array([self._rngs[game].random() for game in indices])
        actions = (probabilities.cumsum(-1) < draws[:, None]).sum(-1).clip(max=probabilities.shape[-1] - 1)
        self._actions[place] = self._tensor(actions)
        self._elapsed[indices] += 1
        return actions

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _drop_oldest(self, indices: Ints) -> None:
        """Make room for a step in contexts that are full."""
        if len(indices):
            full = self._tensor(indices)
            for history in (self._tokens, self._actions, self._returns, self._timesteps):
                history[full] = history[full].roll(-1, dims=1)
