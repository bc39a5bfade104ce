from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.interpretation.saliency import gradient_times_input, occlusion, sum_by_cell, sum_by_frame
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import InputError
from tests.atari_dt.interpretation.test_attention import planted_model
from tests.atari_dt.models import small_model


def contexts(lengths: list[int], steps: int, seed: int = 0) -> ContextBatch:
    rng = torch.Generator().manual_seed(seed)
    states = torch.randint(0, 256, (len(lengths), steps, 4, 84, 84), dtype=torch.uint8, generator=rng)
    return ContextBatch(
        states,
        torch.randint(0, 4, (len(lengths), steps), generator=rng),
        torch.rand(len(lengths), steps, generator=rng) * 9,
        torch.arange(steps).repeat(len(lengths), 1),
        torch.arange(steps) < torch.tensor(lengths)[:, None],
    )


def last_logit(model: DecisionTransformer, batch: ContextBatch, context: int, states: Tensor) -> float:
    """Compute the logit of a context's last action, with other states."""
    num_steps = int(batch.attention_mask[context].sum())
    arguments = (batch.actions, batch.returns_to_go, batch.timesteps)
    with torch.inference_mode():
        output = model(states[None, :num_steps], *(values[context : context + 1, :num_steps] for values in arguments))
    return float(output.action_logits[0, -1, batch.actions[context, num_steps - 1]])


def random_model(recipe: RecipeName) -> DecisionTransformer:
    """Return a small model whose weights are large enough for the pixels to matter."""
    config, _ = apply_recipe(recipe, ModelConfig(5, 2, 2, 16), TrainingConfig())
    model = DecisionTransformer(config, num_actions=4, max_timestep=8).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.05 if name.startswith("state_encoder") and "norm" not in name else 0.3)
    return model


@given(st.data(), st.sampled_from(["return", "none"]))
@settings(max_examples=25, deadline=None)
def test_saliency_finds_the_planted_pixel(data: Any, conditioning: Any) -> None:
    """The encoder reads one pixel of one frame, and the query token attends to one earlier step."""
    num_types = 3 if conditioning == "return" else 2
    step, steps = data.draw(st.tuples(st.integers(0, 3), st.integers(2, 5)).filter(lambda pair: pair[0] < pair[1] - 1))
    frame, y, x = (data.draw(st.integers(0, most)) for most in (3, 55, 55))
    value = data.draw(st.integers(1, 255))
    model = planted_model(conditioning, num_types * steps - 2, num_types * (step + 1) - 2)
    encoder: Any = model.state_encoder
    block: Any = model.transformer.blocks[0]
    with torch.no_grad():
        encoder.conv1.weight[0, frame, y % 8, x % 8] = 1
        encoder.conv2.weight[0, 0, 0, 0] = encoder.conv3.weight[0, 0, 0, 0] = 1
        encoder.linear.weight[3, 7 * (y // 8) + x // 8] = 1
        block.attention.qkv.weight[32 + 3, 3] = 1  # the value of the first head
        block.attention.projection.weight[4, 3] = 1
        model.transformer.norm.weight.fill_(1)
        model.head.weight[1, 4] = 1
    batch = contexts([steps], 5)
    batch.states[:] = 0
    batch.states[0, step, frame, y, x] = value
    batch.actions[:] = 1
    black = torch.zeros_like(batch.states[0])
    expected = last_logit(model, batch, 0, batch.states[0]) - last_logit(model, batch, 0, black)
    assert expected > 0
    gradient = gradient_times_input(model, batch)
    assert gradient.nonzero().tolist() == [[0, step, frame, y, x]]
    drops = occlusion(model, batch, patch=28)
    patch = 0, step, frame, y // 28, x // 28
    assert drops[patch] == pytest.approx(expected, rel=1e-4)
    drops[patch] = 0
    assert drops.abs().max() < 1e-6
    frames = sum_by_frame(gradient)
    assert frames.nonzero().tolist() == [[0, step + frame, y, x]]
    assert sum_by_cell(frames, 14).nonzero().tolist() == [[0, step + frame, y // 6, x // 6]]


@pytest.mark.parametrize("recipe", get_args(RecipeName))
def test_gradient_matches_finite_differences(recipe: RecipeName) -> None:
    model = random_model(recipe)
    batch = contexts([5, 2], 5)
    saliency = gradient_times_input(model, batch)
    assert saliency.shape == (2, 5, 4, 84, 84)
    assert (saliency[1, 2:] == 0).all()
    for context in range(2):
        for flat in saliency[context].abs().flatten().topk(3).indices:
            pixel = np.unravel_index(int(flat), (5, 4, 84, 84))
            states = batch.states[context].float()
            changed = [states.clone() for _ in range(2)]
            changed[0][pixel] += 2
            changed[1][pixel] -= 2
            above, below = (last_logit(model, batch, context, each) for each in changed)
            assert saliency[context][pixel] == pytest.approx(float(states[pixel]) * (above - below) / 4, rel=0.05)


@pytest.mark.parametrize(("batch_size", "recipe"), [(7, "paper"), (1000, "paper"), (7, "fast")])
def test_occlusion_matches_covering_each_patch(batch_size: int, recipe: RecipeName) -> None:
    model = random_model(recipe)
    batch = contexts([3, 1], 3)
    batch.states[:, :, :, :30] = 77  # the most frequent gray level of every frame
    drops = occlusion(model, batch, patch=42, batch_size=batch_size)
    assert drops.shape == (2, 3, 4, 2, 2)
    for context, steps in enumerate([3, 1]):
        uncovered = last_logit(model, batch, context, batch.states[context])
        for step, frame, y, x in np.ndindex(steps, 4, 2, 2):
            states = batch.states[context].clone()
            states[step, frame, 42 * y : 42 * y + 42, 42 * x : 42 * x + 42] = 77
            expected = uncovered - last_logit(model, batch, context, states)
            assert drops[context, step, frame, y, x] == pytest.approx(expected, abs=1e-4)
        assert (drops[context, steps:] == 0).all()
    assert drops.abs().max() > 0.01
    newest = occlusion(model, batch, patch=42, last_steps=1)
    assert torch.allclose(newest[0, 2], drops[0, 2], atol=1e-5)
    assert torch.allclose(newest[1, 0], drops[1, 0], atol=1e-5)
    assert (newest[0, :2] == 0).all()


@pytest.mark.parametrize("patch", [0, -1, 5, 85])
def test_patch_that_does_not_tile_the_frame_raises(patch: int) -> None:
    with pytest.raises(InputError, match="`patch` must be a divisor of 84"):
        occlusion(small_model(), contexts([1], 1), patch)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_sum_by_frame_adds_all_stacks_with_the_frame(steps: int, seed: int) -> None:
    saliency = torch.randn(2, steps, 4, 3, 2, generator=torch.Generator().manual_seed(seed))
    frames = sum_by_frame(saliency)
    assert frames.shape == (2, steps + 3, 3, 2)
    for frame in range(steps + 3):
        maps = [saliency[:, step, frame - step] for step in range(steps) if 0 <= frame - step < 4]
        assert torch.allclose(frames[:, frame], sum(maps, torch.zeros(2, 3, 2)), atol=1e-6)


def test_sum_by_cell_adds_the_pixels_of_each_cell() -> None:
    pixels = torch.randn(3, 84, 84)
    cells = sum_by_cell(pixels, 14)
    for y, x in np.ndindex(14, 14):
        assert torch.allclose(cells[:, y, x], pixels[:, 6 * y : 6 * y + 6, 6 * x : 6 * x + 6].sum((1, 2)), atol=1e-4)
