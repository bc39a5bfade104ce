"""Ablation of attention heads, compared with a forward pass written out by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.interpretation.head_ablation import (
    Ablation,
    Contexts,
    attention_layers,
    list_ablations,
    log_probabilities,
    measure_effect,
    observe,
)
from atari_dt.interpretation.head_ablation_run import ContextRecorder
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy, PolicyStep
from atari_dt.policies.predictors import ForwardPass
from atari_dt.policies.protocol import EvaluationProtocol
from tests.atari_dt.models import DATASET, use_fast_encoder

K, LAYERS, HEADS, DIM, NUM_ACTIONS = 2, 2, 2, 8, 4
HEAD_DIM = DIM // HEADS

PAPER: dict[str, Any] = {}
FAST: dict[str, Any] = {"position_encoding": "rotary", "timestep_encoding": "none"}


def make_model(conditioning: Conditioning = "return", encodings: dict[str, Any] = PAPER) -> DecisionTransformer:
    """Return a model with weights that are large enough for its inputs to matter."""
    config = ModelConfig(K, LAYERS, HEADS, DIM, conditioning=conditioning, **encodings)
    model = DecisionTransformer(config, NUM_ACTIONS, max_timestep=20)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    model.dataset = DATASET
    return use_fast_encoder(model).eval()


def make_contexts(num_contexts: int = 5) -> Contexts:
    timesteps = torch.randint(0, 15, (num_contexts, 1)) + torch.arange(K)
    return Contexts(
        torch.randn(num_contexts, K, DIM),
        torch.randint(0, NUM_ACTIONS, (num_contexts, K)),
        torch.rand(num_contexts, K) * 3,
        timesteps,
    )


def forward_by_hand(
    model: DecisionTransformer, contexts: Contexts, ablation: Ablation | None = None, means: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute action probabilities, token by token and head by head.

    Args:
        model: Intact model.
        contexts: M contexts.
        ablation: What to ablate.
        means: Mean outputs of heads by layer, position and head, ``[layers, T, heads, head_dim]``.

    Returns:
        Logarithms of the probabilities ``[M, num_actions]``, and outputs of heads ``[M, layers, T, heads, head_dim]``.
    """
    w = {name: tensor.double() for name, tensor in model.state_dict().items()}
    x = []  # a tensor [M, D] for each token
    for step in range(K):
        if model.config.conditioned:
            scaled = contexts.returns_to_go[:, step, None].double() * w["return_embedding.weight"][:, 0]
            x.append((scaled + w["return_embedding.bias"]).tanh())
        x.append(contexts.state_tokens[:, step].double())
        x.append(w["action_embedding.weight"][contexts.actions[:, step]].tanh())
    if model.config.position_encoding == "learned":
        x = [token + w["position_embedding"][position] for position, token in enumerate(x)]
    if model.config.timestep_encoding == "window_start":
        x = [token + w["timestep_embedding"][contexts.timesteps[:, 0]] for token in x]

    def linear(token: Tensor, name: str) -> Tensor:
        return token @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normalize(token: Tensor, name: str) -> Tensor:
        return F.layer_norm(token, (DIM,), w[f"{name}.weight"], w[f"{name}.bias"])

    def turn(values: Tensor, position: int) -> Tensor:
        if model.config.position_encoding != "rotary":
            return values
        turned = values.clone()
        for i in range(0, HEAD_DIM, 2):
            angle = position / 10_000 ** (i / HEAD_DIM)
            turned[:, i] = values[:, i] * math.cos(angle) - values[:, i + 1] * math.sin(angle)
            turned[:, i + 1] = values[:, i] * math.sin(angle) + values[:, i + 1] * math.cos(angle)
        return turned

    all_outputs = torch.zeros(len(contexts), LAYERS, len(x), HEADS, HEAD_DIM, dtype=torch.float64)
    for layer in range(LAYERS):
        block = f"transformer.blocks.{layer}"
        qkv = [linear(normalize(token, f"{block}.attention_norm"), f"{block}.attention.qkv") for token in x]
        for position, head in itertools.product(range(len(x)), range(HEADS)):
            hit = ablation is not None and ablation.layer in (None, layer) and ablation.head in (None, head)
            replacement = ablation.replacement if ablation is not None and hit else None
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            query = turn(qkv[position][:, :DIM][:, part], position)
            past = range(position + 1)
            keys = torch.stack([turn(qkv[each][:, DIM : 2 * DIM][:, part], each) for each in past], dim=1)
            values = torch.stack([qkv[each][:, 2 * DIM :][:, part] for each in past], dim=1)
            weights = ((keys * query[:, None]).sum(-1) / math.sqrt(HEAD_DIM)).softmax(-1)
            if replacement == "uniform":
                weights = torch.full_like(weights, 1 / len(past))
            all_outputs[:, layer, position, head] = (weights[..., None] * values).sum(1)
            if replacement == "mean":
                assert means is not None
                all_outputs[:, layer, position, head] = means[layer, position, head]
        x = [
            token + linear(all_outputs[:, layer, position].flatten(1), f"{block}.attention.projection")
            for position, token in enumerate(x)
        ]
        x = [
            token
            + linear(F.gelu(linear(normalize(token, f"{block}.mlp_norm"), f"{block}.expand")), f"{block}.contract")
            for token in x
        ]
    logits = normalize(x[-2], "transformer.norm") @ w["head.weight"].T
    return logits.log_softmax(-1), all_outputs


@pytest.mark.parametrize(
    ("conditioning", "encodings"), [("return", PAPER), ("none", PAPER), ("return", FAST)], ids=["dt", "bc", "fast"]
)
def test_every_ablation_equals_a_forward_pass_by_hand(conditioning: Conditioning, encodings: dict[str, Any]) -> None:
    model, contexts = make_model(conditioning, encodings), make_contexts()
    observed = observe(model, contexts)
    intact, outputs = forward_by_hand(model, contexts)
    means = outputs.mean(0)
    assert torch.allclose(observed.means.double(), means.flatten(2), atol=1e-5)
    ablations = list_ablations(LAYERS, HEADS)
    assert len(set(ablations)) == len(ablations) == 2 * (LAYERS * HEADS + LAYERS + 1)
    for ablation in ablations:
        actual = log_probabilities(ablation.apply(model, observed.means), contexts)
        expected, _ = forward_by_hand(model, contexts, ablation, means)
        assert torch.allclose(actual, expected, atol=1e-4), ablation
        assert not torch.allclose(actual, intact, atol=1e-3), ablation
        effect = measure_effect(model, contexts, observed, ablation)
        divergences = [sum(a.exp() * (a - b)) for a, b in zip(intact, expected, strict=True)]
        assert effect.divergence == pytest.approx(float(sum(divergences)) / len(contexts), abs=1e-4)
        same = [int(a.argmax()) == int(b.argmax()) for a, b in zip(intact, expected, strict=True)]
        assert effect.agreement == sum(same) / len(contexts)


def test_a_head_with_a_constant_output_has_no_effect_by_its_mean() -> None:
    """A head without values outputs the bias of its values, whatever it attends to."""
    model, contexts = make_model(), make_contexts()
    head = slice(HEAD_DIM, 2 * HEAD_DIM)
    with torch.no_grad():
        attention_layers(model)[1].qkv.weight[2 * DIM :][head] = 0
    observed = observe(model, contexts)
    for ablation in (Ablation("mean", 1, 1), Ablation("uniform", 1, 1)):
        effect = measure_effect(model, contexts, observed, ablation)
        assert effect.agreement == 1
        assert effect.divergence == pytest.approx(0, abs=1e-9)
    assert measure_effect(model, contexts, observed, Ablation("mean", 1, 0)).divergence > 1e-6


def test_ablating_all_heads_of_a_layer_ablates_the_layer() -> None:
    model, contexts = make_model(), make_contexts()
    means = observe(model, contexts).means
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    by_layer = log_probabilities(Ablation("uniform", 0).apply(model, means), contexts)
    by_head = Ablation("uniform", 0, 1).apply(Ablation("uniform", 0, 0).apply(model, means), means)
    assert torch.equal(by_layer, log_probabilities(by_head, contexts))
    editors = [attention_layers(Ablation("mean", 0, head).apply(model, means))[0].edit_heads for head in range(HEADS)]
    first, second = editors
    assert first is not None
    assert second is not None
    by_layer = log_probabilities(Ablation("mean", 0).apply(model, means), contexts)
    intact = log_probabilities(model, contexts)
    attention_layers(model)[0].edit_heads = lambda outputs, positions: second(first(outputs, positions), positions)
    assert torch.equal(by_layer, log_probabilities(model, contexts))
    assert not torch.equal(by_layer, intact)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_attention_of_a_model_without_queries_is_uniform() -> None:
    model, contexts = make_model(), make_contexts()
    attention = observe(Ablation("uniform").apply(model, torch.empty(0)), contexts).attention
    assert attention.entropy == pytest.approx(math.log(3 * K - 1), rel=1e-5)
    assert attention.mean_distance == pytest.approx(3 / 5)  # three tokens of the step before, two of the newest
    assert (observe(model, contexts).attention.entropy < math.log(3 * K - 1) - 1e-4).all()


def test_the_recorded_contexts_give_the_probabilities_that_were_played_with() -> None:
    model = make_model("return", FAST)
    protocol = EvaluationProtocol(cache="off")
    policy = DecisionTransformerPolicy(model, 2, protocol, keep_last_step=True)
    recorder = ContextRecorder(policy, K, max_contexts=100, seed=0)
    envs = np.arange(2)
    recorder.start(envs, np.array([3, 5], dtype=np.float32), envs)
    rng, expected = np.random.default_rng(0), []
    for step in range(5):
        playing = envs if step < 4 else envs[:1]  # the second episode is over after four steps
        states = rng.integers(0, 256, (len(playing), 4, 84, 84), dtype=np.uint8)
        recorder.act(playing, states, rng.integers(0, 2, len(playing)).astype(np.float32))
        assert policy.last_step is not None
        if step >= K - 1:
            expected.append(policy.last_step.probabilities)
    contexts = recorder.contexts()
    assert len(contexts) == 2 * 3 + 1
    assert torch.allclose(
        log_probabilities(model, contexts).exp(), torch.from_numpy(np.concatenate(expected)), atol=1e-5
    )


class CountingPolicy:
    """Stands in for a policy of one environment: every step is a full context, and its number is its return-to-go."""

    def __init__(self) -> None:
        self.num_steps = 0

    @property
    def last_step(self) -> PolicyStep:
        one = torch.full((1, 1), float(self.num_steps))
        inputs = ForwardPass(one[..., None], one[:, :0].long(), one, one.long(), one, None)
        return PolicyStep(np.ones(1, np.int64), inputs, np.ones((1, 1)))

    def act(self, env_indices: Any, states: Any, rewards: Any) -> Any:
        self.num_steps += 1
        return np.zeros(1, np.int64)


def test_every_context_is_equally_likely_to_be_recorded() -> None:
    counts = np.zeros(6)
    for seed in range(300):
        recorder = ContextRecorder(cast(DecisionTransformerPolicy, CountingPolicy()), 1, max_contexts=2, seed=seed)
        for _ in range(6):
            recorder.act(np.zeros(1, np.int64), np.zeros(1, np.uint8), np.zeros(1, np.float32))
        numbers = recorder.contexts().returns_to_go[:, 0].long() - 1
        assert len(set(numbers.tolist())) == 2
        counts[numbers] += 1
    deviation = math.sqrt(300 * 1 / 3 * 2 / 3)
    assert np.abs(counts - 100).max() < 4 * deviation


def test_a_model_with_edited_heads_refuses_a_cache() -> None:
    model, contexts = make_model(encodings=FAST), make_contexts()
    ablated = Ablation("mean", 1).apply(model, observe(model, contexts).means)
    policy = DecisionTransformerPolicy(ablated, 1)
    one = torch.zeros(1).numpy()
    policy.start(one.astype("int64"), one, one.astype("int64"))
    with pytest.raises(ValueError, match="cannot be edited with a cache"):
        policy.act(one.astype("int64"), torch.zeros(1, 4, 84, 84, dtype=torch.uint8).numpy(), one)
