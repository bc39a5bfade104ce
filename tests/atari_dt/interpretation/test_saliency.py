from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from atari_dt.interpretation.saliency import by_cell, by_frame, gradient_times_input, occlusion
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.training.batches import ContextBatch
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


def logit(model: DecisionTransformer, batch: ContextBatch, context: int, states: Tensor) -> float:
    """Of a context's last action, had its states been these."""
    n = int(batch.attention_mask[context].sum())
    arguments = (batch.actions, batch.returns_to_go, batch.timesteps)
    with torch.inference_mode():
        output = model(states[None, :n], *(values[context : context + 1, :n] for values in arguments))
    return float(output.action_logits[0, -1, batch.actions[context, n - 1]])


def seeing_model() -> DecisionTransformer:
    model = small_model()
    for parameter in model.state_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@given(st.data(), st.sampled_from(["return", "none"]))
@settings(max_examples=25)
def test_maps_point_at_the_one_pixel_that_the_weights_read(data: Any, conditioning: Any) -> None:
    """The encoder reads one pixel of one frame, and the acting token looks at one step, an earlier one."""
    kinds = 3 if conditioning == "return" else 2
    step, steps = data.draw(st.tuples(st.integers(0, 3), st.integers(2, 5)).filter(lambda pair: pair[0] < pair[1] - 1))
    frame, y, x = (data.draw(st.integers(0, most)) for most in (3, 55, 55))
    value = data.draw(st.integers(1, 255))
    model = planted_model(conditioning, kinds * steps - 2, kinds * step + kinds - 2)
    encoder = model.state_encoder
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
    expected = logit(model, batch, 0, batch.states[0]) - logit(model, batch, 0, torch.zeros_like(batch.states[0]))
    assert expected > 0
    gradient = gradient_times_input(model, batch)
    assert gradient.nonzero().tolist() == [[0, step, frame, y, x]]
    drops = occlusion(model, batch, patch=28)
    place = 0, step, frame, y // 28, x // 28
    assert drops[place] == pytest.approx(expected, rel=1e-4)
    drops[place] = 0
    assert drops.abs().max() < 1e-6
    frames = by_frame(gradient)
    assert frames.nonzero().tolist() == [[0, step + frame, y, x]]
    assert by_cell(frames, 14).nonzero().tolist() == [[0, step + frame, y // 6, x // 6]]


def test_the_gradient_is_that_of_small_changes() -> None:
    model = seeing_model()
    batch = contexts([5, 2], 5)
    saliency = gradient_times_input(model, batch)
    assert saliency.shape == (2, 5, 4, 84, 84)
    assert (saliency[1, 2:] == 0).all()
    for context in range(2):
        for flat in saliency[context].abs().flatten().topk(3).indices:
            place = np.unravel_index(int(flat), (5, 4, 84, 84))
            states = batch.states[context].float()
            changed = [states.clone() for _ in range(2)]
            changed[0][place] += 2
            changed[1][place] -= 2
            above, below = (logit(model, batch, context, each) for each in changed)
            assert saliency[context][place] == pytest.approx(float(states[place]) * (above - below) / 4, rel=0.05)


@pytest.mark.parametrize("at_once", [7, 1000])
def test_occlusion_is_what_is_lost_without_the_patch(at_once: int) -> None:
    model = seeing_model()
    batch = contexts([3, 1], 3)
    batch.states[:, :, :, :30] = 77  # of every frame the most frequent grey
    drops = occlusion(model, batch, patch=42, at_once=at_once)
    assert drops.shape == (2, 3, 4, 2, 2)
    for context, steps in enumerate([3, 1]):
        whole = logit(model, batch, context, batch.states[context])
        for step, frame, y, x in np.ndindex(steps, 4, 2, 2):
            states = batch.states[context].clone()
            states[step, frame, 42 * y : 42 * y + 42, 42 * x : 42 * x + 42] = 77
            expected = whole - logit(model, batch, context, states)
            assert drops[context, step, frame, y, x] == pytest.approx(expected, abs=1e-4)
        assert (drops[context, steps:] == 0).all()
    assert drops.abs().max() > 0.01
    newest = occlusion(model, batch, patch=42, last_steps=1)
    assert torch.allclose(newest[0, 2], drops[0, 2], atol=1e-5)
    assert torch.allclose(newest[1, 0], drops[1, 0], atol=1e-5)
    assert (newest[0, :2] == 0).all()


@pytest.mark.parametrize("patch", [0, -1, 5, 85])
def test_patches_that_do_not_fit_are_refused(patch: int) -> None:
    with pytest.raises(InputError, match="patch must be a divisor of 84"):
        occlusion(small_model(), contexts([1], 1), patch)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_frames_are_the_sums_over_the_stacks_that_hold_them(steps: int, seed: int) -> None:
    saliency = torch.randn(2, steps, 4, 3, 2, generator=torch.Generator().manual_seed(seed))
    frames = by_frame(saliency)
    assert frames.shape == (2, steps + 3, 3, 2)
    for frame in range(steps + 3):
        held = [saliency[:, step, frame - step] for step in range(steps) if 0 <= frame - step < 4]
        assert torch.allclose(frames[:, frame], sum(held, torch.zeros(2, 3, 2)), atol=1e-6)


def test_cells_are_sums_of_their_pixels() -> None:
    pixels = torch.randn(3, 84, 84)
    cells = by_cell(pixels, 14)
    for y, x in np.ndindex(14, 14):
        assert torch.allclose(cells[:, y, x], pixels[:, 6 * y : 6 * y + 6, 6 * x : 6 * x + 6].sum((1, 2)), atol=1e-4)
