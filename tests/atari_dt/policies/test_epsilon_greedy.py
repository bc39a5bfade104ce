"""The epsilon-greedy policy against the estimates of its network, frequencies, and play in a single environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atari_dt.methods import METHODS
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.epsilon_greedy import EpsilonGreedyPolicy
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import InputError
from tests.atari_dt.q_networks import CONFIGS, use_small_layers

NUM_ACTIONS = 4


@pytest.fixture(autouse=True)
def small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_layers(monkeypatch.setattr)


def make_network(method: str = "cql", **settings: Any) -> QNetwork:
    torch.manual_seed(0)
    return QNetwork(dataclasses.replace(CONFIGS[method], **settings), NUM_ACTIONS).eval()


def random_states(*shape: int) -> Any:
    """Return states of large blocks, whose Q differs more than that of noise."""
    blocks = np.random.default_rng(0).integers(0, 256, (*shape, 4, 2, 2), dtype=np.uint8)
    return blocks.repeat(42, axis=-1).repeat(42, axis=-2)


@pytest.mark.parametrize("method", CONFIGS)
def test_greedy_action_has_the_largest_mean_of_its_estimates(method: str) -> None:
    network, num_envs = make_network(method, epsilon=0.0), 20
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    policy, states = EpsilonGreedyPolicy(network, num_envs), random_states(num_envs)
    policy.start(np.arange(num_envs), np.zeros(num_envs, np.float32), np.arange(num_envs))
    actions = policy.act(np.arange(num_envs), states, np.zeros(num_envs, np.float32))
    estimates = network(torch.from_numpy(states)).tolist()  # [num_envs][actions][estimates]
    for action, by_action in zip(actions, estimates, strict=True):
        q_values = [sum(values) / len(values) for values in by_action]
        assert q_values[action] == max(q_values)
    assert len(set(actions)) > 1
    assert not policy.returns_to_go.any()


def test_actions_are_random_with_probability_epsilon() -> None:
    """Of the random actions, a quarter are the greedy one."""
    epsilon, draws = 0.4, 20_000
    network = make_network(epsilon=epsilon)
    network.q_values = lambda states: torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(len(states), -1)  # type: ignore[method-assign]
    policy, envs = EpsilonGreedyPolicy(network, draws), np.arange(draws)
    policy.start(envs, np.zeros(draws, np.float32), envs)
    state = np.zeros((1, 1), np.uint8)
    actions = policy.act(envs, state.repeat(draws, axis=0), np.zeros(draws, np.float32))
    frequencies = np.bincount(actions, minlength=NUM_ACTIONS) / draws
    expected = np.array([0.1, 0.7, 0.1, 0.1])
    assert (np.abs(frequencies - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)).all()


def test_episodes_in_parallel_are_those_of_a_single_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q is the same bits for any number of states, and random actions depend on nothing but the episode's seed."""
    network, num_steps, seeds = make_network(epsilon=0.5), 8, np.array([7, 8, 9])
    states, rewards = random_states(num_steps, 3), np.zeros(3, np.float32)
    q_values: list[Tensor] = []
    compute = network.q_values

    def keep(batch: Tensor) -> Tensor:
        q_values.append(compute(batch))
        return q_values[-1]

    monkeypatch.setattr(network, "q_values", keep)
    together = EpsilonGreedyPolicy(network, 3)
    together.start(np.arange(3), rewards, seeds)
    # The third episode is done after half of the steps.
    played = [np.arange(3) if step < num_steps // 2 else np.arange(2) for step in range(num_steps)]
    actions = [together.act(envs, states[step, envs], rewards[envs]) for step, envs in enumerate(played)]
    values_together = [values.clone() for values in q_values]
    for env, seed in enumerate(seeds):
        q_values.clear()
        alone = EpsilonGreedyPolicy(network, 1)
        alone.start(np.zeros(1, np.int64), rewards[:1], np.array([seed]))
        for step, envs in enumerate(played):
            if env in envs:
                (action,) = alone.act(np.zeros(1, np.int64), states[step, env : env + 1], rewards[:1])
                assert action == actions[step][env]
                assert torch.equal(q_values[step][0], values_together[step][env])
    assert len({int(action) for each in actions for action in each}) > 1


@pytest.mark.parametrize(
    ("protocol", "sampling", "message"),
    [
        (EvaluationProtocol(window_timestep="current"), Sampling(), "`window_timestep`, .* have no effect on "),
        (EvaluationProtocol(integer_returns=True), Sampling(), "`integer_returns` have no effect on "),
        (dataclasses.replace(PROTOCOLS["original"], reward_units="dataset"), Sampling(), "`reward_units` and "),
        (EvaluationProtocol(cache="on"), Sampling(), "`cache` must be 'auto' or 'off' for this model"),
        (EvaluationProtocol(), Sampling(temperature=0), "`temperature` and `top_k` have no effect on "),
        (EvaluationProtocol(), Sampling(top_k=2), "`temperature` and `top_k` have no effect on "),
    ],
)
def test_settings_without_an_effect_are_refused(protocol: EvaluationProtocol, sampling: Sampling, message: str) -> None:
    with pytest.raises(InputError, match=message):
        METHODS["cql"].make_policy(make_network("cql"), 1, protocol, sampling, PlanningConfig())


@pytest.mark.parametrize("sticky_actions", [None, 0.5])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_named_protocols_are_accepted_with_any_environment(name: Any, sticky_actions: float | None) -> None:
    protocol = dataclasses.replace(PROTOCOLS[name], sticky_actions=sticky_actions, frames="bilinear", noop_max=3)
    METHODS["rem"].make_policy(make_network("rem"), 1, protocol, Sampling(), PlanningConfig())
