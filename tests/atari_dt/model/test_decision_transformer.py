"""The network: causality, conditioning, timesteps, padding and optional outputs."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from atari_dt.config import Conditioning, ModelConfig, TimestepEncoding
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError
from tests.atari_dt.model.networks import NUM_ACTIONS, SMALL, K, random_inputs, small_model


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_timestep_encoding_selects_the_embedded_timesteps(conditioning: Conditioning) -> None:
    """Change the timestep of step 2: with `per_step` its logits and later ones change, with `window_start` none do."""
    states, actions, returns, timesteps = random_inputs()
    later = timesteps.clone()
    later[:, 2] += 1
    for encoding in get_args(TimestepEncoding):
        config = ModelConfig(**SMALL, conditioning=conditioning, timestep_encoding=encoding)
        model = DecisionTransformer(config, NUM_ACTIONS, max_timestep=50).eval()
        if encoding != "none":
            nn.init.normal_(model.timestep_embedding, std=0.1)
        before, after = (model(states, actions, returns, times).action_logits for times in (timesteps, later))
        assert torch.equal(before[:, :2], after[:, :2])
        assert torch.equal(before, after) == (encoding != "per_step")
        assert torch.equal(before[:, 2], after[:, 2]) == (encoding != "per_step")
        first_timestep_only = model(states, actions, returns, timesteps[:, :1].expand(-1, K)).action_logits
        assert torch.equal(first_timestep_only, before) == (encoding != "per_step")
        acting = model(states, actions[:, :-1], returns, timesteps).action_logits
        assert torch.allclose(acting, before, atol=1e-6)


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize("step", range(K))
def test_no_token_changes_an_earlier_logit(conditioning: Conditioning, step: int) -> None:
    model = small_model(conditioning)
    states, actions, returns, timesteps = random_inputs()
    before = model(states, actions, returns, timesteps).action_logits
    changed = [states.clone(), actions.clone(), returns.clone()]
    changed[0][:, step] = 255 - changed[0][:, step]
    changed[2][:, step] += 5
    after = model(*changed, timesteps).action_logits
    assert torch.equal(before[:, :step], after[:, :step])
    assert not torch.allclose(before[:, step], after[:, step], atol=1e-4)

    changed[1][:, step] = (changed[1][:, step] + 1) % NUM_ACTIONS
    other_action = model(*changed, timesteps).action_logits
    assert torch.equal(after[:, : step + 1], other_action[:, : step + 1])  # an action's own logits do not depend on it
    if step + 1 < K:
        assert not torch.equal(after[:, step + 1], other_action[:, step + 1])


def test_behavior_cloning_ignores_returns() -> None:
    model = small_model("none")
    states, actions, returns, timesteps = random_inputs()
    assert torch.equal(
        model(states, actions, returns, timesteps).action_logits, model(states, actions, None, timesteps).action_logits
    )
    with pytest.raises(ValueError, match="needs returns_to_go"):
        small_model()(states, actions, None, timesteps)


def test_returns_are_divided_by_their_scale_before_they_are_embedded() -> None:
    """Compare the tokens with a NumPy embedding, and the logits with those of unscaled returns that are smaller."""
    scaled, plain = (
        DecisionTransformer(ModelConfig(**SMALL, return_scale=scale), NUM_ACTIONS, max_timestep=50).eval()
        for scale in (8.0, 1.0)
    )
    for parameter in scaled.parameters():
        nn.init.normal_(parameter, std=0.1)
    plain.load_state_dict(scaled.state_dict())
    states, actions, returns, timesteps = random_inputs()
    hidden_states = scaled(states, actions, returns, timesteps, output_hidden_states=True).hidden_states
    weight, bias = (each.detach().numpy() for each in (scaled.return_embedding.weight, scaled.return_embedding.bias))
    encodings = (scaled.position_embedding[: 3 * K : 3] + scaled.timestep_embedding[7]).detach().numpy()
    expected = np.tanh(returns.numpy()[..., None] / 8 * weight[:, 0] + bias) + encodings
    assert np.allclose(hidden_states[0][:, ::3].detach().numpy(), expected, atol=1e-6)
    logits = scaled(states, actions, returns, timesteps).action_logits
    assert torch.equal(logits, plain(states, actions, returns / 8, timesteps).action_logits)
    assert not torch.equal(logits, plain(states, actions, returns, timesteps).action_logits)


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_last_action_is_optional(conditioning: Conditioning) -> None:
    model = small_model(conditioning)
    states, actions, returns, timesteps = random_inputs()
    with_action = model(states, actions, returns, timesteps).action_logits
    without_action = model(states, actions[:, :-1], returns, timesteps).action_logits
    assert torch.allclose(with_action, without_action, atol=1e-6)


def test_padding_changes_neither_logits_nor_loss() -> None:
    model = small_model()
    states, actions, returns, timesteps = random_inputs()
    short = model(states[:, :2], actions[:, :2], returns[:, :2], timesteps[:, :2], targets=actions[:, :2])
    mask = torch.tensor([[True, True, False, False]]).repeat(2, 1)
    padded = model(states, actions, returns, timesteps, mask, targets=actions)
    assert torch.allclose(short.action_logits, padded.action_logits[:, :2], atol=1e-6)
    assert padded.loss.item() == pytest.approx(short.loss.item(), abs=1e-6)
    log_probabilities = short.action_logits.log_softmax(-1).gather(-1, actions[:, :2, None])
    assert short.loss.item() == pytest.approx(-log_probabilities.mean().item(), abs=1e-6)


def test_attentions_and_hidden_states_are_optional_and_do_not_change_logits() -> None:
    model = small_model()
    arguments = random_inputs()
    plain = model(*arguments)
    output = model(*arguments, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is plain.hidden_states is None
    assert torch.allclose(plain.action_logits, output.action_logits, atol=1e-6)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 2, 3 * K, 3 * K)] * 2
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 3 * K, 16)] * 3
    for attention in output.attentions:
        assert torch.allclose(attention.sum(-1), torch.ones(2, 2, 3 * K))
        assert (attention.triu(1) == 0).all()


def test_timesteps_beyond_the_largest_share_its_embedding() -> None:
    model = small_model()
    states, actions, returns, _ = random_inputs()
    late = [torch.full((2, K), timestep) for timestep in (50, 51, 20_000)]
    logits = [model(states, actions, returns, timesteps).action_logits for timesteps in late]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": 0}, "`context_length` must be at least 1, not 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, not 0"),
        ({"embed_dim": 100}, r"`embed_dim` \(100\) must be a multiple of `num_heads` \(8\)"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and less than 1, not 1.0"),
        ({"position_encoding": "rotary", "embed_dim": 24}, "`embed_dim` / `num_heads` must be even for .*, not 3"),
        (
            {"position_encoding": "rotary", "context_length": 10**12},
            "`context_length` must be at most 27,000 for rotary",
        ),
        ({"return_scale": 0.0}, "`return_scale` must be a number of at least 1e-06, not 0.0"),
        ({"return_scale": float("nan")}, "`return_scale` must be a number of at least 1e-06, not nan"),
        ({"conditioning": "none", "return_scale": 90.0}, "`return_scale` has no effect on behavior cloning"),
        ({"conditioning": "reward"}, "`conditioning` must be 'return' or 'none', not 'reward'"),
        (
            {"timestep_encoding": "rotary"},
            "`timestep_encoding` must be 'window_start', 'per_step' or 'none', not 'rotary'",
        ),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**changes)  # type: ignore[arg-type]
