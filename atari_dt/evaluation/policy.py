"""Policies that play many games at once, each game in its own episode under its own target return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.target_returns import require_dataset
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError

Ints = npt.NDArray[np.int64]

Floats = npt.NDArray[np.float32]

# With fewer rows than these, the matrix library was seen to choose kernels that add in another order. What one game
# is given would then differ in the last bit with the number of games beside it, and one draw in a million with it.
_LEAST_STATES = 12

_LEAST_TOKENS = 64


@dataclass(frozen=True)
class Sampling:
    """How an action is chosen from its logits.

    Attributes:
        temperature: the logits are divided by it; 0 takes the likeliest action (greedy).
        top_k: choose among the so many likeliest actions; among all by default.
    """

    temperature: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be at least 1, not {self.top_k}")

    def probabilities(self, logits: Tensor) -> npt.NDArray[np.float64]:
        """Turn logits ``[M, num_actions]`` into probabilities, float64 ``[M, num_actions]``."""
        top_k = logits.shape[-1] if self.top_k is None else min(self.top_k, logits.shape[-1])
        if self.temperature == 0:
            top_k = 1
        kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, logits.topk(top_k).indices, True)
        scaled = logits.double() / (self.temperature or 1.0)
        return scaled.masked_fill(~kept, -math.inf).softmax(-1).cpu().numpy()


class Policy(Protocol):
    """What the evaluator asks of a player of N games."""

    @property
    def returns_to_go(self) -> Floats:
        """What each game has still to reach, float32 ``[N]``."""

    def start(self, indices: Ints, compute_target_returns: Floats, seeds: Ints) -> None:
        """Forget the past of some games ``[M]`` and begin episodes there, each with its target return and seed."""

    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
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
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, indices: Ints, compute_target_returns: Floats, seeds: Ints) -> None:
        """Seed the games' actions; the target returns mean nothing here."""
        for game, seed in zip(indices, seeds, strict=True):
            self._rngs[game] = np.random.default_rng(seed)

    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Draw an action for each of the games, int64 ``[M]``."""
        return np.array([self._rngs[game].integers(self._num_actions) for game in indices])


@dataclass(frozen=True)
class PolicyStep:
    """What one call of `DecisionTransformerPolicy.act` saw and computed for M games.

    Steps are left-aligned; what lies behind a game's newest step means nothing. Tensors are on the model's device.

    Attributes:
        num_steps: int64 ``[M]``, how many of the K steps there were.
        actions: int64 ``[M, K - 1]``.
        returns_to_go: float32 ``[M, K]``, as the model read them.
        timesteps: int64 ``[M, K]``, likewise.
        logits: float32 ``[M, num_actions]``, from which the actions were chosen.
        probabilities: float64 ``[M, num_actions]``, with which they were drawn.
        attentions: for each layer float32 ``[M, heads, T, T]``, of the same forward pass.
    """

    num_steps: Ints
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    logits: Tensor
    probabilities: npt.NDArray[np.float64]
    attentions: tuple[Tensor, ...]


class DecisionTransformerPolicy:
    """Chooses actions with a model that sees each game's last K steps.

    A state is encoded once, when it is new; only its token is kept. Each game's steps are left-aligned, so games in
    their first K steps and games in the middle of an episode go through the transformer together.

    Args:
        model: with its ``dataset``, on the device where it is to play, in evaluation mode.
        num_envs: N.
        protocol: which rewards lower the return-to-go, and how returns and timesteps are shown to the model.
        sampling: how actions are chosen.
        keep_last_step: whether ``decision`` is kept, attention weights included.

    Attributes:
        returns_to_go: float32 ``[N]``, what each game has still to reach.
        decision: what the last `act` saw and computed, if that is kept.

    Raises:
        InputError: if the model does not know its dataset, or cannot be given timesteps as the protocol wants.
    """

    last_step: PolicyStep | None = None

    def __init__(
        self,
        model: DecisionTransformer,
        num_envs: int,
        protocol: EvaluationProtocol | None = None,
        sampling: Sampling | None = None,
        keep_last_step: bool = False,
    ):
        self._model = model
        self._protocol = protocol or EvaluationProtocol()
        self._sampling = sampling or Sampling()
        self._keep_last_step = keep_last_step
        if self._protocol.window_timestep == "current" and model.config.timestep_encoding == "per_step":
            raise InputError(
                "this model gives every step its own timestep, so its contexts have none of the newest step's; "
                "use --window-timestep first"
            )
        self._clip = require_dataset(model).reward_clipping and self._protocol.reward_units == "dataset"
        self._device = next(model.parameters()).device
        self._steps = model.config.context_length
        tokens = self._steps * (3 if model.config.conditioning == "return" else 2) - 1
        self._least_games = -(-_LEAST_TOKENS // tokens)
        context = num_envs, self._steps
        self._tokens = torch.zeros(*context, model.config.embed_dim, device=self._device)
        self._actions = torch.zeros(context, dtype=torch.int64, device=self._device)
        self._returns = torch.zeros(context, device=self._device)
        self._timesteps = torch.zeros(context, dtype=torch.int64, device=self._device)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)  # steps since each episode's start
        self.returns_to_go = np.zeros(num_envs, dtype=np.float32)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def start(self, indices: Ints, compute_target_returns: Floats, seeds: Ints) -> None:
        """Empty the games' contexts; the seeds are those of the action sampling."""
        self._elapsed[indices] = 0
        self.returns_to_go[indices] = compute_target_returns
        for game, seed in zip(indices, seeds, strict=True):
            self._rngs[game] = np.random.default_rng(seed)

    @torch.inference_mode()
    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose an action for each of the games, int64 ``[M]``."""
        elapsed = self._elapsed[indices]
        paid = np.where(elapsed > 0, rewards.clip(-1, 1) if self._clip else rewards, 0)
        self.returns_to_go[indices] -= paid.astype(np.float32)

        self._drop_oldest(indices[elapsed >= self._steps])
        place = self._tensor(indices), self._tensor(np.minimum(elapsed, self._steps - 1))
        self._tokens[place] = self._encode(self._tensor(states))
        self._returns[place] = self._tensor(self.returns_to_go[indices])
        self._timesteps[place] = self._tensor(elapsed)
        if self._protocol.window_timestep == "current":
            self._timesteps[place[0], 0] = self._tensor(elapsed)

        logits, context, attentions = self._predict(*place, output_attentions=self._keep_last_step)
        probabilities = self._sampling.probabilities(logits)
        if attentions is not None:
            num_steps = np.minimum(elapsed + 1, self._steps)
            self.last_step = PolicyStep(num_steps, *context, logits, probabilities, attentions)
        draws = np.array([self._rngs[game].random() for game in indices])
        likeliest = probabilities.argmax(-1)  # where rounding leaves the sum below the draw
        reached = probabilities.cumsum(-1) > draws[:, None]
        actions = np.where(reached.any(-1), reached.argmax(-1), likeliest)
        self._actions[place] = self._tensor(actions)
        self._elapsed[indices] += 1
        return actions

    @torch.inference_mode()
    def probabilities_under(self, indices: Ints, shifts: Floats) -> npt.NDArray[np.float64]:
        """Ask what the last `act` would have gone by under other target returns, the past being what it is.

        Args:
            indices: ``[M]``, games that it was called with.
            shifts: float32 ``[R]``, added to every return-to-go of the context: the other target less the one played.

        Returns:
            The actions' probabilities, float64 ``[M, R, num_actions]``.
        """
        games = self._tensor(indices).repeat_interleave(len(shifts))
        newest = self._tensor(np.minimum(self._elapsed[indices], self._steps) - 1).repeat_interleave(len(shifts))
        logits, _, _ = self._predict(games, newest, self._tensor(np.tile(shifts, len(indices))))
        return self._sampling.probabilities(logits).reshape(len(indices), len(shifts), -1)

    def _encode(self, states: Tensor) -> Tensor:
        return self._model.encode_states(_at_least(states, _LEAST_STATES))[: len(states)]

    def _predict(
        self, games: Tensor, newest: Tensor, shifts: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...] | None]:
        """Logits ``[M, num_actions]`` of some games' newest steps, actions, returns and timesteps read, attentions."""
        number, rows = len(games), _at_least(games, self._least_games)
        returns = self._returns[rows]
        if shifts is not None:
            returns = returns + _at_least(shifts, self._least_games)[:, None]
        if self._protocol.integer_returns:
            returns = returns.trunc()
        context = self._actions[rows, : self._steps - 1], returns, self._timesteps[rows]
        output = self._model.predict(self._tokens[rows], *context, output_attentions=output_attentions)
        logits = output.action_logits[torch.arange(number, device=self._device), newest]
        actions, returns, timesteps = (values[:number] for values in context)
        attentions = output.attentions and tuple(weights[:number] for weights in output.attentions)
        return logits, (actions, returns, timesteps), attentions

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _drop_oldest(self, indices: Ints) -> None:
        """Make room for a step in contexts that are full."""
        if len(indices):
            full = self._tensor(indices)
            for history in (self._tokens, self._actions, self._returns, self._timesteps):
                history[full] = history[full].roll(-1, dims=1)


def _at_least(rows: Tensor, number: int) -> Tensor:
    """Repeat the first row until there are so many."""
    if len(rows) >= number:
        return rows
    return torch.cat([rows, rows[:1].expand(number - len(rows), *rows.shape[1:])])
