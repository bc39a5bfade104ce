from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from atari_dt.policies import beam_search
from atari_dt.policies.beam_search import BeamSearch, Plans, imagine_observations
from atari_dt.policies.planning_config import PlanningConfig
from replay_data import InputError

NUM_STATES, NUM_ACTIONS = 7, 3
VOCAB_SIZE = NUM_STATES
OBSERVATION, ACTION, REWARD, VALUE = range(4)  # tokens of a step
DISCOUNT = 0.9


@dataclass
class TableCache:
    """All tokens of the sequences."""

    tokens: Tensor

    def select(self, rows: Tensor) -> TableCache:
        return TableCache(self.tokens[rows])


class TableModel:
    """A Markov decision process of one variable as tables; the tokens of rewards and values are their indices.

    Args:
        seed: Seed of the tables.
        memory: Number of steps whose observations decide the next one.
    """

    tokens_per_step, num_actions, max_tokens = 4, NUM_ACTIONS, 399

    def __init__(self, seed: int, memory: int = 1):
        rng = np.random.default_rng(seed)
        self.memory = memory
        self.next_logits = torch.from_numpy(rng.normal(size=(memory, NUM_STATES, NUM_ACTIONS, NUM_STATES)))
        self.action_logits = torch.from_numpy(rng.normal(size=(NUM_STATES, NUM_ACTIONS)))
        self.reward_logits = torch.from_numpy(rng.normal(size=(NUM_STATES, NUM_ACTIONS, VOCAB_SIZE)))
        self.value_logits = torch.from_numpy(rng.normal(size=(NUM_STATES, NUM_ACTIONS, VOCAB_SIZE)))
        self.levels = torch.linspace(-1, 1, VOCAB_SIZE, dtype=torch.float64)
        self.starts: list[tuple[int, ...]] = []  # shapes of the sequences read by `start`

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token; it depends on no token of a value."""
        position = tokens.shape[1] % 4
        if position == ACTION:
            found = self.action_logits[tokens[:, -1]]
        elif position == REWARD:
            found = self.reward_logits[tokens[:, -2], tokens[:, -1]]
        elif position == VALUE:
            found = self.value_logits[tokens[:, -3], tokens[:, -2]]
        else:
            steps = tokens.reshape(len(tokens), -1, 4).flip(1)[:, : self.memory]
            ages = range(steps.shape[1])
            found = torch.stack([self.next_logits[i, steps[:, i, OBSERVATION], steps[:, i, ACTION]] for i in ages]).sum(
                0
            )
        padding = VOCAB_SIZE - found.shape[-1]
        return torch.nn.functional.pad(found, (0, padding), value=-torch.inf).float()

    def start(self, tokens: Tensor) -> tuple[TableCache, Tensor]:
        self.starts.append(tuple(tokens.shape))
        return TableCache(tokens), self.logits(tokens)

    def extend(self, cache: TableCache, tokens: Tensor) -> Tensor:
        cache.tokens = torch.cat([cache.tokens, tokens[:, None]], dim=1)
        return self.logits(cache.tokens)

    def expected_reward(self, logits: Tensor) -> Tensor:
        return (logits.softmax(-1) * self.levels.float()).sum(-1)

    def expected_value(self, logits: Tensor) -> Tensor:
        return 3 * self.expected_reward(logits)

    def decode_observations(self, tokens: Tensor) -> Tensor:
        return 10.0 * tokens


def search(model: TableModel, tokens: Tensor, config: PlanningConfig, seeds: Sequence[int] | None = None) -> Plans:
    """Return the plans of games; a game's seed is its index by default."""
    rngs = [np.random.default_rng(seed) for seed in seeds or range(len(tokens))]
    return BeamSearch(model, config, DISCOUNT).plan(tokens, rngs)


def roll_out(
    model: TableModel, state: int, actions: tuple[int, ...]
) -> tuple[list[int], list[float], list[float], float]:
    """Return states, rewards, values and the predicted return of actions, with Python's numbers alone."""
    states, rewards, values, total = [], [], [], 0.0
    for step, action in enumerate(actions):
        reward, value = (
            scale * float(np.exp(table) @ model.levels.numpy() / np.exp(table).sum())
            for scale, table in (
                (1, model.reward_logits[state, action].numpy()),
                (3, model.value_logits[state, action].numpy()),
            )
        )
        states.append(state)
        rewards.append(reward)
        values.append(value)
        total += DISCOUNT**step * reward
        state = int(model.next_logits[0, state, action].argmax())
    return states, rewards, values, total + DISCOUNT ** len(actions) * values[-1]


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_plan_of_an_exhaustive_search(seed: int) -> None:
    model, horizon = TableModel(seed), 4
    tokens = torch.arange(NUM_STATES)[:, None]
    plans = search(
        model, tokens, PlanningConfig(beam_width=27, horizon=horizon, action_top_k=NUM_ACTIONS, observation_top_k=1)
    )
    for state in range(NUM_STATES):
        best = max(
            itertools.product(range(NUM_ACTIONS), repeat=horizon),
            key=lambda actions: roll_out(model, state, actions)[3],
        )
        states, rewards, values, score = roll_out(model, state, best)
        assert tuple(plans.actions[state]) == best
        assert plans.observations[state, :, 0].tolist() == [10.0 * each for each in states]
        np.testing.assert_allclose(plans.rewards[state], rewards, atol=1e-6)
        np.testing.assert_allclose(plans.values[state], values, atol=1e-6)
        np.testing.assert_allclose(plans.scores[state], score, atol=1e-5)


@pytest.mark.parametrize("beam_width", [1, 2, 5])
def test_a_narrow_beam_is_a_beam_search_written_with_lists(beam_width: int) -> None:
    model, horizon, top_k = TableModel(11), 5, 2
    plans = search(
        model,
        torch.arange(NUM_STATES)[:, None],
        PlanningConfig(beam_width=beam_width, horizon=horizon, action_top_k=top_k, observation_top_k=1),
    )
    for state in range(NUM_STATES):
        kept: list[tuple[int, ...]] = [()]
        for _ in range(horizon):
            longer = []
            for actions in kept:
                last = roll_out(model, state, (*actions, 0))[0][-1]
                longer += [
                    (*actions, int(action)) for action in model.action_logits[last].argsort(descending=True)[:top_k]
                ]
            kept = sorted(longer, key=lambda actions: -roll_out(model, state, actions)[3])[:beam_width]
        assert tuple(plans.actions[state]) == kept[0]


def test_a_narrow_beam_is_never_better_and_sometimes_worse() -> None:
    tokens = torch.arange(NUM_STATES)[:, None]
    narrow, wide = [], []
    for seed in range(5):
        model = TableModel(seed)
        narrow.append(
            search(
                model, tokens, PlanningConfig(beam_width=1, horizon=4, action_top_k=NUM_ACTIONS, observation_top_k=1)
            ).scores
        )
        wide.append(
            search(
                model, tokens, PlanningConfig(beam_width=27, horizon=4, action_top_k=NUM_ACTIONS, observation_top_k=1)
            ).scores
        )
    difference = np.concatenate(wide) - np.concatenate(narrow)
    assert difference.min() > -1e-5
    assert (difference > 0.05).any()


def test_ties_go_to_the_most_likely_action() -> None:
    model = TableModel(3)
    model.reward_logits[:], model.value_logits[:] = 0, 0
    plans = search(
        model,
        torch.arange(NUM_STATES)[:, None],
        PlanningConfig(beam_width=4, horizon=3, action_top_k=NUM_ACTIONS, observation_top_k=1),
    )
    for state in range(NUM_STATES):
        states = plans.observations[state, :, 0] / 10
        assert plans.actions[state].tolist() == [int(model.action_logits[int(each)].argmax()) for each in states]


@pytest.mark.parametrize("observation_top_k", [1, 3])
@pytest.mark.parametrize("max_sequences", [1, 13, 512])
def test_a_game_is_planned_the_same_alone_and_beside_others(
    observation_top_k: int, max_sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(beam_search.MAX_SEQUENCES, "cpu", max_sequences)
    model = TableModel(5)
    tokens = torch.arange(NUM_STATES)[:, None]
    config = PlanningConfig(beam_width=3, horizon=4, observation_top_k=observation_top_k)
    together = search(model, tokens, config)
    for game in range(NUM_STATES):
        alone = search(model, tokens[game : game + 1], config, seeds=(game,))
        for name, values in vars(together).items():
            np.testing.assert_array_equal(getattr(alone, name)[0], values[game], err_msg=name)


def test_sampled_observations_follow_the_most_likely_tokens() -> None:
    model, games = TableModel(8), 4000
    plans = search(
        model,
        torch.zeros(games, 1, dtype=torch.int64),
        PlanningConfig(beam_width=1, horizon=2, action_top_k=1, observation_top_k=2),
    )
    action = int(model.action_logits[0].argmax())
    likely = model.next_logits[0, 0, action].topk(2)
    assert (plans.actions[:, 0] == action).all()
    first, second = ((plans.observations[:, 1, 0] == 10.0 * int(token)).mean() for token in likely.indices)
    assert first + second == 1
    assert first == pytest.approx(float(likely.values.softmax(-1)[0]), abs=4 * (0.25 / games) ** 0.5)


def test_a_full_sequence_starts_over_from_the_last_steps_of_its_context() -> None:
    """The model remembers two steps, so that a context of two steps leaves the plan as it is."""
    model = TableModel(2, memory=2)
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(NUM_ACTIONS, size=(5, 3 * 4 + 1)))  # three steps and an observation
    config = PlanningConfig(beam_width=4, horizon=6, context=2, observation_top_k=1)
    whole = search(model, tokens, config)
    assert [length for _, length in model.starts] == [13]
    model.starts.clear()
    model.max_tokens = 15
    restarted = search(model, tokens, config)
    # The first step of the plan fills the sequences. Two steps of context leave room for two more.
    assert [length for _, length in model.starts] == [13, 8, 8, 8]
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(restarted, name), values, err_msg=name)


def test_observations_are_imagined_under_the_given_actions() -> None:
    model, rng = TableModel(4), np.random.default_rng(1)
    actions = rng.integers(NUM_ACTIONS, size=(NUM_STATES, 9))
    for model.max_tokens in (79, 11):
        imagined = imagine_observations(model, torch.arange(NUM_STATES)[:, None], torch.from_numpy(actions), 1)
        for state in range(NUM_STATES):
            states = roll_out(model, state, (*actions[state].tolist(), 0))[0]
            assert imagined[state, :, 0].tolist() == [10.0 * each for each in states[1:]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beam_width": 0}, "`beam_width` must be at least 1, not 0"),
        ({"horizon": -1}, "`horizon` must be at least 1, not -1"),
        ({"beam_width": 513}, "`beam_width` must be at most 512, not 513"),
        ({"horizon": 1001}, "`horizon` must be at most 1000, not 1001"),
        ({"context": 0}, "`context` must be at least 1, not 0"),
        ({"planning_discount": 1.5}, "`planning_discount` must be between 0 and 1, not 1.5"),
        ({"planning_discount": float("nan")}, "`planning_discount` must be between 0 and 1, not nan"),
        ({"planner": "none", "horizon": 3}, "`horizon` has no effect without a search"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PlanningConfig(**settings)  # type: ignore[arg-type]
