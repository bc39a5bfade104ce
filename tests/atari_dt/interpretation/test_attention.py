from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf
from torch import Tensor

from atari_dt.config import Conditioning, ModelConfig, PositionEncoding, TimestepEncoding, TrainingConfig
from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.attention import (
    attention_by_distance,
    attention_from,
    attention_rollout,
    by_step_and_token_type,
    query_positions,
    token_types,
)
from atari_dt.interpretation.episode_trace import EpisodeTrace
from atari_dt.interpretation.tracing import GRID_MULTIPLES, trace_episodes
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from atari_dt.training.loop import train
from replay_data import InputError, TrajectoryStore
from tests.atari_dt.models import DATASET, small_model

Doubles = npt.NDArray[np.float64]


def reference_forward(
    model: DecisionTransformer, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor
) -> tuple[list[Doubles], Doubles]:
    """Compute attention ``[heads, T, T]`` of every layer and logits ``[K, num_actions]`` of one context in NumPy."""
    w = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        state_tokens = model.encode_states(states).double().numpy()
    token_embeddings = [state_tokens, np.tanh(w["action_embedding.weight"][actions.numpy()])]
    if model.config.conditioning == "return":
        token_embeddings.insert(
            0, np.tanh(returns.double().numpy()[:, None] @ w["return_embedding.weight"].T + w["return_embedding.bias"])
        )
    x = np.stack(token_embeddings, axis=1).reshape(-1, model.config.embed_dim)
    tokens, dim = x.shape
    times = np.minimum(timesteps.numpy(), model.max_timestep).repeat(len(token_embeddings))
    if model.config.timestep_encoding == "window_start":
        times = times[:1]
    if model.config.timestep_encoding != "none":
        x = x + w["timestep_embedding"][times]
    if model.config.position_encoding == "learned":
        x = x + w["position_embedding"][:tokens]

    def normalize(x: Doubles, name: str) -> Doubles:
        centered = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        return centered / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Doubles, name: str) -> Doubles:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    attentions = []
    for layer in range(model.config.num_layers):
        block = f"transformer.blocks.{layer}"
        qkv = linear(normalize(x, f"{block}.attention_norm"), f"{block}.attention.qkv")
        query, key, value = np.split(qkv, 3, axis=-1)
        size = dim // model.config.num_heads
        attention, mixed = np.zeros((model.config.num_heads, tokens, tokens)), np.zeros((tokens, dim))
        for head in range(model.config.num_heads):
            part = slice(head * size, (head + 1) * size)
            if model.config.position_encoding == "rotary":
                for token, channel in itertools.product(range(tokens), range(0, size, 2)):
                    angle = token / 10_000 ** (channel / size)
                    matrix = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
                    for heads in (query, key):
                        pair = slice(part.start + channel, part.start + channel + 2)
                        heads[token, pair] = matrix @ heads[token, pair]
            for token in range(tokens):
                scores = key[: token + 1, part] @ query[token, part] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                attention[head, token, : token + 1] = weights / weights.sum()
            mixed[:, part] = attention[head] @ value[:, part]
        x = x + linear(mixed, f"{block}.attention.projection")
        hidden = linear(normalize(x, f"{block}.mlp_norm"), f"{block}.expand")
        x = x + linear(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, f"{block}.contract")
        attentions.append(attention)
    logits = normalize(x, "transformer.norm") @ w["head.weight"].T
    return attentions, logits[token_types(model.config.conditioning).index("state") :: len(token_embeddings)]


def check_attention(model: DecisionTransformer, context: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Check one context's attention against the reference, and that returning it does not change the logits."""
    with torch.inference_mode():
        plain = model(*(values[None] for values in context))
        output = model(*(values[None] for values in context), output_attentions=True)
    assert torch.allclose(plain.action_logits, output.action_logits, rtol=0, atol=1e-5)
    attentions, logits = reference_forward(model, *context)
    assert np.abs(output.action_logits[0].numpy() - logits).max() < 1e-4
    assert len(output.attentions) == len(attentions) == model.config.num_layers
    for actual, expected in zip(output.attentions, attentions, strict=True):
        assert np.abs(actual[0].numpy() - expected).max() < 1e-5
        assert torch.allclose(actual.sum(-1), torch.ones(()), atol=1e-6)
        assert (actual.triu(1) == 0).all()


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize(
    ("position_encoding", "timestep_encoding"),
    [("learned", "window_start"), ("learned", "per_step"), ("rotary", "per_step"), ("rotary", "none")],
)
def test_attention_is_the_softmax_of_queries_and_keys(
    conditioning: Conditioning, position_encoding: PositionEncoding, timestep_encoding: TimestepEncoding
) -> None:
    encodings: dict[str, Any] = {"position_encoding": position_encoding, "timestep_encoding": timestep_encoding}
    config = ModelConfig(4, 3, 4, 32, conditioning=conditioning, **encodings)
    model = DecisionTransformer(config, num_actions=4, max_timestep=9).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    states = torch.randint(0, 256, (4, 4, 84, 84), dtype=torch.uint8)
    check_attention(model, (states, torch.tensor([3, 0, 1, 2]), torch.rand(4) * 9, torch.arange(7, 11)))


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory, readable_store: TrajectoryStore) -> Path:
    """Train a run that predicts the action from the newest frame."""
    path = tmp_path_factory.mktemp("attention") / "run"
    config = TrainingConfig(max_updates=60, batch_size=16, learning_rate=3e-3, final_tokens=60 * 16 * 4)
    train(readable_store, path, ModelConfig(4, 2, 2, 32, dropout=0.0), config)
    return path


def test_attention_of_a_trained_model_matches_the_reference(trained_run: Path, readable_store: TrajectoryStore) -> None:
    model = DecisionTransformer.from_pretrained(latest_checkpoint(trained_run))
    states = torch.from_numpy(np.stack([readable_store.state(step) for step in range(30, 34)]))
    actions = torch.from_numpy(readable_store.actions[30:34].astype(np.int64))
    context = states, actions, torch.from_numpy(readable_store.returns_to_go[30:34].copy()), torch.arange(5, 9)
    check_attention(model, context)
    with torch.inference_mode():
        predicted = model(*(values[None] for values in context)).action_logits.argmax(-1)
    assert (predicted[0] == actions).all()  # the model is trained


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.sampled_from(["return", "none"]),
    st.integers(0, 2**31),
)  # fmt: skip
def test_query_rows_and_rollout_match_the_full_matrices(
    batch: int, layers: int, heads: int, steps: int, conditioning: Conditioning, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = len(token_types(conditioning)) * steps - 1
    mask = torch.full((tokens, tokens), -math.inf, dtype=torch.float64).triu(1)
    attentions = [
        (torch.randn(batch, heads, tokens, tokens, generator=generator, dtype=torch.float64) + mask).softmax(-1)
        for _ in range(layers)
    ]
    num_steps = torch.randint(1, steps + 1, (batch,), generator=generator)
    positions = query_positions(num_steps, conditioning)
    rows = attention_from(attentions, positions)
    rollouts = attention_rollout(attentions, positions)
    for context in range(batch):
        names = [(step, token_type) for step in range(steps) for token_type in token_types(conditioning)]
        position = names.index((int(num_steps[context]) - 1, "state"))
        assert positions[context] == position
        product = np.eye(tokens)
        for layer in range(layers):
            assert torch.equal(rows[context, layer], attentions[layer][context, :, position])
            product = (attentions[layer][context].mean(0).numpy() + np.eye(tokens)) / 2 @ product
        assert np.allclose(rollouts[context], product[position])
        assert np.isclose(rollouts[context].sum(), 1)
        grouped = by_step_and_token_type(rows[context].numpy(), conditioning)
        for token, (step, token_type) in enumerate(names):
            expected = rows[context, ..., token] if token < tokens else torch.zeros(layers, heads)
            assert np.array_equal(grouped[..., step, token_types(conditioning).index(token_type)], expected)


def test_attention_by_distance_averages_over_contexts() -> None:
    rng = np.random.default_rng(0)
    contexts, layers, heads, steps, types = 7, 2, 3, 4, 3
    weights = rng.dirichlet(np.ones(steps * types), (contexts, layers, heads)).astype(np.float32)
    weights[0, 0, 0] = np.eye(steps * types)[5]  # zeros, whose logarithm is infinite
    result = attention_by_distance(weights.reshape(contexts, layers, heads, steps, types))
    assert result.num_contexts == contexts
    for layer in range(layers):
        for head in range(heads):
            entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in weights[:, layer, head].tolist()]
            assert result.entropy[layer, head] == pytest.approx(sum(entropies) / contexts, rel=1e-5)
            for step in range(steps):
                for token_type in range(types):
                    mean = weights[:, layer, head, step * types + token_type].mean()
                    assert result.weights[layer, head, steps - 1 - step, token_type] == pytest.approx(mean, rel=1e-5)
            distance = sum((steps - 1 - i // types) * weights[:, layer, head, i].mean() for i in range(steps * types))
            assert result.mean_distance[layer, head] == pytest.approx(distance, rel=1e-5)
    uniform = attention_by_distance(by_step_and_token_type(np.full((3, 1, 1, 29), 1 / 29, dtype=np.float32), "return"))
    assert uniform.entropy == pytest.approx(math.log(29), rel=1e-6)
    with pytest.raises(ValueError, match="no contexts"):
        attention_by_distance(np.zeros((0, 1, 1, 4, 3), dtype=np.float32))


def planted_model(conditioning: Conditioning, query: int, planted: int) -> DecisionTransformer:
    """Return a model whose first head attends from the query to the planted token; the second attends uniformly."""
    model = DecisionTransformer(ModelConfig(5, 1, 2, 16, conditioning=conditioning), num_actions=4, max_timestep=9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.position_embedding[:, 2] = 10
        for token, dimension in ((query, 1), (planted, 0)):
            model.position_embedding[token] = torch.eye(16)[dimension] * 10
        block: Any = model.transformer.blocks[0]
        block.attention_norm.weight.fill_(1)
        block.attention.qkv.weight[0, 1] = block.attention.qkv.weight[16, 0] = 10
    return model.eval()


@given(st.data(), st.sampled_from(["return", "none"]), st.integers(1, 5))
def test_attention_and_rollout_find_the_planted_token(data: Any, conditioning: Conditioning, steps: int) -> None:
    types = token_types(conditioning)
    query = len(types) * (steps - 1) + types.index("state")
    planted = data.draw(st.integers(0, query - 1)) if query else 0
    model = planted_model(conditioning, query, planted)
    states = torch.zeros(1, 5, 4, 84, 84, dtype=torch.uint8)
    zeros = torch.zeros(1, 5, dtype=torch.int64)
    with torch.inference_mode():
        attentions = model(states, zeros, zeros, zeros, output_attentions=True).attentions
    positions = query_positions(torch.tensor([steps]), conditioning)
    weights = by_step_and_token_type(attention_from(attentions, positions).numpy(), conditioning)[0, 0]
    step, token_type = divmod(planted, len(types))
    assert weights[0, step, token_type] == pytest.approx(1)
    assert weights[1][weights[1] > 0] == pytest.approx(1 / (query + 1))
    rollout = by_step_and_token_type(attention_rollout(attentions, positions).numpy(), conditioning)[0]
    if query:
        assert rollout[step, token_type] == pytest.approx(1 / 4 + 1 / 4 / (query + 1), rel=1e-5)
        assert rollout[steps - 1, types.index("state")] == pytest.approx(1 / 2 + 1 / 4 / (query + 1), rel=1e-5)


VARIANTS = [
    ("return", EvaluationProtocol(), Sampling()),
    ("return", PROTOCOLS["original"], Sampling(temperature=0.5, top_k=2)),
    ("none", EvaluationProtocol(), Sampling(temperature=0)),
]


@pytest.mark.parametrize(("conditioning", "protocol", "sampling"), VARIANTS, ids=["dopamine", "original", "cloning"])
def test_traces_match_separate_forward_passes(
    conditioning: Literal["return", "none"], protocol: EvaluationProtocol, sampling: Sampling, tmp_path: Path
) -> None:
    """Compare with one forward pass per step, and with an evaluation that is not traced."""
    model = small_model(conditioning)
    for parameter in model.state_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    if conditioning == "return":
        torch.nn.init.normal_(model.return_embedding.weight, std=0.03)
    model.save_pretrained(tmp_path / "run" / "checkpoints" / "update-00000001")
    play = PlayConfig(protocol, sampling, episodes=2, max_steps=40, seed=3)
    target = 30.5 if conditioning == "return" else None
    traced = trace_episodes(tmp_path / "run", play, target_return=target, show_progress=False)
    (result,) = evaluate(model, [target or 0.0], play, num_envs=1, show_progress=False)
    assert len(traced.episodes) == 2
    for episode, evaluated in zip(traced.episodes, result.episodes, strict=True):
        assert np.array_equal(episode.actions, evaluated.actions)
        check_episode(model, episode, traced.target_returns - traced.target_return, protocol, sampling)
    if conditioning == "return":
        multiples = sorted({*(40 * multiple for multiple in GRID_MULTIPLES), 30.5})
        assert traced.target_returns.tolist() == multiples
        assert traced.target_return == 30.5


def check_episode(
    model: DecisionTransformer,
    episode: EpisodeTrace,
    shifts: npt.NDArray[np.float32],
    protocol: EvaluationProtocol,
    sampling: Sampling,
) -> None:
    """Compare every step of a trace with forward passes of its context, one of them under all target returns."""
    types = token_types(model.config.conditioning)
    # Truncation to integers does not commute with a fractional shift.
    checked = np.flatnonzero(shifts == shifts.astype(int)) if protocol.integer_returns else np.arange(len(shifts))
    batch = episode.batch(np.arange(len(episode)), torch.device("cpu"))
    for t in range(len(episode)):
        num_steps = min(t + 1, 5)
        assert episode.num_steps[t] == num_steps == batch.attention_mask[t].sum()
        window = slice(t - num_steps + 1, t + 1)
        assert np.array_equal(batch.states[t, :num_steps], episode.states[window])
        assert np.array_equal(batch.actions[t, :num_steps], episode.actions[window])
        context = (
            torch.from_numpy(episode.states[window])[None],
            torch.from_numpy(episode.actions[window])[None],
            batch.returns_to_go[t : t + 1, :num_steps],
            batch.timesteps[t : t + 1, :num_steps],
        )
        with torch.inference_mode():
            output = model(*context, output_attentions=True)
        probabilities = sampling.probabilities(output.action_logits[:, -1])
        assert np.allclose(probabilities[0], episode.preferences[t, list(shifts).index(0)], atol=1e-5)
        query = len(types) * (num_steps - 1) + types.index("state")
        for layer, weights in enumerate(output.attentions):
            row = episode.attention[t, layer].reshape(model.config.num_heads, -1)
            assert np.allclose(row[:, : query + 1], weights[0, :, query, : query + 1], atol=1e-5)
            assert (row[:, query + 1 :] == 0).all()
        assert episode.rollout[t].sum() == pytest.approx(1, abs=1e-5)
        states, actions, returns, timesteps = (values.repeat_interleave(len(checked), 0) for values in context)
        with torch.inference_mode():
            output = model(states, actions, returns + torch.from_numpy(shifts[checked, None]), timesteps)
        probabilities = sampling.probabilities(output.action_logits[:, -1])
        assert np.allclose(probabilities, episode.preferences[t, checked], atol=1e-4)


def test_keep_last_step_changes_no_probability() -> None:
    model = small_model()
    rng = np.random.default_rng(0)
    policies = [DecisionTransformerPolicy(model, 2, keep_last_step=keep) for keep in (False, True)]
    indices = np.arange(2)
    for policy in policies:
        policy.start(indices, np.array([30, 10], dtype=np.float32), indices)
    for _ in range(12):
        states = rng.integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
        actions = [policy.act(indices, states, np.ones(2, dtype=np.float32)) for policy in policies]
        assert np.array_equal(actions[0], actions[1])
        plain = policies[0].probabilities_under(indices, np.zeros(1, dtype=np.float32))
        assert policies[0].last_step is None
        step = policies[1].last_step
        assert step is not None
        assert np.abs(plain[:, 0] - step.probabilities).max() < 1e-5


def test_target_return_grid_is_centered_where_the_largest_return_is_negative(tmp_path: Path) -> None:
    model = small_model()
    model.dataset = dataclasses.replace(DATASET, max_return=-8.0)
    model.save_pretrained(tmp_path / "run" / "checkpoints" / "update-00000001")
    traced = trace_episodes(tmp_path / "run", PlayConfig(episodes=1, max_steps=5), show_progress=False)
    assert traced.target_returns.tolist() == [-16, -14, -12, -10, -8, -6, -4, -2, 0]
    assert traced.target_return == -8
    assert traced.target_label(-8.0) == "-8"


@pytest.mark.parametrize(
    ("conditioning", "options", "message"),
    [
        ("return", {"play": PlayConfig(max_steps=4)}, "`max_steps` must be at least 5"),
        ("return", {"play": PlayConfig(EvaluationProtocol(cache="on"))}, "episodes are traced without a cache"),
        ("return", {"target_return": math.nan}, "must be finite numbers .*, not nan"),
        ("return", {"target_return": 1e39}, "must be finite numbers .*, not 1e\\+39"),
        ("return", {"target_return": 3.0, "return_multiple": 1.0}, "set only one of"),
        ("return", {"return_percentile": 50, "return_multiple": 1.0}, "set only one of"),
        ("return", {"return_percentile": 50}, "does not store the distribution of its dataset's returns"),
        ("none", {"return_multiple": 1.0}, "behavior cloning has no target return"),
        ("none", {"target_return": 1.0}, "behavior cloning has no target return"),
        ("none", {"return_percentile": 0}, "behavior cloning has no target return"),
    ],
)
def test_invalid_arguments_raise(
    conditioning: Literal["return", "none"], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    small_model(conditioning).save_pretrained(tmp_path / "run" / "checkpoints" / "update-00000001")
    with pytest.raises(InputError, match=message):
        trace_episodes(tmp_path / "run", **options)
