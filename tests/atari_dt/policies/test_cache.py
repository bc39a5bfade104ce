"""Acting with cached keys and values, against passes over whole episodes without a cache."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.predictors import CachePredictor, WindowPredictor
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from replay_data import InputError
from tests.atari_dt.models import DATASET, use_fast_encoder

K = 4


def rotary_model(conditioning: Conditioning = "return", context_length: int = K) -> DecisionTransformer:
    """Return a model that can use a cache; its weights are large enough for its inputs to matter."""
    config = ModelConfig(
        context_length, 3, 2, 16, conditioning=conditioning, position_encoding="rotary", timestep_encoding="none"
    )
    model = DecisionTransformer(config, num_actions=4, max_timestep=8)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.dataset = DATASET
    return use_fast_encoder(model).eval()


def rotate_channels(x: Tensor) -> Tensor:
    """Rotate queries or keys ``[T, head_dim]`` by their positions, one pair of channels after the other."""
    x = x.clone()
    for channel in range(0, x.shape[1], 2):
        angle = torch.arange(len(x), dtype=torch.float64) / 10_000 ** (channel / x.shape[1])
        a, b = x[:, channel].clone(), x[:, channel + 1].clone()
        x[:, channel] = a * angle.cos() - b * angle.sin()
        x[:, channel + 1] = a * angle.sin() + b * angle.cos()
    return x


def whole_episode_logits(
    model: DecisionTransformer, states: npt.NDArray[np.uint8], actions: list[int], returns_to_go: list[float]
) -> Tensor:
    """Compute the logits of all steps of an episode at once, with a band of K steps as attention mask, in float64."""
    config, w = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        by_type = [model.encode_states(torch.from_numpy(states)).double()]
    by_type.append(w["action_embedding.weight"][actions].tanh())
    if config.conditioning == "return":
        column = torch.tensor(returns_to_go, dtype=torch.float64)[:, None]
        by_type.insert(0, F.linear(column, w["return_embedding.weight"], w["return_embedding.bias"]).tanh())
    x = torch.stack(by_type, dim=1).flatten(0, 1)
    position = torch.arange(len(x))
    step = position // len(by_type)
    in_band = (position <= position[:, None]) & (step > step[:, None] - config.context_length)
    mask = torch.zeros(len(x), len(x), dtype=torch.float64).masked_fill(~in_band, -math.inf)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def normalize(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    size = config.embed_dim // config.num_heads
    for layer in range(config.num_layers):
        block = f"transformer.blocks.{layer}"
        qkv = linear(normalize(x, f"{block}.attention_norm"), f"{block}.attention.qkv").split(config.embed_dim, dim=-1)
        heads = []
        for query, key, value in zip(*(part.split(size, dim=-1) for part in qkv), strict=True):
            scores = rotate_channels(query) @ rotate_channels(key).T / math.sqrt(size)
            heads.append((scores + mask).softmax(-1) @ value)
        x = x + linear(torch.cat(heads, dim=-1), f"{block}.attention.projection")
        x = x + linear(F.gelu(linear(normalize(x, f"{block}.mlp_norm"), f"{block}.expand")), f"{block}.contract")
    logits = normalize(x, "transformer.norm") @ w["head.weight"].T
    return logits[len(by_type) - 2 :: len(by_type)]


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize(
    "protocol", [EvaluationProtocol(), EvaluationProtocol(reward_units="raw", integer_returns=True)]
)
def test_cached_logits_equal_those_of_a_pass_over_the_whole_episode(
    conditioning: Conditioning, protocol: EvaluationProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Play three environments, in different steps of their episodes: one restarts, one is done early."""
    num_steps, restart_step = 5 * K, 7
    model = rotary_model(conditioning)
    model.dataset = dataclasses.replace(DATASET, reward_clipping=True)
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (num_steps, 3, 4, 84, 84), dtype=np.uint8)
    rewards = rng.integers(-3, 4, (num_steps, 3)).astype(np.float32)
    policy = DecisionTransformerPolicy(model, 3, protocol)
    assert isinstance(policy._predictor, CachePredictor)
    window = WindowPredictor(model, 3, protocol)
    predict, cached, windowed = policy._predictor.predict, [], []

    def keep_logits(*args: Any) -> Tensor:
        cached.append(predict(*args))
        windowed.append(window.predict(*args))
        return cached[-1]

    monkeypatch.setattr(policy._predictor, "predict", keep_logits)
    policy.start(np.arange(3), np.array([30.5, 20, -10.5], dtype=np.float32), np.array([1, 2, 3]))
    episodes = [
        (0, 0, num_steps, 30.5),
        (1, 0, restart_step, 20.0),
        (1, restart_step, num_steps, 5.75),
        (2, 0, 10, -10.5),
    ]
    shape, starts = (num_steps, 3), np.zeros(3, dtype=np.int64)
    actions, returns, logits = np.zeros(shape, dtype=np.int64), np.zeros(shape), torch.zeros(2, *shape, 4)
    for t in range(num_steps):
        if t == restart_step:
            policy.start(np.array([1]), np.array([5.75], dtype=np.float32), np.array([9]))
            starts[1] = t
        active = np.array([0, 1, 2] if t < 10 else [0, 1])
        actions[t, active] = policy.act(active, states[t, active], rewards[t, active])
        window.add_actions(active, t - starts[active], actions[t, active])
        returns[t], logits[:, t, active] = policy.returns_to_go, torch.stack([both[-1] for both in (cached, windowed)])
    for env_index, start, end, target in episodes:
        steps = slice(start, end), env_index
        received = rewards[steps][1:].clip(-1, 1) if protocol.reward_units == "dataset" else rewards[steps][1:]
        returns_to_go = target - np.concatenate([[0], received.cumsum()])
        assert np.array_equal(returns[steps], returns_to_go)
        read_returns = (np.trunc(returns_to_go) if protocol.integer_returns else returns_to_go).tolist()
        expected = whole_episode_logits(model, states[steps], actions[steps].tolist(), read_returns)
        assert (logits[0][steps] - expected).abs().max() < 1e-5
        differences = (logits[0][steps] - logits[1][steps]).abs().amax(-1)
        assert differences[:K].max() < 1e-5  # the first K steps are in both contexts
        assert differences[K:].min() > 1e-5  # deeper layers see further back


def test_keys_of_a_late_step_are_exact() -> None:
    """Positions count from the start of an episode, but only their distances matter, even after 27,000 steps."""
    model = rotary_model()
    predictors = [CachePredictor(model, 1, EvaluationProtocol()) for _ in range(2)]
    env, rng = np.zeros(1, dtype=np.int64), np.random.default_rng(0)
    with torch.inference_mode():
        for step in range(4 * K):
            action, token = rng.integers(4, size=1), torch.from_numpy(rng.normal(size=(1, 16)).astype(np.float32))
            logits = []
            for predictor, first in zip(predictors, (0, 26_980), strict=True):
                elapsed, returns_to_go = np.array([first + step]), np.array([5 + step % 2], dtype=np.float32)
                logits.append(predictor.predict(env, elapsed, token, returns_to_go))
                predictor.add_actions(env, elapsed, action)
            if step >= (K - 1) * model.config.num_layers:  # no layer sees the missing steps before
                assert (logits[0] - logits[1]).abs().max() < 1e-5


def test_episodes_do_not_depend_on_the_number_of_environments() -> None:
    model = rotary_model()
    play = PlayConfig(episodes=5, max_steps=50, seed=5)
    alone, together = (evaluate(model, [40.0], play, num_envs=n, show_progress=False)[0] for n in (1, 3))
    assert len({episode.actions.tobytes() for episode in alone.episodes}) == 5
    for a, b in zip(alone.episodes, together.episodes, strict=True):
        assert np.array_equal(a.actions, b.actions)
        assert np.array_equal(a.returns_to_go, b.returns_to_go)


def test_protocol_and_model_decide_on_the_cache() -> None:
    rotary = rotary_model()
    learned = DecisionTransformer(ModelConfig(K, 1, 2, 16), 4, 8).eval()
    timesteps = DecisionTransformer(ModelConfig(K, 1, 2, 16, position_encoding="rotary"), 4, 8).eval()
    learned.dataset = timesteps.dataset = DATASET
    auto, on, off = (EvaluationProtocol(cache=cache) for cache in ("auto", "on", "off"))
    for model, protocol, expected in [
        (rotary, auto, "on"),
        (rotary, on, "on"),
        (rotary, off, "off"),
        (rotary, PROTOCOLS["original"], "off"),
        (learned, auto, "off"),
        (timesteps, auto, "off"),
    ]:
        assert protocol.resolved(DATASET, model.config).cache == expected
        predictor = DecisionTransformerPolicy(model, 2, protocol)._predictor
        assert isinstance(predictor, CachePredictor if expected == "on" else WindowPredictor)
    for model in (learned, timesteps):
        with pytest.raises(InputError, match="`cache` must be 'auto' or 'off' for this model"):
            DecisionTransformerPolicy(model, 2, on)
    with pytest.raises(ValueError, match="no attention weights to keep"):
        DecisionTransformerPolicy(rotary, 2, keep_last_step=True)
    with pytest.raises(ValueError, match="one target return only"):
        DecisionTransformerPolicy(rotary, 2).probabilities_under(np.arange(2), np.zeros(1, dtype=np.float32))


PredictorType = type[WindowPredictor] | type[CachePredictor]


def predicted_logits(predictor_type: PredictorType, returns_to_go: list[float], **settings: Any) -> Tensor:
    """Return the logits of an episode with given returns-to-go, whose data has 0.5 as its smallest one."""
    torch.manual_seed(0)
    model = rotary_model()
    model.config = dataclasses.replace(model.config, **settings)
    model.dataset = dataclasses.replace(DATASET, min_return_to_go=0.5)
    predictor = predictor_type(model, 1, EvaluationProtocol())
    env, logits = np.zeros(1, dtype=np.int64), []
    with torch.inference_mode():
        for step, value in enumerate(returns_to_go):
            elapsed, state = np.array([step]), torch.full((1, 16), 0.1 * step)
            logits.append(predictor.predict(env, elapsed, state, np.array([value], dtype=np.float32)))
            predictor.add_actions(env, elapsed, np.array([step % 4]))
    return torch.cat(logits)


@pytest.mark.parametrize("predictor_type", [WindowPredictor, CachePredictor])
def test_limited_returns_are_read_as_the_smallest_of_the_data(predictor_type: PredictorType) -> None:
    """Returns-to-go of 2, -3, 0.5 and -1 act like 2, 0.5, 0.5 and 0.5 if the data's smallest is 0.5."""
    limited = predicted_logits(predictor_type, [2, -3, 0.5, -1], limit_returns=True)
    assert torch.equal(limited, predicted_logits(predictor_type, [2, 0.5, 0.5, 0.5]))
    assert not torch.allclose(limited[1:], predicted_logits(predictor_type, [2, -3, 0.5, -1])[1:], atol=1e-3)


@pytest.mark.parametrize("predictor_type", [WindowPredictor, CachePredictor])
def test_returns_are_limited_in_units_of_the_data_and_scaled_afterwards(predictor_type: PredictorType) -> None:
    scaled = predicted_logits(predictor_type, [8, -12, 0.5, 3], limit_returns=True, return_scale=4.0)
    assert torch.equal(scaled, predicted_logits(predictor_type, [2, 0.125, 0.125, 0.75]))
    assert not torch.allclose(scaled, predicted_logits(predictor_type, [8, 0.5, 0.5, 3]), atol=1e-3)
