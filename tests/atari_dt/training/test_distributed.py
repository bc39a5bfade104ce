"""Two processes on this machine that train one model, as under torchrun."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from atari_dt.command_line import RankError, run
from atari_dt.config import TrainingConfig
from atari_dt.model import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.recipes import RecipeName, apply_recipe
from atari_dt.training import distributed, read_metrics, train
from atari_dt.training.distributed import ProcessLostError, process_group
from replay_data import InputError, TrajectoryStore, hold_out
from tests.atari_dt.training.processes import DROPOUT, INPUT_ERROR, SMALL, STOPPED, join, start_group


@pytest.mark.parametrize(("batch_size", "recipe"), [(50, "paper"), (37, "fast")])
def test_two_processes_train_as_one(
    readable_store: TrajectoryStore, tmp_path: Path, batch_size: int, recipe: RecipeName
) -> None:
    """Losses, learning rates and weights are equal, and the processes share the windows of each epoch.

    With a batch size of 37, the last batch of an epoch of 150 windows has two contexts, one per process.
    """
    config = TrainingConfig(
        epochs=20,
        max_updates=20,
        batch_size=batch_size,
        log_every=1,
        warmup_tokens=4096,
        precision="fp32",
        validation_fraction=0.2,
    )
    model_config, config = apply_recipe(recipe, SMALL, config)
    processes = start_group(readable_store, tmp_path / "both", config, model_config)
    alone = train(readable_store, tmp_path / "alone", model_config, config, show_progress=False)
    assert join(processes) == [0, 0]
    lines, expected_lines = read_metrics(tmp_path / "both"), read_metrics(tmp_path / "alone")
    assert len(lines) == len(expected_lines) == 20
    for line, expected in zip(lines, expected_lines, strict=True):
        assert line.learning_rate == expected.learning_rate
        assert line.tokens == expected.tokens
        assert line.loss == pytest.approx(expected.loss, abs=1e-4)
        assert line.grad_norm == pytest.approx(expected.grad_norm, rel=1e-2)
        assert line.action_accuracy == pytest.approx(expected.action_accuracy, abs=0.03)
    assert lines[-1].validation_loss == pytest.approx(expected_lines[-1].validation_loss, abs=1e-4)
    model = DecisionTransformer.from_pretrained(latest_checkpoint(tmp_path / "both"))
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, alone.state_dict()[name], atol=2e-3), name

    held_out = hold_out(8, 0.2, config.seed)[np.arange(200) // 25]
    batches = [list(np.load(tmp_path / f"both.{rank}.npz").values()) for rank in range(2)]
    validated = [np.concatenate([steps for steps in each if held_out[steps[0]]]) for each in batches]
    assert sorted(np.concatenate(validated)) == [n for n in range(200) if held_out[n] and n % 25 % 3 == 0]
    trained = [[steps for steps in each if not held_out[steps[0]]] for each in batches]
    assert len(trained[0]) == len(trained[1]) == 20
    per_epoch = math.ceil(150 / batch_size)
    for epoch in range(20 // per_epoch):
        shards = [steps for rank in range(2) for steps in trained[rank][epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert sorted(np.concatenate(shards)) == np.flatnonzero(~held_out).tolist()


def test_a_batch_smaller_than_the_group_trains_as_in_one_process(
    readable_store: TrajectoryStore, tmp_path: Path
) -> None:
    """The last batch of each epoch has one context, so that one of the two processes has none."""
    config = TrainingConfig(epochs=2, batch_size=199, log_every=1, precision="fp32", checkpoint_every=2)
    processes = start_group(readable_store, tmp_path / "both", config)
    train(readable_store, tmp_path / "alone", SMALL, config, show_progress=False)
    assert join(processes) == [0, 0]
    losses, expected = ([line.loss for line in read_metrics(tmp_path / run)] for run in ("both", "alone"))
    assert losses == pytest.approx(expected, abs=1e-4)


def test_two_processes_resume_bit_for_bit(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    """Each process has its own dropout. The recipe is the fast one, whose schedule depends on the whole run."""
    config = TrainingConfig(epochs=2, batch_size=50, log_every=1, precision="fp32", checkpoint_every=2)
    model_config, config = apply_recipe("fast", DROPOUT, config)
    groups = [start_group(readable_store, tmp_path / run, config, model_config) for run in ("once", "resumed")]
    assert [join(group) for group in groups] == [[0, 0], [0, 0]]
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "update-00000008")
    assert join(start_group(readable_store, tmp_path / "resumed", config, model_config)) == [0, 0]
    once, resumed = (
        DecisionTransformer.from_pretrained(tmp_path / run / "checkpoints" / "update-00000008").state_dict()
        for run in ("once", "resumed")
    )
    assert all(torch.equal(once[name], resumed[name]) for name in once)


def test_all_processes_raise_the_same_error(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    """If the directory cannot be used or the settings differ, no process waits for another."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("somebody's")
    groups = [
        start_group(readable_store, tmp_path / "out", TrainingConfig(batch_size=50)),
        start_group(readable_store, tmp_path / "new", [TrainingConfig(batch_size=50, seed=seed) for seed in (1, 2)]),
    ]
    assert [join(group) for group in groups] == [[INPUT_ERROR, INPUT_ERROR]] * 2
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_one_process_stops_all(
    readable_store: TrajectoryStore, tmp_path: Path, signum: signal.Signals
) -> None:
    """After SIGTERM all processes save a checkpoint; after the death of one the other ends, and none hangs."""
    out = tmp_path / "run"
    config = TrainingConfig(epochs=10**6, batch_size=16, checkpoint_every=5)
    processes = start_group(readable_store, out, config)
    while not any(out.glob("checkpoints/update-*")):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.02)
    pid = processes[1].pid
    assert pid is not None
    os.kill(pid, signum)
    statuses = join(processes)
    checkpoint = latest_checkpoint(out)
    if signum == signal.SIGTERM:
        assert statuses == [STOPPED, STOPPED]
    else:
        assert statuses[0] == INPUT_ERROR
        update = int(checkpoint.name.removeprefix("update-"))
        assert (tmp_path / "run.0.error").read_text() == (
            "process 0: another process of this run has ended or cannot be reached; "
            f"`resume` continues from update {update}"
        )
    assert (checkpoint / "training_state.pt").exists()
    DecisionTransformer.from_pretrained(checkpoint)


def test_a_process_that_does_not_answer_is_noticed(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=10**6, batch_size=16, checkpoint_every=5)
    timeout = timedelta(seconds=6)
    processes = start_group(readable_store, tmp_path / "run", config, peer_timeout=timeout)
    while not any((tmp_path / "run").glob("checkpoints/update-*")):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.02)
    pid = processes[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert join(processes[1:]) == [INPUT_ERROR]
    processes[0].kill()
    error = (tmp_path / "run.1.error").read_text()
    assert error.startswith("process 1: another process of this run has not answered for 0.1 minutes; `resume` continu")


@pytest.fixture
def rank_1(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this process the second of a group that does not communicate."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_connect", lambda: None)
    communication = SimpleNamespace(
        DistError=dist.DistError,
        get_rank=lambda: 1,
        get_world_size=lambda: 2,
        new_group=lambda **_: None,
        destroy_process_group=lambda: None,
    )
    monkeypatch.setattr(distributed, "dist", communication)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("rank_1")
def test_torchrun_does_not_hide_that_a_process_was_lost() -> None:
    """It sends SIGTERM to the processes that are left, while they clean up and afterwards."""

    def lose_a_process() -> None:
        try:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:34738")
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(ProcessLostError, match="process 1: another process of this run has ended"), process_group():
        lose_a_process()
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("rank_1")
def test_other_errors_and_interruptions_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), process_group():
        raise RuntimeError("shapes differ")
    with pytest.raises(KeyboardInterrupt) as interruption, process_group():
        raise KeyboardInterrupt
    assert type(interruption.value) is KeyboardInterrupt
    with pytest.raises(RankError, match="process 1: no such device"), process_group():
        raise InputError("no such device")


@pytest.mark.usefixtures("rank_1")
def test_sigterm_before_the_first_update_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def train_in_group() -> None:
        with process_group():
            signal.raise_signal(signal.SIGTERM)

    for main in (train_in_group, lambda: signal.raise_signal(signal.SIGTERM)):
        with pytest.raises(SystemExit) as stop:
            run(main, parse=False)
        assert stop.value.code == 130
        assert capsys.readouterr().err.startswith("error: interrupted; torchrun has ended this process, because")
