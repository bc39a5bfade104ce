"""Training runs of the value-based methods: resumed, in two processes, validated, and their checkpoints."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.config import TrainingConfig
from atari_dt.hardware import Compute
from atari_dt.method_config import MethodConfig, QRDQNConfig, REMConfig
from atari_dt.methods import find_method
from atari_dt.methods.rem import draw_mixture
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import find_checkpoints
from atari_dt.model.q_network import QNetwork
from atari_dt.training import BatchSampler, MetricsLine, loop, metrics, read_metrics, train, training_windows
from atari_dt.training.checkpoint import read_checkpoint
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from replay_data import InputError, TrajectoryStore, hold_out
from tests.atari_dt.methods.tabular import FloatArray, losses_by_hand, write_log
from tests.atari_dt.q_networks import ADAM, CONFIGS, use_small_layers
from tests.atari_dt.training.processes import SMALL, join, start_group

CONFIG = dataclasses.replace(
    ADAM, max_updates=8, batch_size=10, learning_rate=1e-3, log_every=1, checkpoint_every=1, keep_checkpoints=8
)
"""The target networks are renewed at updates 3 and 6."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """A store of terminated and truncated episodes, whose rewards are not clipped."""
    store, _ = write_log(tmp_path_factory.mktemp("value") / "store", 60)
    assert store.terminated is not None
    assert 0 < store.terminated.sum() < store.num_episodes
    return store


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train small networks, without the measurements behind ``mfu``."""
    use_small_layers(monkeypatch.setattr)
    monkeypatch.setattr(loop, "flops_per_window", lambda *_: 1)
    monkeypatch.setattr(metrics, "matmul_peak", lambda *_: 1.0)


def state_of(run: Path, update: int) -> dict[str, Any]:
    """Return weights, optimizer and target network of a checkpoint, as flat names."""
    path = run / "checkpoints" / f"update-{update:08d}"
    state = torch.load(path / "training_state.pt", weights_only=True)
    optimizer = {f"{i}.{name}": each for i, of in state["optimizer"]["state"].items() for name, each in of.items()}
    target = {f"target.{name}": each for name, each in state["objective"].items()}
    return {**QNetwork.from_pretrained(path).state_dict(), **target, **optimizer}


def lines_of(run: Path) -> list[MetricsLine]:
    return [dataclasses.replace(line, contexts_per_s=0.0, mfu=None, seconds=None) for line in read_metrics(run)]


@pytest.mark.parametrize(("method", "last_update"), [("qrdqn", 4), ("cql", 5), ("rem", 4), ("rem", 6)])
def test_a_run_killed_between_renewals_of_the_target_resumes_bit_for_bit(
    log: TrajectoryStore, tmp_path: Path, method: str, last_update: int
) -> None:
    """It goes on until after the next renewal, which is that of its first update if it was killed at update 6."""
    train(log, tmp_path / "once", CONFIGS[method], CONFIG, show_progress=False)
    shutil.copytree(tmp_path / "once", tmp_path / "killed")
    for path in find_checkpoints(tmp_path / "killed")[last_update:]:
        shutil.rmtree(path)
    train(log, tmp_path / "killed", CONFIGS[method], CONFIG, resume=True, show_progress=False)
    once, killed = state_of(tmp_path / "once", 8), state_of(tmp_path / "killed", 8)
    assert once.keys() == killed.keys()
    for name, tensor in once.items():
        assert torch.equal(killed[name], tensor), name
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "once")
    at_renewal = state_of(tmp_path / "once", 6)
    for name in QNetwork(CONFIGS[method], 2).state_dict():
        assert torch.equal(once[f"target.{name}"], at_renewal[name]), name
    assert not torch.equal(once["head.weight"], at_renewal["head.weight"])


def test_two_processes_train_as_one(log: TrajectoryStore, tmp_path: Path) -> None:
    """Each batch is mixed alike in both. The last one of an epoch has a single transition."""
    config = dataclasses.replace(CONFIG, validation_fraction=0.2, checkpoint_every=4)
    windows, validated = training_windows(log, CONFIGS["rem"], config)
    assert len(windows) % config.batch_size == 1
    assert len(validated) > 2
    processes = start_group(log, tmp_path / "both", config, CONFIGS["rem"])
    train(log, tmp_path / "alone", CONFIGS["rem"], config, show_progress=False)
    assert join(processes) == [0, 0]
    lines, expected = lines_of(tmp_path / "both"), lines_of(tmp_path / "alone")
    assert [line.update for line in lines] == list(range(1, 9))
    for line, one in zip(lines, expected, strict=True):
        assert line.to_json() == pytest.approx(one.to_json(), rel=1e-3, abs=1e-5)
    both, alone = state_of(tmp_path / "both", 8), state_of(tmp_path / "alone", 8)
    for name, tensor in alone.items():
        assert torch.allclose(both[name], tensor, atol=1e-4), name


def numbers(network: QNetwork, log: TrajectoryStore, steps: list[int]) -> FloatArray:
    with torch.inference_mode():
        return network(torch.from_numpy(np.stack([log.state(step) for step in steps]))).double().numpy()


def by_hand(
    config: REMConfig | QRDQNConfig,
    log: TrajectoryStore,
    steps: list[int],
    online: QNetwork,
    target: QNetwork,
    mixture: FloatArray,
) -> dict[str, float]:
    """Return the metrics of transitions of a store."""
    ends = [int(end) - 1 for end in log.episode_ends]
    following = numbers(target, log, [min(step + 1, len(log) - 1) for step in steps])
    return losses_by_hand(
        config,
        list(numbers(online, log, steps)),
        [None if step in ends else each for step, each in zip(steps, following, strict=True)],
        log.actions[steps].tolist(),
        log.rewards[steps].clip(-1, 1).tolist(),
        mixture if isinstance(config, REMConfig) else None,
    )


@pytest.mark.parametrize("method", CONFIGS)
def test_the_metrics_of_a_run_are_those_computed_by_hand(log: TrajectoryStore, tmp_path: Path, method: str) -> None:
    """The first line, of untrained networks, and the validation after the last update."""
    method_config = CONFIGS[method]
    config = dataclasses.replace(CONFIG, max_updates=5, checkpoint_every=5, validation_fraction=0.25)
    model = train(log, tmp_path / "run", method_config, config, show_progress=False)
    assert isinstance(model, QNetwork)
    lines = read_metrics(tmp_path / "run")
    assert [line.learning_rate for line in lines] == [1e-3] * 5
    assert [line.tokens for line in lines[:2]] == [10, 20]

    torch.manual_seed(config.seed)
    untrained = QNetwork(method_config, 2)
    windows, _ = training_windows(log, method_config, config)
    batch = BatchSampler(windows, 10, config.seed).batch(0).tolist()
    expected = by_hand(method_config, log, batch, untrained, untrained, draw_mixture(6, config.seed, 0))
    first = lines[0].to_json()
    assert {name: first[name] for name in expected} == pytest.approx(expected, rel=1e-4)

    target = QNetwork(method_config, 2)
    names = target.state_dict()
    state = state_of(tmp_path / "run", 5)
    target.load_state_dict({name: state[f"target.{name}"] for name in names})
    assert not torch.equal(target.head.weight, model.head.weight)
    assert log.terminated is not None
    validated = [
        step
        for episode in np.flatnonzero(hold_out(log.num_episodes, 0.25, config.seed))
        for step in range(
            int(log.episode_starts[episode]), int(log.episode_ends[episode]) - (not log.terminated[episode])
        )
    ]
    expected = by_hand(method_config, log, validated, model, target, np.full(6, 1 / 6))
    assert [line.validation_loss is None for line in lines] == [True] * 4 + [False]
    assert lines[-1].validation_loss == pytest.approx(expected["td_loss"], rel=1e-4)
    assert lines[-1].validation_accuracy == pytest.approx(expected["action_accuracy"])


def make_learner(config: MethodConfig, log: TrajectoryStore, training: TrainingConfig) -> Learner:
    """Return the learner with which a run on a CPU begins."""
    compute = Compute(torch.device("cpu"), torch.float32, compiled=False)
    model = find_method(config).make_network(config, log)
    model.dataset = DatasetInfo.from_store(log)
    model.training_config = training
    return Learner(model, training, compute, ProcessGroup())


def damaged_targets(target: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return damaged states of a target network, by what the error says of them."""
    bias, others = target["head.bias"], {name: each for name, each in target.items() if name != "head.bias"}
    return {
        r"it lacks head\.bias": others,
        r"it also has head\.bia": {**target, "head.bia": bias},
        r"head\.bias has shape \[11\], not \[12\]": {**others, "head.bias": bias[:11]},
        r"head\.bias has dtype int64, not a floating-point type": {**others, "head.bias": bias.long()},
        r"1 of the 12 values of head\.bias are NaN": {
            **others,
            "head.bias": bias.clone().index_fill_(0, torch.tensor(3), torch.nan),
        },
        r"it lacks ": {},
        r"TypeError|not an object": 7,
        r"TypeError|NoneType|not an object": None,
    }


def test_a_checkpoint_whose_target_network_is_damaged_is_refused(log: TrajectoryStore, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, max_updates=1)
    for method in ("qrdqn", "cql"):
        train(log, tmp_path / method, CONFIGS[method], config, show_progress=False)
    train(log, tmp_path / "dt", SMALL, config, show_progress=False)
    learner = make_learner(CONFIGS["qrdqn"], log, config)
    (path,) = find_checkpoints(tmp_path / "qrdqn")
    state = torch.load(path / "training_state.pt", weights_only=True)
    target = state.pop("objective")
    read_checkpoint(path, learner.model).restore(learner, 0, 0)
    for reason, damaged in damaged_targets(target).items():
        torch.save({**state, "objective": damaged}, path / "training_state.pt")
        with pytest.raises(InputError, match=rf"update-00000001 is damaged \(.*({reason}).*\); delete it to resume f"):
            read_checkpoint(path, learner.model).restore(learner, 0, 0)
    torch.save(state, path / "training_state.pt")
    with pytest.raises(InputError, match=r"is damaged \(.*it lacks .* and 7 more\); delete it to resume"):
        read_checkpoint(path, learner.model).restore(learner, 0, 0)

    (of_cql,) = find_checkpoints(tmp_path / "cql")
    with pytest.raises(InputError, match=r"is damaged \(.*it belongs to another run\); delete it"):
        read_checkpoint(of_cql, learner.model)
    (of_dt,) = find_checkpoints(tmp_path / "dt")
    with pytest.raises(InputError) as refused:
        read_checkpoint(of_dt, learner.model)
    assert str(refused.value).count("\n") == 0

    # A Decision Transformer has no such state; its checkpoints of early versions do not even have the field.
    learner = make_learner(SMALL, log, config)
    state = torch.load(of_dt / "training_state.pt", weights_only=True)
    assert state.pop("objective") == {}
    torch.save(state, of_dt / "training_state.pt")
    read_checkpoint(of_dt, learner.model).restore(learner, 0, 0)
    torch.save({**state, "objective": target}, of_dt / "training_state.pt")
    with pytest.raises(InputError, match=r"is damaged \(.*it holds the state of another method\); delete it to resume"):
        read_checkpoint(of_dt, learner.model).restore(learner, 0, 0)
