"""The network that a learner trains: initial weights, compilation, and the cost of an update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.model import DecisionTransformer
from atari_dt.training import ContextLoader
from atari_dt.training.learner import flops_per_window
from replay_data import TrajectoryStore
from tests.atari_dt.training.processes import DROPOUT


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_the_flops_of_an_update_are_those_of_its_matrix_products(conditioning: Conditioning) -> None:
    """Count by hand.

    A product costs 2 per multiplication. Each layer has three products, except for the first convolution, which has no
    input gradient. The last block computes queries, outputs and the MLP for the state tokens only.
    """
    steps, dim, layers, actions = 30, 128, 6, 4
    token_types = 3 if conditioning == "return" else 2
    tokens = token_types * steps
    encoder = 2 * 20 * 20 * 32 * 256 + 3 * (9 * 9 * 64 * 512 + 7 * 7 * 64 * 576 + 3136 * dim)
    whole_block = tokens * 12 * dim * dim + 2 * tokens * tokens * dim
    last_block = tokens * 2 * dim * dim + steps * 10 * dim * dim + 2 * steps * tokens * dim
    products = steps * encoder + 3 * ((layers - 1) * whole_block + last_block + steps * dim * actions)
    if conditioning == "return":
        products += 2 * steps * dim  # the embedding of the return, whose input has no gradient either
    generator = torch.get_rng_state()
    assert flops_per_window(ModelConfig(conditioning=conditioning), actions) == 2 * products
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_the_network_compiles_without_graph_breaks(store: TrajectoryStore, dtype: torch.dtype, training: bool) -> None:
    """No part of the network falls back to Python. The code that a compiler generates is PyTorch's responsibility."""
    model = DecisionTransformer(DROPOUT, num_actions=4, max_timestep=100).train(training)
    batch = ContextLoader(store, 3, torch.device("cpu")).batch(np.arange(8))
    arguments = batch.states, batch.actions, batch.returns_to_go, batch.timesteps, batch.attention_mask, batch.actions
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    gradients = []
    for network in (model, compiled):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = network(*arguments).loss
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for eager_value, compiled_value in zip(*gradients, strict=True):
        assert compiled_value.isfinite().all()
        tolerance = 1e-6 if dtype == torch.float32 else 1e-2
        assert training or torch.allclose(eager_value, compiled_value, atol=tolerance)


def test_weights_are_initialized_as_in_the_paper() -> None:
    model = DecisionTransformer(ModelConfig(), num_actions=4, max_timestep=100)
    for name, module in model.transformer.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert (module.bias == 0).all(), name
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert (model.position_embedding == 0).all()
    assert (model.timestep_embedding == 0).all()
    assert model.position_embedding.shape == (3 * 30 + 1, 128)
