"""Updates that a GPU replays: they make the same weights as updates launched kernel by kernel."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.batches.loader import BatchLoader
from atari_dt.config import TrainingConfig
from atari_dt.hardware import Compute
from atari_dt.method_config import VALUE_TRAINING, MethodConfig
from atari_dt.methods import find_method
from atari_dt.training.cuda_graph import WARM_UP_UPDATES, copy_batch, like_batch
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from replay_data import TrajectoryStore
from tests.atari_dt.q_networks import CONFIGS
from tests.atari_dt.training.processes import DROPOUT, SMALL

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BATCH_SIZE = 8


@pytest.mark.parametrize("config", [SMALL, CONFIGS["cql"]], ids=["contexts", "transitions"])
def test_a_copied_batch_has_the_content_and_the_layout_of_its_source(
    store: TrajectoryStore, config: MethodConfig
) -> None:
    """The states of successive steps share frames in the copy as well, so that a context of K steps has K + 3 frames.

    A copy of another batch changes nothing but the content.
    """
    loader = find_method(config).make_loader(config, store, torch.device("cpu"))
    first, second = (loader.batch(np.arange(start, start + BATCH_SIZE)) for start in (0, 40))
    target = like_batch(first)
    states = target.states
    for batch in (first, second):
        copy_batch(batch, target)
        for field in dataclasses.fields(batch):
            copied, expected = getattr(target, field.name), getattr(batch, field.name)
            assert torch.equal(copied, expected)
            assert copied.stride() == expected.stride()
            assert copied.untyped_storage().data_ptr() != expected.untyped_storage().data_ptr()
    assert not torch.equal(first.states, second.states)
    assert target.states is states
    if config is SMALL:
        num_frames = BATCH_SIZE * (SMALL.context_length + 3)
        assert states.untyped_storage().nbytes() == num_frames * 84 * 84 < states.numel()


@needs_gpu
@pytest.mark.parametrize("config", [SMALL, CONFIGS["cql"], CONFIGS["rem"]], ids=["dt", "cql", "rem"])
def test_replayed_updates_make_the_weights_of_launched_ones(
    store: TrajectoryStore, config: MethodConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rate, batch, target network and mixture change from update to update, and a replay sees the new ones.

    The seventh batch is smaller, as at the end of an epoch.
    """
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)  # the same arithmetic in both
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    weights, metrics = [], []
    for compiled in (False, True):
        learner, batches = _make_learner(store, config, compiled)
        sizes = [BATCH_SIZE] * (WARM_UP_UPDATES + 3) + [BATCH_SIZE - 3] + [BATCH_SIZE] * 3
        values = [
            learner.update(batches.batch(np.arange(size) + 5 * update), update, 1e-3 * (update % 4))
            for update, size in enumerate(sizes)
        ]
        metrics.append(torch.stack(values))
        weights.append([parameter.detach().clone() for parameter in learner.model.parameters()])
        assert learner.optimizer.param_groups[0]["lr"] == 1e-3 * ((len(sizes) - 1) % 4)
    torch.testing.assert_close(*metrics, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@needs_gpu
def test_every_replay_draws_other_dropout_masks(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a learning rate of 0 only the masks change the loss. The generator's state continues where replays stop."""
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    learner, batches = _make_learner(store, DROPOUT, compiled=True)
    batch = batches.batch(np.arange(BATCH_SIZE))
    losses = [learner.update(batch, update, 0.0)[0].item() for update in range(WARM_UP_UPDATES + 6)]
    assert len(set(losses)) == len(losses)
    state = torch.cuda.get_rng_state()
    expected = [learner.update(batch, update, 0.0)[0].item() for update in range(2)]
    torch.cuda.set_rng_state(state)
    assert [learner.update(batch, update, 0.0)[0].item() for update in range(2)] == pytest.approx(expected, abs=1e-6)


def _make_learner(store: TrajectoryStore, config: MethodConfig, compiled: bool) -> tuple[Learner, BatchLoader[Any]]:
    method, device = find_method(config), torch.device("cuda", 0)
    torch.manual_seed(0)
    training = dataclasses.replace(
        VALUE_TRAINING if config in CONFIGS.values() else TrainingConfig(), batch_size=BATCH_SIZE
    )
    model = method.make_network(config, store).to(device)
    learner = Learner(model, training, Compute(device, torch.float32, compiled), ProcessGroup())
    return learner, method.make_loader(config, store, device)
