"""A small game whose best Q is known, logged transitions of it, and a network that is a table of Q.

Everything here but `TableNetwork` is computed without PyTorch and without the package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atari_dt.batches.transitions import TransitionBatch
from atari_dt.config import TrainingConfig
from atari_dt.hardware import Compute
from atari_dt.method_config import QRDQNConfig, REMConfig, ValueConfig
from atari_dt.methods.value_based import ValueObjective
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.q_network import QNetwork
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from replay_data import StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource
from tests.atari_dt.q_networks import ADAM

FloatArray = npt.NDArray[np.float64]

NUM_STATES, NUM_ACTIONS = 5, 2


class Outcome(NamedTuple):
    """What an action leads to: a reward, and equally likely next states; None ends the game."""

    reward: float
    next_states: list[int | None]


GAME: dict[tuple[int, int], Outcome] = {
    (0, 0): Outcome(0.0, [1]),
    (0, 1): Outcome(0.0, [2, 3]),
    (1, 0): Outcome(0.5, [4]),
    (1, 1): Outcome(0.0, [0]),
    (2, 0): Outcome(1.0, [None]),
    (2, 1): Outcome(-0.5, [0]),
    (3, 0): Outcome(-1.0, [None]),
    (3, 1): Outcome(0.25, [1]),
    (4, 0): Outcome(0.75, [None]),
    (4, 1): Outcome(1.0, [0, None]),
}
"""The game; state 0 is the first one of every episode."""

MAX_STEPS = 9
"""Steps after which an episode is truncated."""


class Transition(NamedTuple):
    """A transition of the log; ``next_state`` is None where the game ended."""

    state: int
    action: int
    reward: float
    next_state: int | None


def write_log(path: Path, num_steps: int, seed: int = 0) -> tuple[TrajectoryStore, list[Transition]]:
    """Write a store of episodes of a uniform-random policy.

    The next states of an action take turns, so that each is as frequent in the log as in the game. A reward of 1 is a
    7 in the store, whose rewards are not clipped.

    Returns:
        The store, and all its transitions: the last step of a truncated episode is none.
    """
    rng = np.random.default_rng(seed)
    visits: dict[tuple[int, int], int] = dict.fromkeys(GAME, 0)
    transitions: list[Transition] = []

    def play() -> Iterator[Transition]:
        state: int | None = 0
        while state is not None:
            action = int(rng.integers(NUM_ACTIONS))
            reward, next_states = GAME[state, action]
            next_state = next_states[visits[state, action] % len(next_states)]
            visits[state, action] += 1
            yield Transition(state, action, reward, next_state)
            state = next_state

    with StoreWriter(
        path,
        game="Breakout",
        action_meanings=["NOOP", "FIRE"],
        reward_clipping=False,
        sticky_actions=None,
        source=StoreSource("test"),
    ) as writer:
        while writer.steps < num_steps:
            episode = [step for _, step in zip(range(MAX_STEPS), play(), strict=False)]
            terminated = episode[-1].next_state is None
            transitions += episode if terminated else episode[:-1]
            rewards = np.array([7.0 if step.reward == 1 else step.reward for step in episode])
            frames = show([step.state for step in episode])[:, 0]
            writer.append(frames, np.array([step.action for step in episode]), rewards, terminated=terminated)
    return TrajectoryStore.open(path), transitions


def show(states: list[int]) -> npt.NDArray[np.uint8]:
    """Return stacks ``[B, 4, 84, 84]`` whose newest frame shows a state by its brightness."""
    brightness = np.array([40 * (state + 1) for state in states], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(brightness[:, None, None, None], (len(states), 4, 84, 84)))


class TableNetwork(QNetwork):
    """A table of estimates, ``[NUM_STATES, num_actions, num_estimates]``, in place of a network."""

    def __init__(self, config: QRDQNConfig | REMConfig, num_actions: int):
        PretrainedModel.__init__(self, config, num_actions)
        self.table = nn.Parameter(torch.randn(NUM_STATES, num_actions, config.num_estimates) / 10)

    def forward(self, states: Tensor) -> Tensor:
        """Return the estimates of the states that the newest frames show."""
        return self.table[(states[:, -1, 0, 0].long() // 40 - 1).clamp(min=0)]


class TableLearner(NamedTuple):
    """A learner of a table, its objective, and the tables of the network and of the target network."""

    learner: Learner
    objective: ValueObjective
    online: nn.Parameter
    target: nn.Parameter


def make_learner(
    config: QRDQNConfig | REMConfig, num_actions: int = NUM_ACTIONS, training: TrainingConfig = ADAM
) -> TableLearner:
    """Return a learner of a table of small random numbers."""
    model = TableNetwork(config, num_actions)
    learner = Learner(model, training, Compute(torch.device("cpu"), torch.float32, compiled=False), ProcessGroup())
    objective = learner.objective
    assert isinstance(objective, ValueObjective)
    assert isinstance(objective.target, TableNetwork)
    return TableLearner(learner, objective, model.table, objective.target.table)


def make_batch(transitions: list[Transition]) -> TransitionBatch:
    """Return a batch of transitions; the state that follows a terminated one is the last one, as in a loader's."""
    state, action, reward, next_state = zip(*transitions, strict=True)
    following = [last if each is None else each for last, each in zip(state, next_state, strict=True)]
    return TransitionBatch(
        states=torch.from_numpy(show(list(state))),
        actions=torch.tensor(action),
        rewards=torch.tensor(reward, dtype=torch.float32),
        next_states=torch.from_numpy(show(following)),
        terminated=torch.tensor([each is None for each in next_state]),
    )


def iterate_values(discount: float) -> FloatArray:
    """Return the best Q of the game, ``[NUM_STATES, NUM_ACTIONS]``, by value iteration."""
    q = np.zeros((NUM_STATES, NUM_ACTIONS))
    for _ in range(200):
        for (state, action), (reward, next_states) in GAME.items():
            following = [0.0 if each is None else q[each].max() for each in next_states]
            q[state, action] = reward + discount * np.mean(following)
    return q


def solve_quantiles(transitions: list[Transition], num_quantiles: int, discount: float, alpha: float) -> FloatArray:
    """Return the quantiles at which CQL stands still, ``[NUM_STATES, NUM_ACTIONS, num_quantiles]``.

    For each state and action, the derivative of the loss with respect to quantile i is zero: the mean of
    ``|tau_i - (y < theta_i)| clip(y - theta_i)`` over the targets y equals ``alpha (pi - p) / (p N)``, where pi is the
    softmax of Q and p the frequency of the action in the log. The left side falls with theta_i, so that bisection finds
    it. Targets and softmax are those of the quantiles before, until nothing changes. With an alpha of 0
    these are the quantiles of QR-DQN.
    """
    fractions = (np.arange(num_quantiles)[:, None] + 0.5) / num_quantiles
    quantiles = np.zeros((NUM_STATES, NUM_ACTIONS, num_quantiles))
    counts = np.zeros((NUM_STATES, NUM_ACTIONS))
    followed: dict[tuple[int, int], Counter[int | None]] = {key: Counter() for key in GAME}
    for state, action, _, next_state in transitions:
        counts[state, action] += 1
        followed[state, action][next_state] += 1
    frequency = counts / counts.sum(1, keepdims=True)
    for _ in range(200):
        q = quantiles.mean(-1)
        policy = np.exp(q) / np.exp(q).sum(1, keepdims=True)
        balance = alpha * (policy - frequency) / (frequency * num_quantiles)
        new = np.empty_like(quantiles)
        for (state, action), next_states in followed.items():
            following = [0 if each is None else quantiles[each, q[each].argmax()] for each in next_states]
            targets = GAME[state, action].reward + discount * np.stack(np.broadcast_arrays(*following, new[0, 0]))[:-1]
            weights = np.array(list(next_states.values()))[:, None] / counts[state, action] / num_quantiles
            low, high = np.full((num_quantiles, 1), -20.0), np.full((num_quantiles, 1), 20.0)
            for _ in range(40):
                middle = (low + high) / 2
                errors = targets - middle[:, None]
                slope = (weights * np.abs(fractions[:, None] - (errors < 0)) * errors.clip(-1, 1)).sum((1, 2))[:, None]
                above = slope > balance[state, action]
                low, high = np.where(above, middle, low), np.where(above, high, middle)
            new[state, action] = middle[:, 0]
        change = np.abs(new - quantiles).max()
        quantiles = new
        if change < 1e-6:
            return quantiles
    raise AssertionError("the iteration does not converge")


def losses_by_hand(
    config: ValueConfig,
    estimates: Sequence[FloatArray],
    next_estimates: Sequence[FloatArray | None],
    actions: Iterable[int],
    rewards: Iterable[float],
    mixture: FloatArray | None = None,
) -> dict[str, float]:
    """Return the metrics of a batch of B transitions, with loops over numbers.

    Args:
        config: Config of the method.
        estimates: Estimates of the network in each state, ``[num_actions, N]``.
        next_estimates: Estimates of the target network in each next state; None where the game ended.
        actions: Action of each transition.
        rewards: Clipped reward of each transition.
        mixture: Weights of REM's heads ``[N]``; None for QR-DQN and CQL.
    """
    sums = {"td_loss": 0.0, "conservative": 0.0, "q_value": 0.0, "action_accuracy": 0.0}
    for of_state, of_next_state, action, reward in zip(estimates, next_estimates, actions, rewards, strict=True):
        q = of_state.mean(-1).tolist()
        sums["q_value"] += max(q)
        sums["action_accuracy"] += q.index(max(q)) == action
        sums["conservative"] += np.log(sum(np.exp(value) for value in q)) - q[action]
        following = np.zeros_like(of_state) if of_next_state is None else of_next_state
        if mixture is not None:
            best = max((following * mixture).sum(-1))
            error = abs(reward + config.discount * best - (of_state[action] * mixture).sum())
            sums["td_loss"] += error**2 / 2 if error <= 1 else error - 0.5
        else:
            best_action = following.mean(-1).argmax()
            targets = [reward + config.discount * value for value in following[best_action].tolist()]
            sums["td_loss"] += quantile_huber_by_hand(of_state[action].tolist(), targets)
    means = {name: total / len(estimates) for name, total in sums.items()}
    return {"loss": means["td_loss"] + getattr(config, "alpha", 0.0) * means.pop("conservative"), **means}


def quantile_huber_by_hand(quantiles: list[float], targets: list[float]) -> float:
    """Return the quantile Huber loss of one action: a sum over quantiles, a mean over targets."""
    loss = 0.0
    for index, quantile in enumerate(quantiles):
        fraction = (2 * index + 1) / (2 * len(quantiles))
        for each in targets:
            error = each - quantile
            huber = error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5
            loss += abs(fraction - (1 if error < 0 else 0)) * huber / len(targets)
    return loss
