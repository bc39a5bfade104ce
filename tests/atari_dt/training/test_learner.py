"""What a learner does: initial weights, compilation, steps of the optimizer, and the cost of an update."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from atari_dt.config import Conditioning, ModelConfig, TrainingConfig
from atari_dt.hardware import Compute, autocast
from atari_dt.method_config import VALUE_TRAINING, CQLConfig, MethodConfig, QRDQNConfig, REMConfig
from atari_dt.methods import find_method
from atari_dt.model import DecisionTransformer
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner, flops_per_window
from replay_data import InputError, TrajectoryStore
from tests.atari_dt.methods.tabular import Transition, make_batch, make_learner
from tests.atari_dt.q_networks import ADAM, CONFIGS, use_small_layers
from tests.atari_dt.training.processes import DROPOUT, SMALL


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


@pytest.mark.parametrize(
    ("config", "num_estimates"),
    [(QRDQNConfig(), 200), (CQLConfig(), 200), (REMConfig(), 200), (QRDQNConfig(num_quantiles=8), 8)],
)
def test_the_flops_of_a_value_update_count_the_target_network(config: MethodConfig, num_estimates: int) -> None:
    """Each layer has three products, and a fourth one in the target network, which has no gradients.

    The first convolution has no input gradient. The losses are element-wise.
    """
    actions = 6
    first = 20 * 20 * 32 * 256
    others = 9 * 9 * 64 * 512 + 7 * 7 * 64 * 576 + 3136 * 512 + 512 * actions * num_estimates
    assert flops_per_window(config, actions) == 2 * ((2 + 1) * first + (3 + 1) * others)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        (SMALL, torch.float32),
        (DROPOUT, torch.bfloat16),
        (CONFIGS["cql"], torch.bfloat16),  # whose loss contains that of QR-DQN
        (CONFIGS["rem"], torch.bfloat16),
    ],
)
def test_objectives_compile_without_graph_breaks(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, config: MethodConfig, dtype: torch.dtype
) -> None:
    """No part of a method falls back to Python. The code that a compiler generates is PyTorch's responsibility.

    Code that was compiled once sees the mixture and the target network of a later update.
    """
    use_small_layers(monkeypatch.setattr)
    seam, cpu = find_method(config), torch.device("cpu")
    model = seam.make_network(config, store)
    objective = seam.make_objective(model, seed=0).train()
    batch = seam.make_loader(config, store, cpu).batch(np.arange(8))
    compiled = torch.compile(objective, fullgraph=True, dynamic=False, backend="aot_eager")
    losses = []
    for update in (0, 3):
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
        objective.prepare(update)
        results = []
        for network in (objective, compiled):
            model.zero_grad()
            with autocast(cpu, dtype):
                values = network(batch)
            values[0].backward()
            results.append([values.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for eager_value, compiled_value in zip(*results, strict=True):
            assert compiled_value.isfinite().all()
            tolerance = 1e-6 if dtype == torch.float32 else 1e-2
            assert config is DROPOUT or torch.allclose(eager_value, compiled_value, atol=tolerance)
        losses.append(results[1][0][0].item())
    assert losses[0] != losses[1]


def test_the_smaller_batch_at_the_end_of_an_epoch_is_not_compiled(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network is compiled once, for full batches. The smaller one makes the same update as without a compiler."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    training, method = TrainingConfig(batch_size=8), find_method(SMALL)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = method.make_network(SMALL, store)
        learner = Learner(model, training, Compute(torch.device("cpu"), torch.float32, compiled), ProcessGroup())
        loader = method.make_loader(SMALL, store, torch.device("cpu"))
        metrics = [learner.update(loader.batch(np.arange(size)), i, 1e-3) for i, size in enumerate((5, 8, 3, 8))]
        results.append(torch.stack(metrics))
    assert counter.frame_count == 1
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", CONFIGS)
def test_an_update_is_a_step_of_adam_with_the_epsilon_of_the_config(method: str) -> None:
    """Gradients are not clipped without ``grad_norm_clip``, and nothing decays the weights."""
    rate, eps, (beta1, beta2) = 0.5, 0.03, VALUE_TRAINING.betas
    learner, objective, table, _ = make_learner(CONFIGS[method], training=dataclasses.replace(ADAM, adam_eps=eps))
    batch = make_batch([Transition(0, 1, 1.0, 2), Transition(3, 0, -1.0, None)])
    expected, mean, square = table.detach().double(), torch.zeros(()), torch.zeros(())
    for update in range(3):
        before = table.detach().clone()
        metrics = dict(zip(learner.metrics, learner.update(batch, update, rate).tolist(), strict=True))
        assert table.grad is not None
        applied, after = table.grad.clone(), table.detach().clone()
        with torch.no_grad():
            table.copy_(before)
        (gradient,) = torch.autograd.grad(objective(batch)[0], table)
        with torch.no_grad():
            table.copy_(after)
        torch.testing.assert_close(applied, gradient)
        assert metrics["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
        mean, square = (
            beta * old + (1 - beta) * gradient.double() ** power
            for beta, old, power in ((beta1, mean, 1), (beta2, square, 2))
        )
        corrected = mean / (1 - beta1 ** (update + 1)), square / (1 - beta2 ** (update + 1))
        expected = expected - rate * corrected[0] / (corrected[1].sqrt() + eps)
        torch.testing.assert_close(after.double(), expected, rtol=1e-4, atol=1e-5)
        expected = after.double()
    clipped, _, other, _ = make_learner(CONFIGS[method], training=dataclasses.replace(ADAM, grad_norm_clip=1e-3))
    assert clipped.update(batch, 0, rate)[-1] > 2e-3
    assert other.grad is not None
    assert other.grad.norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, "`schedule` must be 'cosine' or 'constant', not 'linear'"),
        ({"adam_eps": 0.0}, "`adam_eps` must be positive, not 0.0"),
        ({"adam_eps": math.inf}, "`adam_eps` must be positive, not inf"),
        ({"adam_eps": math.nan}, "`adam_eps` must be positive, not nan"),
        ({"grad_norm_clip": 0.0}, "`grad_norm_clip` must be positive, not 0.0"),
        ({"schedule": "constant", "warmup_fraction": 0.1}, "have no effect with a constant `schedule`; leave them out"),
        ({"schedule": "constant", "warmup_tokens": 9}, "have no effect with a constant `schedule`; leave them out"),
        ({"schedule": "constant", "final_tokens": 9}, "have no effect with a constant `schedule`; leave them out"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        TrainingConfig(**settings)
    assert TrainingConfig(grad_norm_clip=None, schedule="constant").grad_norm_clip is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QRDQNConfig(num_quantiles=0), "`num_quantiles` must be at least 1, not 0"),
        (lambda: REMConfig(num_q_heads=0), "`num_q_heads` must be at least 1, not 0"),
        (lambda: REMConfig(target_update_every=0), "`target_update_every` must be at least 1, not 0"),
        (lambda: CQLConfig(discount=1.1), "`discount` must be between 0 and 1, not 1.1"),
        (lambda: CQLConfig(epsilon=math.nan), "`epsilon` must be between 0 and 1, not nan"),
        (lambda: CQLConfig(alpha=-1.0), "`alpha` must be at least 0, not -1.0"),
        (lambda: CQLConfig(alpha=math.inf), "`alpha` must be at least 0, not inf"),
        (lambda: CQLConfig(num_quantiles=0), "`num_quantiles` must be at least 1, not 0"),
    ],
)
def test_impossible_settings_of_a_method_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make()


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
