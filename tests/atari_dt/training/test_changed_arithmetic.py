"""Runs that resume with another precision, device or number of processes."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.config import TrainingConfig
from atari_dt.model import DecisionTransformer
from atari_dt.training import ContextLoader, read_metrics, read_training_run, train
from replay_data import InputError, TrajectoryStore
from tests.atari_dt.training.processes import DROPOUT, SMALL, join, start_group

CONFIG = TrainingConfig(epochs=2, batch_size=50, log_every=1, checkpoint_every=2, precision="bf16", device="cpu")
"""Two epochs of four updates each."""

SENTENCE = "the result is no longer bit for bit that of an uninterrupted run"


@pytest.fixture
def half(readable_store: TrajectoryStore, tmp_path: Path) -> Path:
    """A run in bfloat16 whose last checkpoint is that of update 4."""
    train(readable_store, tmp_path / "whole", SMALL, CONFIG, show_progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for update in (6, 8):
        shutil.rmtree(tmp_path / "half" / "checkpoints" / f"update-{update:08d}")
    return tmp_path / "half"


def weights(run: Path, update: int = 8) -> dict[str, torch.Tensor]:
    return DecisionTransformer.from_pretrained(run / "checkpoints" / f"update-{update:08d}").state_dict()


def equal(run: Path, other: Path) -> bool:
    tensors, others = weights(run), weights(other)
    return all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def history(run: Path) -> list[tuple[int, str, int]]:
    return [(segment.last_update, segment.dtype, segment.processes) for segment in read_training_run(run).segments(8)]


@pytest.mark.parametrize(
    ("change", "segments"),
    [
        ({"precision": "fp32"}, [(4, "bfloat16", 1), (8, "float32", 1)]),
        ({"device": "auto"}, [(8, "bfloat16", 1)]),
    ],
)
def test_a_run_resumes_with_another_arithmetic(
    readable_store: TrajectoryStore,
    half: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    segments: list[tuple[int, str, int]],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = dataclasses.replace(CONFIG, **change)
    train(readable_store, half, SMALL, config, resume=True, show_progress=False)
    changed = len(segments) > 1
    assert capsys.readouterr().err.count(SENTENCE) == changed
    assert history(half) == segments
    assert equal(half, half.with_name("whole")) != changed
    expected = weights(half.with_name("whole"))
    for name, tensor in weights(half).items():
        assert torch.allclose(tensor, expected[name], atol=2e-3), name
    lines, expected_lines = read_metrics(half), read_metrics(half.with_name("whole"))
    assert [(line.update, line.tokens, line.learning_rate) for line in lines] == [
        (line.update, line.tokens, line.learning_rate) for line in expected_lines
    ]
    assert [line.loss for line in lines[:4]] == [line.loss for line in expected_lines[:4]]
    assert [line.loss for line in lines[4:]] == pytest.approx([line.loss for line in expected_lines[4:]], abs=0.02)


def test_auto_keeps_the_precision_of_the_run(
    readable_store: TrajectoryStore, half: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the machine does not support it, the error names two options, and both work."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    auto = dataclasses.replace(CONFIG, precision="auto")
    with pytest.raises(InputError, match=r"trained in bfloat16, .* set `precision` to fp32 .* or to bf16"):
        train(readable_store, half, SMALL, auto, resume=True)
    emulated = shutil.copytree(half, half.with_name("emulated"))
    train(readable_store, emulated, SMALL, CONFIG, resume=True, show_progress=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the CPU here emulates bfloat16")
    assert equal(emulated, half.with_name("whole"))

    train(readable_store, half, SMALL, dataclasses.replace(CONFIG, precision="fp32"), resume=True, show_progress=False)
    assert SENTENCE in capsys.readouterr().err
    supporting = shutil.copytree(half, half.with_name("supporting"))
    shutil.rmtree(supporting / "checkpoints" / "update-00000008")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    train(readable_store, supporting, SMALL, auto, resume=True, show_progress=False)  # of updates in float32
    assert capsys.readouterr().err == ""
    assert equal(supporting, half)


def test_auto_is_free_before_the_first_checkpoint(
    readable_store: TrajectoryStore, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    shutil.rmtree(half / "checkpoints")
    auto = dataclasses.replace(CONFIG, precision="auto")
    train(readable_store, half, SMALL, auto, resume=True, show_progress=False)
    assert history(half) == [(8, "float32", 1)]


def test_a_run_of_another_machine_and_torch_resumes(
    readable_store: TrajectoryStore, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was begun on a GPU, by an early version, which wrote neither ``compiled`` nor ``history``."""
    content = json.loads((half / "config.json").read_text())
    content |= {"device": "cuda:0", "format_version": 1}
    content["versions"]["torch"] = "2.6.0"
    content["hardware"]["gpu"] = "NVIDIA H100"
    content["training"] |= {"device": "cuda"}
    del content["compiled"], content["history"]
    (half / "config.json").write_text(json.dumps(content))
    train(readable_store, half, SMALL, CONFIG, resume=True, show_progress=False)
    message = capsys.readouterr().err
    for change in ("compiled (was True, is False)", "torch (was 2.6.0, is ", "gpu (was NVIDIA H100, is None)"):
        assert change in message
    (earlier,) = read_training_run(half).history
    assert (earlier.last_update, earlier.hardware.gpu, earlier.compiled) == (4, "NVIDIA H100", True)


def test_a_run_resumes_with_another_number_of_processes(
    readable_store: TrajectoryStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes train until update 4, one until 6, and two until 8: every window is in each epoch once."""
    out = tmp_path / "run"

    def train_together() -> list[np.ndarray]:
        """Train in two processes until update 8; return the steps of each batch."""
        assert join(start_group(readable_store, out, CONFIG, DROPOUT)) == [0, 0]
        shards = [np.load(tmp_path / f"run.{rank}.npz").values() for rank in range(2)]
        return [np.concatenate(shard) for shard in zip(*shards, strict=True)]

    batches = train_together()[:4]
    for update in (6, 8):
        shutil.rmtree(out / "checkpoints" / f"update-{update:08d}")
    sampled: list[np.ndarray] = []
    batch = ContextLoader.batch

    def record(self: ContextLoader, steps: np.ndarray) -> object:
        sampled.append(steps)
        return batch(self, steps)

    monkeypatch.setattr(ContextLoader, "batch", record)
    train(readable_store, out, DROPOUT, CONFIG, resume=True, show_progress=False)
    assert "processes (was 2, is 1)" in capsys.readouterr().err
    batches += sampled[:2]
    shutil.rmtree(out / "checkpoints" / "update-00000008")
    batches += train_together()
    assert history(out) == [(4, "bfloat16", 2), (6, "bfloat16", 1), (8, "bfloat16", 2)]
    assert [len(steps) for steps in batches] == [50] * 8
    for epoch in range(2):
        assert sorted(np.concatenate(batches[4 * epoch : 4 * epoch + 4])) == list(range(200))
