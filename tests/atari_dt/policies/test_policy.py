"""Policies against forward passes from scratch, closed forms and frequencies."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from atari_dt.config import ModelConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.predictors import WindowPredictor
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import InputError
from tests.atari_dt.models import DATASET, small_model

PROTOCOL_VARIANTS = [
    EvaluationProtocol(),
    EvaluationProtocol(reward_units="raw"),
    EvaluationProtocol(integer_returns=True),
    EvaluationProtocol(window_timestep="current"),
    PROTOCOLS["original"],
]


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize("reward_clipping", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOL_VARIANTS)
def test_rolling_context_equals_a_forward_pass_from_scratch(
    conditioning: Literal["return", "none"],
    reward_clipping: bool,
    protocol: EvaluationProtocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Play three environments, one of which restarts, and encode the last K steps of each from scratch."""
    context_length, num_steps, restart_step = 5, 16, 7
    model = small_model(conditioning, context_length)
    model.dataset = dataclasses.replace(DATASET, reward_clipping=reward_clipping)
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (num_steps, 3, 4, 84, 84), dtype=np.uint8)
    rewards = rng.integers(-7, 8, (num_steps, 3)).astype(np.float32)
    logits: list[Tensor] = []
    num_encoder_calls = 0
    predict, encode_states = model.predict, model.encode_states
    policy = DecisionTransformerPolicy(model, 3, protocol)
    assert isinstance(policy._predictor, WindowPredictor)
    add_step = policy._predictor.predict

    def count_encoder_calls(states: Tensor) -> Tensor:
        nonlocal num_encoder_calls
        num_encoder_calls += 1
        return encode_states(states)

    def keep_logits(*args: Any) -> Tensor:
        logits.append(add_step(*args))
        return logits[-1]

    monkeypatch.setattr(policy._predictor, "predict", keep_logits)
    monkeypatch.setattr(model, "encode_states", count_encoder_calls)
    for parameter in model.state_encoder.parameters():
        nn.init.normal_(parameter, std=0.03)  # with weights of 0.3, rounding errors are as large as the effect tested
    if conditioning == "return":
        nn.init.normal_(model.return_embedding.weight, std=0.03)  # keeps the tanh away from saturation
    policy.start(np.arange(3), np.array([30.5, 20, -10.5], dtype=np.float32), np.array([1, 2, 3]))
    starts, targets, chosen = [0, 0, 0], [30.5, 20.0, -10.5], []
    for t in range(num_steps):
        if t == restart_step:
            policy.start(np.array([1]), np.array([25.75], dtype=np.float32), np.array([9]))
            starts[1], targets[1] = t, 25.75
        active = np.array([0, 1, 2] if t < 10 else [0, 1])  # the third environment is done
        chosen.append(policy.act(active, states[t, active], rewards[t, active]))
        for env_index in active:
            window = range(max(starts[env_index], t - context_length + 1), t + 1)
            clipped = reward_clipping and protocol.reward_units == "dataset"
            received = rewards[:, env_index].clip(-1, 1) if clipped else rewards[:, env_index]
            returns = [targets[env_index] - sum(received[starts[env_index] + 1 : n + 1]) for n in window]
            if protocol.integer_returns:
                returns = [float(int(value)) for value in returns]
            timesteps = [n - starts[env_index] for n in window]
            if protocol.window_timestep == "current":
                timesteps = [timesteps[-1]] * len(window)
            with torch.inference_mode():
                expected = predict(
                    encode_states(torch.from_numpy(states[list(window), env_index])[None]),
                    torch.tensor([[chosen[n][env_index] for n in window[:-1]]], dtype=torch.int64),
                    torch.tensor([returns]),
                    torch.tensor([timesteps]),
                ).action_logits[0, -1]
            assert torch.allclose(logits[-1][env_index], expected, atol=1e-5)
    assert num_encoder_calls == len(logits) == num_steps  # one call for all environments in each step


def test_model_with_timesteps_per_step_refuses_the_timestep_of_the_newest_step() -> None:
    model = DecisionTransformer(ModelConfig(5, 2, 2, 16, timestep_encoding="per_step"), 4, 8).eval()
    model.dataset = DATASET
    with pytest.raises(InputError, match="`window_timestep` must be 'first'"):
        DecisionTransformerPolicy(model, 1, PROTOCOLS["original"])


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=18, unique=True),
    st.floats(0.05, 5),
    st.integers(1, 20),
)
def test_sampling_is_a_softmax_over_the_most_likely_actions(
    values: list[float], temperature: float, top_k: int
) -> None:
    kept = sorted(values, reverse=True)[:top_k]
    weights = [math.exp((value - kept[0]) / temperature) if value in kept else 0.0 for value in values]
    expected = np.array(weights) / sum(weights)
    logits = torch.tensor([values])
    assert np.allclose(Sampling(temperature, top_k).probabilities(logits)[0], expected, atol=1e-12)
    greedy = Sampling(temperature=0).probabilities(logits)[0]
    assert greedy[int(np.argmax(values))] == 1
    assert greedy.sum() == 1
    if top_k >= len(values):
        assert np.array_equal(
            Sampling(temperature).probabilities(logits), Sampling(temperature, top_k).probabilities(logits)
        )


@pytest.mark.parametrize(("temperature", "top_k"), [(-1, None), (math.nan, None), (math.inf, None), (1, 0)])
def test_invalid_sampling_is_refused(temperature: float, top_k: int | None) -> None:
    with pytest.raises(InputError, match="must be"):
        Sampling(temperature, top_k)


def test_actions_are_drawn_with_the_probabilities_of_the_model() -> None:
    model = small_model()
    draws = 1000
    state = np.random.default_rng(0).integers(0, 256, (1, 4, 84, 84), dtype=np.uint8).repeat(draws, axis=0)
    policy = DecisionTransformerPolicy(model, draws)
    policy.start(np.arange(draws), np.full(draws, 30, np.float32), np.arange(draws))
    counts = np.bincount(policy.act(np.arange(draws), state, np.zeros(draws, np.float32)), minlength=4)
    with torch.inference_mode():
        tensors = torch.from_numpy(state[:1, None]), torch.zeros(1, 0, dtype=torch.int64)
        logits = model(*tensors, torch.tensor([[30.0]]), torch.zeros(1, 1, dtype=torch.int64)).action_logits[0, 0]
    expected = logits.softmax(-1).numpy()
    assert np.abs(counts / draws - expected).max() < 4 * 0.5 / draws**0.5


@pytest.mark.parametrize("cache", ["off", "on"])
@pytest.mark.parametrize("config", [ModelConfig(1), ModelConfig(10, 3), ModelConfig(30)], ids=["K1", "K10", "K30"])
def test_logits_are_the_same_bits_for_any_number_of_environments(
    config: ModelConfig, cache: Literal["off", "on"], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    if cache == "on":
        config = dataclasses.replace(config, position_encoding="rotary", timestep_encoding="none")
    model = DecisionTransformer(config, 4, 100).eval()
    model.dataset = DATASET
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (3, 33, 4, 84, 84), dtype=np.uint8)
    logits: dict[int, Tensor] = {}
    for num_envs in (1, 2, 3, 5, 10, 11, 12, 16, 33):
        all_envs, rewards = np.arange(num_envs), np.zeros(num_envs, np.float32)
        policy = DecisionTransformerPolicy(model, num_envs, EvaluationProtocol(cache=cache))
        add_step = policy._predictor.predict

        def keep_logits(*args: Any, num_envs: int = num_envs, add_step: Any = add_step) -> Tensor:
            logits[num_envs] = add_step(*args)
            return logits[num_envs]

        monkeypatch.setattr(policy._predictor, "predict", keep_logits)
        policy.start(all_envs, np.full(num_envs, 30, np.float32), all_envs)
        for state in states:
            policy.act(all_envs, state[:num_envs], rewards)
    for num_envs, values in logits.items():
        assert torch.equal(values, logits[33][:num_envs]), num_envs
