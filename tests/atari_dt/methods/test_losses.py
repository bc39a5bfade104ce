"""The losses of the value-based methods against loops over numbers and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.method_config import REMConfig
from atari_dt.methods import find_method
from atari_dt.methods.qrdqn import quantile_huber_loss
from atari_dt.methods.rem import MixtureObjective, draw_mixture
from tests.atari_dt.methods.tabular import (
    NUM_STATES,
    TableLearner,
    Transition,
    losses_by_hand,
    make_batch,
    make_learner,
    quantile_huber_by_hand,
)
from tests.atari_dt.q_networks import CONFIGS

A = 3


def quarters(length: int) -> st.SearchStrategy[list[float]]:
    """Return lists of multiples of 1/4, whose differences are often exactly 0, 1 or -1."""
    return st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=length, max_size=length)


@st.composite
def quantiles_and_targets(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]]]:
    batch, num_quantiles, num_targets = draw(st.tuples(*[st.integers(1, 5)] * 3))
    rows = st.lists(st.tuples(quarters(num_quantiles), quarters(num_targets)), min_size=batch, max_size=batch)
    quantiles, targets = zip(*draw(rows), strict=True)
    return list(quantiles), list(targets)


@given(quantiles_and_targets())
@settings(max_examples=60, deadline=None)
def test_the_quantile_huber_loss_equals_a_double_loop(rows: tuple[list[list[float]], list[list[float]]]) -> None:
    """So does its gradient: of quantile i, the mean of ``-|tau_i - (error < 0)| clip(error)`` over the targets."""
    quantiles = torch.tensor(rows[0], requires_grad=True)
    loss = quantile_huber_loss(quantiles, torch.tensor(rows[1]))
    expected = np.mean([quantile_huber_by_hand(*row) for row in zip(*rows, strict=True)])
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    (3 * loss).backward()
    gradient = np.zeros(quantiles.shape)
    for (row, index), quantile in np.ndenumerate(np.array(rows[0])):
        fraction = (index + 0.5) / quantiles.shape[1]
        for target in rows[1][row]:
            error = target - quantile
            slope = abs(fraction - (error < 0)) * min(1.0, max(-1.0, error))
            gradient[row, index] -= 3 * slope / len(rows[1][row]) / len(quantiles)
    assert quantiles.grad is not None
    np.testing.assert_allclose(quantiles.grad, gradient, rtol=1e-5, atol=1e-6)


def test_the_quantiles_of_the_targets_have_the_smallest_loss() -> None:
    """With N targets that lie far apart, quantile i is target i, but for what the loss rounds off near its corner.

    N - 1 - i targets are more than 1 above the quantile and i more than 1 below it, which pull with
    ``(N - 1 - i) tau_i`` and ``i (1 - tau_i)``. The error of target i balances them at ``(tau_i - 1/2) / w``, with a
    weight w of 1 - tau_i if it is negative, and of tau_i otherwise.
    """
    size = 5
    targets = torch.tensor([[-40.0, -7.0, 0.0, 3.0, 90.0]])
    fractions = (torch.arange(size) + 0.5) / size
    best = (targets + (0.5 - fractions) / torch.maximum(fractions, 1 - fractions)).requires_grad_()
    assert best[0, 2] == 0  # the median
    loss = quantile_huber_loss(best, targets)
    (gradient,) = torch.autograd.grad(loss, best)
    assert gradient.abs().max() < 1e-6
    for index in range(size):
        for distance in (-0.1, 0.1, -5.0, 5.0):
            other = best.detach().clone()
            other[0, index] += distance
            assert quantile_huber_loss(other, targets) > loss + 1e-4


def random_transitions(rng: np.random.Generator, number: int) -> list[Transition]:
    """Return transitions between random states, a third of which end the game."""
    return [
        Transition(
            int(rng.integers(NUM_STATES)),
            int(rng.integers(A)),
            float(rng.choice([-1, 0, 0.5, 1])),
            int(rng.integers(NUM_STATES)) if rng.random() < 2 / 3 else None,
        )
        for _ in range(number)
    ]


def scattered_learner(method: str, scale: float) -> TableLearner:
    """Return a learner whose table and target are random numbers of their own."""
    learner = make_learner(CONFIGS[method], A)
    with torch.no_grad():
        for table in (learner.online, learner.target):
            table.copy_(scale * torch.randn_like(table))
    return learner


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("method", CONFIGS)
def test_the_losses_equal_loops_over_numbers(method: str, scale: float) -> None:
    """The best action of the next state is that of the target network, and nothing follows a terminated transition."""
    learner, config = scattered_learner(method, scale), CONFIGS[method]
    objective, online, target = (
        learner.objective,
        learner.online.detach().double().numpy(),
        learner.target.double().numpy(),
    )
    assert (online.mean(-1).argmax(-1) != target.mean(-1).argmax(-1)).any()
    transitions = random_transitions(np.random.default_rng(0), 40)
    weights = {}
    if isinstance(config, REMConfig):
        update = 4  # no multiple of `target_update_every`, so that the target stays
        objective.prepare(update)
        weights = {True: draw_mixture(6, objective.seed, update), False: np.full(6, 1 / 6)}
    for training in (True, False):
        values = dict(zip(objective.metrics, objective.train(training)(make_batch(transitions)).tolist(), strict=True))
        states, actions, rewards, next_states = zip(*transitions, strict=True)
        following = [None if each is None else target[each] for each in next_states]
        expected = losses_by_hand(
            config, [online[each] for each in states], following, actions, rewards, weights.get(training)
        )
        assert values == pytest.approx(expected, rel=1e-5)
    if method == "cql":
        assert values["loss"] > values["td_loss"] + 1
    else:
        assert values["loss"] == values["td_loss"]


@pytest.mark.parametrize("method", CONFIGS)
def test_gradients_reach_the_estimates_of_the_data_alone(method: str) -> None:
    """None reach the target network. CQL's reach the other actions too, in proportion to their probability."""
    _, objective, online, target = scattered_learner(method, 1.0)
    objective.prepare(1)
    transitions = [Transition(0, 1, 0.5, 2), Transition(3, 2, 1.0, None)]
    objective(make_batch(transitions))[0].backward()
    assert not target.requires_grad
    assert target.grad is None
    gradient = online.grad
    assert gradient is not None
    touched = torch.zeros(NUM_STATES, A, dtype=torch.bool)
    touched[[0, 3], [1, 2]] = True
    if method == "cql":
        q = online.detach().mean(-1)
        others = torch.zeros_like(touched)
        others[[0, 3]] = True
        others &= ~touched
        expected = 4.0 * q.softmax(-1)[others] / 2 / 6  # alpha, the batch, the quantiles
        torch.testing.assert_close(gradient[others], expected[:, None].expand(-1, 6))
        touched |= others
    assert torch.equal(gradient.abs().amax(-1) > 0, touched)


@pytest.mark.parametrize("method", CONFIGS)
def test_metrics_and_gradients_of_a_batch_are_means_of_those_of_its_shards(method: str) -> None:
    """As processes that train together need them; the shards have 5 and 2 transitions."""
    _, objective, online, _ = scattered_learner(method, 1.0)
    objective.prepare(1)
    transitions = random_transitions(np.random.default_rng(5), 7)
    results = []
    for shards in ([transitions], [transitions[:5], transitions[5:]]):
        values = torch.stack([objective(make_batch(shard)) * (len(shard) / 7) for shard in shards]).sum(0)
        results.append((values.detach(), *torch.autograd.grad(values[0], online)))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("method", CONFIGS)
def test_the_target_network_is_renewed_every_target_update_every_updates(method: str) -> None:
    learner, objective, online, target = make_learner(CONFIGS[method], A)
    batch = make_batch(random_transitions(np.random.default_rng(1), 8))
    tables, targets = [online.detach().clone()], []
    for update in range(8):
        learner.update(batch, update, 0.01)
        tables.append(online.detach().clone())
        targets.append(target.clone())
    assert len({tuple(table.flatten().tolist()) for table in tables}) == 9
    for update, table in enumerate(targets):
        assert torch.equal(table, tables[update - update % 3]), update
    assert torch.equal(objective.carried_state()["table"], targets[-1])


def test_mixtures_are_convex_and_depend_on_seed_and_update_alone() -> None:
    mixtures = {(seed, update): draw_mixture(200, seed, update) for seed in (0, 1, 2**63 - 1) for update in range(50)}
    for key, mixture in mixtures.items():
        assert mixture.shape == (200,)
        assert (mixture >= 0).all()
        assert mixture.sum() == pytest.approx(1, abs=1e-12)
        torch.rand(3)  # what another process may have drawn
        assert np.array_equal(draw_mixture(200, *key), mixture)
    assert len({mixture.tobytes() for mixture in mixtures.values()}) == 150
    # Uniform weights over their sum: the largest of 200 is about twice the mean, as for no flat or one-hot mixture.
    means = np.mean([np.sort(mixture) for mixture in mixtures.values()], axis=0)
    np.testing.assert_allclose(means, np.arange(1, 201) / 201 / 100, atol=2e-4)


def test_each_update_mixes_anew() -> None:
    learner, objective, *_ = make_learner(CONFIGS["rem"], A)
    assert isinstance(objective, MixtureObjective)
    batch = make_batch(random_transitions(np.random.default_rng(2), 4))
    mixtures = []
    for update in range(4):
        learner.update(batch, update, 0.01)
        mixtures.append(objective.mixture.clone())
        assert mixtures[-1].numpy() == pytest.approx(draw_mixture(6, objective.seed, update))
        learner.validate(batch)
        assert torch.equal(objective.mixture, mixtures[-1])
    assert len({tuple(mixture.tolist()) for mixture in mixtures}) == 4


@pytest.mark.parametrize("method", CONFIGS)
def test_objectives_are_on_the_device_of_their_network(method: str) -> None:
    """The meta device stands for a GPU."""
    network = make_learner(CONFIGS[method], A)[1].model.to("meta")
    objective = find_method(CONFIGS[method]).make_objective(network, seed=0)
    objective.prepare(1)
    tensors = [*objective.parameters(), *objective.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("method", CONFIGS)
def test_losses_under_autocast_are_computed_in_float32(method: str) -> None:
    """Estimates of about 100 differ by less than bfloat16 can tell."""
    _, objective, online, target = scattered_learner(method, 0.05)
    with torch.no_grad():
        online.add_(100)
        target.add_(100)
    objective.prepare(1)
    batch = make_batch(random_transitions(np.random.default_rng(3), 16))
    values: list[Any] = []
    for enabled in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(objective(batch).tolist())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
