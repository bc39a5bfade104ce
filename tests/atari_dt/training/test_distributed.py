"""Training in two processes on this machine, as torchrun starts them."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.training.batches import ContextLoader
from atari_dt.training.interruption import TrainingStopped
from atari_dt.training.loop import train
from replay_data import InputError, TrajectoryStore, hold_out

SMALL = ModelConfig(context_length=3, num_layers=1, num_heads=2, embed_dim=16, dropout=0.0)
DROPOUT = ModelConfig(context_length=3, num_layers=1, num_heads=2, embed_dim=16, dropout=0.2)


@pytest.mark.parametrize("batch_size", [50, 37])
def test_two_processes_train_as_one(readable_store: TrajectoryStore, tmp_path: Path, batch_size: int) -> None:
    """The same losses, learning rates and weights; between them, every window of an epoch once.

    Of 150 windows, an epoch's last batch of 37 has two, one a process.
    """
    config = TrainingConfig(
        epochs=20, max_updates=50, batch_size=batch_size, log_every=1, precision="fp32", validation_fraction=0.2
    )
    alone = train(readable_store, tmp_path / "alone", SMALL, config, show_progress=False)
    processes = _train_in_two_processes(readable_store, tmp_path / "both", config)
    assert [process.exitcode for process in processes] == [0, 0]
    lines, expected = (
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("both", "alone")
    )
    assert len(lines) == len(expected) == 50
    for line, other in zip(lines, expected, strict=True):
        assert line["learning_rate"] == other["learning_rate"]
        assert line["tokens"] == other["tokens"]
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
        assert line["action_accuracy"] == pytest.approx(other["action_accuracy"], abs=0.03)
    assert lines[-1]["validation_loss"] == pytest.approx(expected[-1]["validation_loss"], abs=1e-4)
    model = DecisionTransformer.from_pretrained(latest_checkpoint(tmp_path / "both"))
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, alone.state_dict()[name], atol=2e-3), name

    held_out = hold_out(8, 0.2, config.seed)[np.arange(200) // 25]
    drawn = [list(np.load(tmp_path / f"both.{rank}.npz").values()) for rank in range(2)]
    validated = [np.concatenate([part for part in parts if held_out[part[0]]]) for parts in drawn]
    assert sorted(np.concatenate(validated)) == [n for n in range(200) if held_out[n] and n % 25 % 3 == 0]
    trained = [[part for part in parts if not held_out[part[0]]] for parts in drawn]
    assert len(trained[0]) == len(trained[1]) == 50
    per_epoch = math.ceil(150 / batch_size)
    for epoch in range(50 // per_epoch):
        parts = [part for rank in range(2) for part in trained[rank][epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert sorted(np.concatenate(parts)) == np.flatnonzero(~held_out).tolist()


def test_a_batch_smaller_than_the_number_of_processes_trains_as_in_one(
    readable_store: TrajectoryStore, tmp_path: Path
) -> None:
    """The last batch of each epoch has one context; dropout differs between processes, and all is resumed as it was."""
    config = TrainingConfig(epochs=2, batch_size=199, log_every=1, precision="fp32", checkpoint_every=2)
    train(readable_store, tmp_path / "alone", SMALL, config, show_progress=False)
    assert all(process.exitcode == 0 for process in _train_in_two_processes(readable_store, tmp_path / "both", config))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("both", "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)

    config = TrainingConfig(**{**vars(config), "batch_size": 50})
    for processes in (
        _train_in_two_processes(readable_store, tmp_path / "straight", config, DROPOUT),
        _train_in_two_processes(readable_store, tmp_path / "again", config, DROPOUT),
    ):
        assert all(process.exitcode == 0 for process in processes)
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "update-00000008")
    with pytest.raises(InputError, match=r"processes \(2 there, 1 now\)"):
        train(readable_store, tmp_path / "again", DROPOUT, config, resume=True)
    _train_in_two_processes(readable_store, tmp_path / "again", config, DROPOUT)
    straight, again = (
        DecisionTransformer.from_pretrained(tmp_path / run / "checkpoints" / "update-00000008").state_dict()
        for run in ("straight", "again")
    )
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_processes_fail_together(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("somebody's")
    processes = _train_in_two_processes(readable_store, tmp_path / "out", TrainingConfig(batch_size=50))
    assert [process.exitcode for process in processes] == [3, 3]  # InputError in both, and nobody waits
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["notes.txt"]
    differently = [TrainingConfig(batch_size=50, seed=seed) for seed in (1, 2)]
    processes = _train_in_two_processes(readable_store, tmp_path / "new", differently)
    assert [process.exitcode for process in processes] == [3, 3]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_one_process_is_told_all_heed(
    readable_store: TrajectoryStore, tmp_path: Path, number: signal.Signals
) -> None:
    """A stop signal to one of them is a checkpoint of all; the death of one ends the other, and nothing hangs."""
    out = tmp_path / "run"
    config = TrainingConfig(epochs=10**6, batch_size=16, checkpoint_every=5)
    processes = _start_two_processes(readable_store, out, config, SMALL)
    while not any(out.glob("checkpoints/update-*")):
        assert all(process.is_alive() for process in processes)
        time.sleep(0.05)
    pid = processes[1].pid
    assert pid is not None
    os.kill(pid, number)
    _join(processes)
    if number == signal.SIGTERM:
        assert [process.exitcode for process in processes] == [4, 4]
    else:
        assert processes[0].exitcode == 3
    kept = latest_checkpoint(out)
    assert (kept / "training_state.pt").exists()
    DecisionTransformer.from_pretrained(kept)


def _train_in_two_processes(
    store: TrajectoryStore, out: Path, config: TrainingConfig | list[TrainingConfig], model_config: ModelConfig = SMALL
) -> list[SpawnProcess]:
    processes = _start_two_processes(store, out, config, model_config)
    _join(processes)
    return processes


def _join(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.join(timeout=120)
        process.kill()


def _start_two_processes(
    store: TrajectoryStore, out: Path, config: TrainingConfig | list[TrainingConfig], model_config: ModelConfig
) -> list[SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configs = config if isinstance(config, list) else [config, config]
    processes = [
        context.Process(target=_train_as_rank, args=(rank, port, store.path, out, configs[rank], model_config))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    return processes


def _train_as_rank(
    rank: int, port: int, data: Path, out: Path, config: TrainingConfig, model_config: ModelConfig
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    drawn: list[np.ndarray] = []
    batch = ContextLoader.batch

    def record(self: ContextLoader, steps: np.ndarray) -> object:
        drawn.append(steps)
        return batch(self, steps)

    ContextLoader.batch = record  # type: ignore[method-assign, assignment]
    try:
        train(TrajectoryStore.open(data), out, model_config, config, resume=True, show_progress=False)
    except InputError:
        sys.exit(3)
    except TrainingStopped:
        sys.exit(4)
    np.savez(out.with_name(f"{out.name}.{rank}.npz"), *drawn)
