"""Weight decay and the learning-rate schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.model import DecisionTransformer
from atari_dt.model.weights import load_optimizer
from atari_dt.training.optimizer import learning_rate_multiplier, make_optimizer, schedule_tokens
from replay_data import InputError


def test_the_schedule_is_that_of_the_paper() -> None:
    """Warm-up over 512·20 tokens, cosine to a tenth at 2·(500,000)·3·30 tokens, 128·30 tokens per update."""
    warmup, final = 512 * 20, 2 * 500_000 * 3 * 30
    for update in [1, 2, 3, 100, 5_000, 15_000, 19_530]:
        tokens = update * 128 * 30
        if tokens < warmup:
            expected = tokens / warmup
        else:
            expected = max(0.1, 0.5 * (1 + math.cos(math.pi * (tokens - warmup) / (final - warmup))))
        assert learning_rate_multiplier(tokens, warmup, final) == pytest.approx(expected)
    assert learning_rate_multiplier(warmup, warmup, final) == 1
    assert learning_rate_multiplier((warmup + final) // 2, warmup, final) == pytest.approx(0.5, abs=1e-6)
    for tokens in (final, 2 * final, 3 * final):
        assert learning_rate_multiplier(tokens, warmup, final) == 0.1


def test_a_fraction_of_the_run_warms_up_and_the_cosine_ends_with_the_run() -> None:
    config = TrainingConfig(batch_size=16, warmup_fraction=0.25)
    schedule = schedule_tokens(config, window_length=5, num_windows=999, num_updates=200)
    rates = [learning_rate_multiplier(update * 16 * 5, *schedule) for update in range(1, 201)]
    assert rates[:50] == pytest.approx([update / 50 for update in range(1, 51)])
    halves = [0.5 * (1 + math.cos(math.pi * (update - 50) / 150)) for update in range(51, 201)]
    assert rates[50:] == pytest.approx([max(0.1, half) for half in halves])
    paper = TrainingConfig()
    assert schedule_tokens(paper, 30, 500_000, num_updates=19_535) == (512 * 20, 2 * 500_000 * 3 * 30)
    with pytest.raises(InputError, match="`final_tokens` has no effect with `warmup_fraction`"):
        TrainingConfig(final_tokens=10, warmup_fraction=0.1)


def test_weight_decay_applies_only_to_linear_and_convolution_weights() -> None:
    model = DecisionTransformer(ModelConfig(), num_actions=4, max_timestep=100)
    decayed, undecayed = make_optimizer(model, TrainingConfig()).param_groups
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.1, 0)
    assert decayed["betas"] == (0.9, 0.95)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    undecayed_matrices = {names[id(p)] for p in undecayed["params"] if p.dim() >= 2}
    assert undecayed_matrices == {"action_embedding.weight", "position_embedding", "timestep_embedding"}


def test_only_the_state_of_the_same_optimizer_is_loaded() -> None:
    model = nn.Linear(3, 2)

    def make() -> torch.optim.AdamW:
        return torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.25)

    original = make()
    model(torch.ones(1, 3)).sum().backward()
    original.step()
    original.param_groups[0].update(lr=0.125, weight_decay=9.0)
    loaded = make()
    load_optimizer(loaded, original.state_dict())
    assert (loaded.param_groups[0]["lr"], loaded.param_groups[0]["weight_decay"]) == (0.125, 0.25)
    for parameter in model.parameters():
        assert torch.equal(loaded.state[parameter]["exp_avg"], original.state[parameter]["exp_avg"])
    for name, value, reason in (
        ("exp_avg", torch.full((2, 3), math.nan), "6 of the 6 values of exp_avg are NaN or infinite"),
        ("exp_avg_sq", torch.ones(3, 3), r"exp_avg_sq has shape \[3, 3\], not \[2, 3\]"),
        ("step", torch.ones(2), r"step has shape \[2\], not \[\]"),
        ("max_exp_avg_sq", torch.ones(2, 3), "it also has max_exp_avg_sq"),
    ):
        state = original.state_dict()
        state["state"] = {index: dict(each) for index, each in state["state"].items()}
        state["state"][0][name] = value
        with pytest.raises(ValueError, match=reason):
            load_optimizer(make(), state)
    state = original.state_dict()
    del state["state"][1]
    with pytest.raises(ValueError, match="it lacks step, exp_avg, exp_avg_sq"):
        load_optimizer(make(), state)
