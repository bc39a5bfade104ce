"""The policy of the Trajectory Transformer: what it reads, cached against uncached planning, and play on Breakout."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.evaluation.evaluator import evaluate_policy, make_dataset_env
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.policies.beam_search import BeamSearch
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from atari_dt.policies.trajectory_transformer import TrajectoryTransformerPolicy
from replay_data import InputError
from tests.atari_dt.models import DATASET
from tests.atari_dt.trajectory_models import NUM_ACTIONS, VARIABLES, small_trajectory_transformer

NUM_VARIABLES = len(VARIABLES)
PLANNING = PlanningConfig(beam_width=3, horizon=3, context=2, observation_top_k=1)
IMITATION = PlanningConfig(planner="none", context=2)


class UncachedNetwork:
    """The same network, which reads all tokens again for each new one."""

    def __init__(self, network: TrajectoryTransformer):
        self.network = network
        for name in ("tokens_per_step", "max_tokens", "num_actions", "expected_reward", "expected_value"):
            setattr(self, name, getattr(network, name))
        self.decode_observations = network.decode_observations

    def start(self, tokens: Tensor) -> tuple[Any, Tensor]:
        return UncachedTokens(tokens), self.network(tokens)[:, -1]

    def extend(self, cache: UncachedTokens, tokens: Tensor) -> Tensor:
        cache.tokens = torch.cat([cache.tokens, tokens[:, None]], dim=1)
        return self.network(cache.tokens)[:, -1]


@dataclasses.dataclass
class UncachedTokens:
    tokens: Tensor

    def select(self, rows: Tensor) -> UncachedTokens:
        return UncachedTokens(self.tokens[rows])


def random_episodes(num_steps: int, num_envs: int) -> tuple[Any, Any]:
    """Return states and rewards of random episodes."""
    rng = np.random.default_rng(1)
    states = rng.integers(0, 256, (num_steps, num_envs, NUM_VARIABLES), dtype=np.uint8)
    return states, rng.integers(-2, 3, (num_steps, num_envs)).astype(np.float32)


def start(policy: TrajectoryTransformerPolicy, envs: Any, seeds: Any) -> None:
    policy.start(envs, np.zeros(len(envs), np.float32), seeds)


@pytest.mark.parametrize("sequence_length", [6, 3])
def test_plans_with_and_without_a_cache_are_the_same(sequence_length: int) -> None:
    network, rng = small_trajectory_transformer(sequence_length), np.random.default_rng(0)
    states = torch.from_numpy(rng.integers(0, 256, (7, 3, NUM_VARIABLES)))
    actions, rewards = torch.from_numpy(rng.integers(NUM_ACTIONS, size=(7, 3))), torch.zeros(7, 3)
    tokens = network.encode_steps(states, actions, rewards, rewards)[:, :-3]
    config = PlanningConfig(beam_width=5, horizon=4, context=2, action_top_k=3, observation_top_k=1)
    rngs = [np.random.default_rng(game) for game in range(7)]
    cached = BeamSearch(network, config, 0.9).plan(tokens, rngs)
    uncached = BeamSearch(UncachedNetwork(network), config, 0.9).plan(tokens, rngs)  # type: ignore[arg-type]
    for name, values in vars(uncached).items():
        np.testing.assert_allclose(getattr(cached, name), values, rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.ptp(cached.scores) > 0.01


@pytest.mark.parametrize("planning", [PLANNING, dataclasses.replace(PLANNING, observation_top_k=4), IMITATION])
def test_episodes_in_parallel_are_those_of_a_single_environment(planning: PlanningConfig) -> None:
    """The second environment begins another episode after three steps, so that the lengths of histories differ."""
    network, num_envs, num_steps, restart = small_trajectory_transformer(), 3, 8, 3
    states, rewards = random_episodes(num_steps, num_envs)
    envs, seeds = np.arange(num_envs), np.array([7, 8, 9])
    together = TrajectoryTransformerPolicy(network, num_envs, planning=planning)
    start(together, envs, seeds)
    actions = []
    for step in range(num_steps):
        if step == restart:
            start(together, envs[1:2], seeds[1:2] + 10)
        actions.append(together.act(envs, states[step], rewards[step]))
    assert len(np.unique(actions)) > 1
    for env in envs:
        alone, only = TrajectoryTransformerPolicy(network, 1, planning=planning), np.zeros(1, np.int64)
        start(alone, only, seeds[env : env + 1])
        for step in range(num_steps):
            if env == 1 and step == restart:
                start(alone, only, seeds[1:2] + 10)
            assert alone.act(only, states[step, env : env + 1], rewards[step, env : env + 1]) == actions[step][env]


def test_the_policy_reads_the_last_steps_of_its_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards are clipped, as DATASET's are, and those before the first step are ignored."""
    network, num_steps, context = small_trajectory_transformer(), 6, 2
    states, rewards = random_episodes(num_steps, 1)
    read: list[Tensor] = []
    start_reading = network.start

    def keep(tokens: Tensor) -> Any:
        read.append(tokens[0])
        return start_reading(tokens)

    monkeypatch.setattr(network, "start", keep)
    policy, envs = TrajectoryTransformerPolicy(network, 1, planning=IMITATION), np.zeros(1, np.int64)
    actions: list[int] = []
    for seed in (1, 2):  # the second episode knows nothing of the first
        start(policy, envs, np.array([seed]))
        read.clear()
        actions.clear()
        for step in range(num_steps):
            actions.append(int(policy.act(envs, states[step], rewards[step])[0]))
            tokens = read[step]
            for position, past in enumerate(range(max(0, step - context), step + 1)):
                first = position * (NUM_VARIABLES + 3)
                observation = tokens[first : first + NUM_VARIABLES]
                nearest = network.discretizer.encode(torch.from_numpy(states[past, 0]), slice(NUM_VARIABLES))
                assert observation.tolist() == nearest.tolist()
                if past < step:
                    assert tokens[first + NUM_VARIABLES] == actions[past]
                    received = float(network.decode_reward(tokens[first + NUM_VARIABLES + 1]))
                    assert received == rewards[past + 1, 0].clip(-1, 1)
            assert len(tokens) == first + NUM_VARIABLES


def test_imitated_actions_follow_the_distribution_of_the_model() -> None:
    network, draws, envs = small_trajectory_transformer(), 3000, np.arange(3000)
    policy = TrajectoryTransformerPolicy(network, draws, sampling=Sampling(0.5, 3), planning=IMITATION)
    start(policy, envs, envs)
    state = np.array([[90, 120, 70]], np.uint8)
    actions = policy.act(envs, state.repeat(draws, axis=0), np.zeros(draws, np.float32))
    logits = network(network.encode_observations(torch.from_numpy(state)))[0, -1, :NUM_ACTIONS].double()
    logits[logits.argmin()] = -torch.inf
    expected = (logits / 0.5).softmax(-1).detach().numpy()
    frequencies = np.bincount(actions, minlength=NUM_ACTIONS) / draws
    assert (np.abs(frequencies - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws)).all()


@pytest.mark.parametrize("planning", [PLANNING, IMITATION])
def test_plays_breakout(planning: PlanningConfig) -> None:
    network, num_envs, num_steps = small_trajectory_transformer(), 2, 12
    policy = TrajectoryTransformerPolicy(network, num_envs, planning=planning)
    environment = EnvironmentConfig.with_max_steps(num_steps, sticky_actions=0.25)
    env = make_dataset_env(DATASET, num_envs, environment, network.observation)
    (result,) = evaluate_policy(policy, env, [0.0], 3, True, seed=0, show_progress=False)
    assert [len(episode.actions) for episode in result.episodes] == [num_steps] * 3
    assert not policy.returns_to_go.any()
    if planning is PLANNING:
        assert policy.last_plan is not None
        assert policy.last_plan.observations.shape == (1, PLANNING.horizon, NUM_VARIABLES)
        assert policy.last_plan.actions[0, 0] == result.episodes[2].actions[-1]
    else:
        assert policy.last_plan is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sampling": Sampling(0.5)}, "`temperature` and `top_k` have no effect on a planner"),
        ({"planning": PlanningConfig(context=5)}, "`context` must be less than 5, the model's number of steps"),
        ({"protocol": EvaluationProtocol(integer_returns=True)}, "have no effect on TT, which reads neither"),
        ({"protocol": EvaluationProtocol(cache="on")}, "`cache` must be 'auto' or 'off'"),
    ],
)
def test_settings_without_effect_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    network = small_trajectory_transformer()
    TrajectoryTransformerPolicy(network, 1, PROTOCOLS["original"], planning=PLANNING)
    with pytest.raises(InputError, match=sentence):
        TrajectoryTransformerPolicy(network, 1, **{"planning": PLANNING, **arguments})
