"""Layers, compared with their plain implementations in PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atari_dt.config import ModelConfig
from atari_dt.model.state_encoder import StateEncoder
from atari_dt.model.transformer import CausalSelfAttention, Dropout
from tests.atari_dt.model.networks import K


def test_attention_equals_that_of_pytorch() -> None:
    """The explicit formula, which runs on a CPU, gives the results of the fused kernel, which runs on a GPU."""
    attention = CausalSelfAttention(16, num_heads=2, dropout=0.0)
    x = torch.randn(2, 3 * K, 16)
    query, key, value = attention.qkv(x).view(2, 3 * K, 3, 2, 8).permute(2, 0, 3, 1, 4)
    y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = attention.projection(y.transpose(1, 2).reshape(2, 3 * K, 16))
    assert torch.allclose(attention(x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(1000, 1000), (333, 3, 7)])  # the size of the second one is not a multiple of 4
def test_dropout_zeroes_independent_elements_and_scales_the_others(p: float, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 3.0, requires_grad=True)
    dropout = Dropout(p)
    y = dropout(x)
    y.sum().backward()
    assert x.grad is not None
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    assert y.max().item() == pytest.approx(3 / (1 - p), rel=1e-4)
    assert torch.allclose(x.grad, y / 3)
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=5 * deviation)
    dropped = (y == 0).flatten()
    if y.numel() == 1_000_000:  # elements at distances 1 to 4 share no random bits, so they are independent
        for distance in (1, 2, 3, 4):
            both = (dropped[distance:] & dropped[:-distance]).float().mean().item()
            assert both == pytest.approx(p * p, abs=5e-3 * p)
    assert not torch.equal(dropout(x), y)
    assert dropout.eval()(x) is x


def test_encoder_equals_the_plain_stack_of_convolutions() -> None:
    encoder = StateEncoder(ModelConfig(embed_dim=16))
    plain = nn.Sequential(
        encoder.conv1, nn.ReLU(), encoder.conv2, nn.ReLU(), encoder.conv3, nn.ReLU(), nn.Flatten(), encoder.linear
    )
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    assert torch.allclose(encoder(states), plain(states / 255).tanh(), atol=1e-6)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of feature maps ``[M, C, H, W]``, written out."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalized = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]


@pytest.mark.parametrize("as_float", [False, True])
def test_encoder_of_the_fast_recipe_equals_its_definition(as_float: bool) -> None:
    """Differences of frames, fewer channels, and a norm before each ReLU and in place of the tanh."""
    config = ModelConfig(embed_dim=16, encoder_channels=(3, 5, 7), encoder_norm=True, frame_differences=True)
    encoder = StateEncoder(config)
    for parameter in encoder.norms.parameters():
        nn.init.normal_(parameter)
    norms = [ChannelNorm(norm) for norm in encoder.norms if isinstance(norm, nn.LayerNorm)]
    plain = nn.Sequential(
        *(encoder.conv1, norms[0], nn.ReLU()),
        *(encoder.conv2, norms[1], nn.ReLU()),
        *(encoder.conv3, norms[2], nn.ReLU()),
        *(nn.Flatten(), encoder.linear, encoder.norms[3]),
    )
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    first, second, third, newest = (states / 255).unbind(1)
    inputs = torch.stack([newest, newest - third, third - second, second - first], dim=1)
    tokens = encoder(states.float() if as_float else states)
    assert tokens.shape == (3, 16)
    assert torch.allclose(tokens, plain(inputs), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("config", [ModelConfig(embed_dim=16), ModelConfig(encoder_norm=True, frame_differences=True)])
def test_encoder_gives_the_same_tokens_for_shared_and_copied_frames(steps: int, config: ModelConfig) -> None:
    encoder = StateEncoder(config)
    frames = torch.randint(0, 256, (2, steps + 3, 84, 84), dtype=torch.uint8)
    view = frames.unfold(1, 4, 1).permute(0, 1, 4, 2, 3)
    copies = torch.stack([frames[:, t : t + 4] for t in range(steps)], dim=1)
    assert torch.equal(view, copies)
    assert torch.allclose(encoder(view), encoder(copies), atol=1e-5)
    assert torch.allclose(encoder(view[1:]), encoder(copies[1:]), atol=1e-5)
