"""Updates that a GPU replays: they make the same weights as updates launched kernel by kernel."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atari_dt.batches.loader import BatchLoader
from atari_dt.config import TrainingConfig
from atari_dt.hardware import Compute
from atari_dt.method_config import VALUE_TRAINING, MethodConfig
from atari_dt.methods import find_method
from atari_dt.model.nature_cnn import NatureCNN
from atari_dt.training.cuda_graph import WARM_UP_UPDATES, copy_batch, like_batch
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from atari_dt.trajectory_config import TrajectoryTransformerConfig
from replay_data import TrajectoryStore
from replay_data.testing import write_random_store
from tests.atari_dt.q_networks import CONFIGS
from tests.atari_dt.training.processes import DROPOUT, SMALL

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BATCH_SIZE = 8
CAPTURED: dict[str, MethodConfig] = {
    "dt": SMALL,
    "dt-fast": dataclasses.replace(
        SMALL, position_encoding="rotary", timestep_encoding="none", encoder_norm=True, frame_differences=True
    ),
    "dt-heads": dataclasses.replace(SMALL, observation="ram", predict=("state", "return")),
    "bc": dataclasses.replace(SMALL, conditioning="none"),
    **CONFIGS,
    "trajectory_transformer": TrajectoryTransformerConfig(
        sequence_length=4, vocab_size=8, num_layers=1, num_heads=2, embed_dim=16, variables=("ball_x", "player_x")
    ),
}
"""A config of each kind of update."""


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


class _Recorder(TorchDispatchMode):
    """Records the operations with a tensor that is not on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(not tensor.is_meta for tensor in tensors):
            self.operations.append(str(func))
        return result


@pytest.mark.parametrize("config", [*CAPTURED.values()], ids=[*CAPTURED])
def test_an_update_needs_nothing_from_the_cpu(config: MethodConfig, tmp_path: Path, monkeypatch: Any) -> None:
    """A capture fails at a copy from the CPU, and where Python reads a value.

    The meta device stands in for a GPU: its tensors have no values to read, and other tensors are noticed.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to the meta device
    monkeypatch.setattr(NatureCNN, "_dtype", lambda *_: torch.float32)
    store = write_random_store(tmp_path / "store", [12, 20], ram=True)
    method = find_method(config)
    loaded = method.make_loader(config, store, torch.device("cpu")).batch(np.arange(BATCH_SIZE))
    batch = type(loaded)(**{name: tensor.to("meta") for name, tensor in vars(loaded).items()})
    objective = method.make_objective(method.make_network(config, store).to("meta"), seed=0).to("meta").train()
    objective.prepare(0)
    with _Recorder() as recorder:
        objective(batch)[0].backward()
    assert not recorder.operations


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
