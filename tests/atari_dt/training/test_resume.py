"""Runs that are killed, interrupted, resumed, or fail."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from atari_dt.config import TrainingConfig
from atari_dt.method_config import MethodConfig
from atari_dt.model import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.recipes import apply_recipe
from atari_dt.training import MetricsLine, TrainingStopped, read_metrics, train
from atari_dt.training.metrics import MetricsLogger
from replay_data import InputError, TrajectoryStore
from replay_data.storage.locks import lock_directory
from replay_data.testing import write_random_store
from tests.atari_dt.q_networks import ADAM, use_small_layers
from tests.atari_dt.q_networks import CONFIGS as VALUE_CONFIGS
from tests.atari_dt.training.processes import DROPOUT, SMALL, run_script, start, train_in_child

CONFIG = TrainingConfig(
    max_updates=65, batch_size=9, log_every=4, checkpoint_every=11, keep_checkpoints=2, warmup_tokens=50, device="cpu"
)


def latest_update(out: Path) -> str:
    return max((path.name for path in out.glob("checkpoints/update-*")), default="")


@pytest.mark.parametrize(
    ("method_config", "config"),
    [
        (DROPOUT, CONFIG),
        (
            dataclasses.replace(VALUE_CONFIGS["rem"], target_update_every=50),
            dataclasses.replace(
                ADAM, max_updates=240, batch_size=9, log_every=8, checkpoint_every=30, keep_checkpoints=2
            ),
        ),
    ],
    ids=["dt", "rem"],
)
def test_a_run_killed_at_any_moment_resumes_bit_for_bit(
    readable_store: TrajectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method_config: MethodConfig,
    config: TrainingConfig,
) -> None:
    """Compare all updates with the same updates in a run killed again and again.

    The Decision Transformer has dropout, and REM random mixtures and a target network.
    """
    use_small_layers(monkeypatch.setattr)
    uninterrupted = train(readable_store, tmp_path / "once", method_config, config, show_progress=False).state_dict()
    out = tmp_path / "killed"
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(20):
        child = start(train_in_child, readable_store.path, out, method_config, config)
        before = latest_update(out)
        while child.is_alive() and latest_update(out) == before:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.05)))
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 4
    model = train(readable_store, out, method_config, config, resume=True, show_progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, uninterrupted[name]), name
    lines, expected = (
        [dataclasses.replace(line, contexts_per_s=0.0, mfu=None, seconds=None) for line in read_metrics(run)]
        for run in (out, tmp_path / "once")
    )
    assert lines == expected
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert config.max_updates is not None
    last_planned = (config.max_updates - 1) // config.checkpoint_every * config.checkpoint_every
    assert names == [f"update-{update:08d}" for update in (last_planned, config.max_updates)]


def test_the_fast_recipe_resumes_bit_for_bit(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    model_config, config = apply_recipe("fast", DROPOUT, dataclasses.replace(CONFIG, max_updates=22))
    once = train(readable_store, tmp_path / "run", model_config, config, show_progress=False).state_dict()
    lines = read_metrics(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "update-00000022")
    resumed = train(readable_store, tmp_path / "run", model_config, config, resume=True, show_progress=False)
    assert all(torch.equal(tensor, once[name]) for name, tensor in resumed.state_dict().items())
    rates = [line.learning_rate for line in lines]
    assert [line.learning_rate for line in read_metrics(tmp_path / "run")] == rates
    assert max(rates) > 10 * rates[-1] * 0.9  # the cosine ends with the run


def test_a_run_resumes_only_with_its_own_settings_and_data(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = TrainingConfig(batch_size=16, max_updates=4, checkpoint_every=2)
    train(readable_store, out, SMALL, config, show_progress=False)
    with pytest.raises(InputError, match=r"exists already; choose another directory, delete it, or .* `resume`"):
        train(readable_store, out, SMALL, config)
    content = json.loads((out / "config.json").read_text())
    content["hardware"]["cores"] = 1000  # another machine is not another setting
    (out / "config.json").write_text(json.dumps(content))
    shutil.copytree(out / "checkpoints" / "update-00000004", out / "checkpoints" / "update-00000004.copy")
    train(readable_store, out, SMALL, config, resume=True, show_progress=False)  # the copy is no checkpoint of the run
    changed = dataclasses.replace(config, learning_rate=1e-3, seed=5)
    message = r"other settings: learning_rate \(was 0.0006, is 0.001\), seed \(was 123, is 5\); resume"
    with pytest.raises(InputError, match=message):
        train(readable_store, out, SMALL, changed, resume=True)
    other_store = write_random_store(tmp_path / "store", [40])
    with pytest.raises(InputError, match=r"was trained on other data: .* resume it with the store"):
        train(other_store, out, SMALL, config, resume=True)
    with lock_directory(out), pytest.raises(InputError, match="another command is training in"):
        train(readable_store, out, SMALL, config, resume=True, show_progress=False)


def test_a_run_resumes_only_from_a_checkpoint_of_its_own(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = TrainingConfig(batch_size=16, max_updates=4, checkpoint_every=2)
    train(readable_store, out, SMALL, config, show_progress=False)
    state = out / "checkpoints" / "update-00000004" / "training_state.pt"
    original = state.read_bytes()
    saved = torch.load(state, weights_only=True)
    saved["optimizer"]["state"][0]["exp_avg"][0] = math.nan
    not_finite = io.BytesIO()
    torch.save(saved, not_finite)
    for content in (not_finite.getvalue(), original[:-100], b"", b"nonsense"):
        state.write_bytes(content)
        with pytest.raises(InputError, match=r"the checkpoint .*update-00000004 is damaged .*delete it to resume from"):
            train(readable_store, out, SMALL, config, resume=True)
    state.write_bytes(original)
    weights = state.with_name("model.safetensors")
    tensors = load_file(weights)
    save_file({**tensors, "head.weight": torch.full_like(tensors["head.weight"], math.inf)}, weights)
    with pytest.raises(
        InputError, match=r"the weights of the checkpoint .*update-00000004 are not finite: .*head\.weight"
    ):
        train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    train(readable_store, tmp_path / "other", SMALL, dataclasses.replace(config, seed=5), show_progress=False)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "update-00000004", state.parent)
    with pytest.raises(InputError, match="it belongs to another run"):
        train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    shutil.copytree(out / "checkpoints" / "update-00000002", state.parent)
    with pytest.raises(InputError, match="it was saved at update 2"):
        train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    (out / "metrics.jsonl").write_text("garbage\n")
    (out / "checkpoints" / ".DS_Store").write_text("")
    model = train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    assert latest_checkpoint(out) == state.parent
    assert not model.training
    assert [line.update for line in read_metrics(out)] == [4]


def test_only_the_directory_of_a_run_can_be_resumed(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(InputError, match="exists already"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8))
    (out / ".git").mkdir()
    with pytest.raises(InputError, match=r"is not a training run: its config\.json cannot be read"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8), resume=True)


def test_a_run_killed_before_its_first_file_starts_from_the_beginning(
    readable_store: TrajectoryStore, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.json.partial-7").write_text("{")
    config = TrainingConfig(batch_size=16, max_updates=1)
    train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    assert latest_checkpoint(out).name == "update-00000001"


def test_a_run_that_fails_removes_only_its_own_files(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    train(readable_store, tmp_path / "good", SMALL, TrainingConfig(batch_size=16, max_updates=1), show_progress=False)
    diverging = TrainingConfig(batch_size=16, max_updates=9, learning_rate=1e38)
    content = json.loads((tmp_path / "good" / "config.json").read_text())
    content["training"] = vars(diverging)
    (out / "config.json").write_text(json.dumps(content))  # as if the run had been killed before its first checkpoint
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FloatingPointError):
        train(readable_store, out, SMALL, diverging, resume=True, show_progress=False)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


def test_a_signal_during_an_update_is_handled_after_the_next(
    readable_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a signal arrives after the decision whether to save, the next update decides again."""
    next_line = MetricsLogger.next_line

    def interrupted_next_line(self: MetricsLogger, tokens: int, learning_rate: float) -> MetricsLine:
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)
        return next_line(self, tokens, learning_rate)

    interrupted: list[bool] = []
    monkeypatch.setattr(MetricsLogger, "next_line", interrupted_next_line)
    config = TrainingConfig(batch_size=16, log_every=2)
    with pytest.raises(TrainingStopped, match="the checkpoint of update 3 is in"):
        train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    assert latest_checkpoint(tmp_path / "run").name == "update-00000003"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_a_usable_checkpoint(
    readable_store: TrajectoryStore, tmp_path: Path, signum: signal.Signals
) -> None:
    out, output = tmp_path / "run", tmp_path / "output"
    options = "--epochs 100000 --batch-size 8 --num-layers 1 --context-length 2 --log-every 1"
    command = ["--data", str(readable_store.path), "--out", str(out), *options.split()]
    process = start(run_script, "train.py", command, output)
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") <= 3:
        assert process.is_alive(), output.with_suffix(".err").read_text()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join(timeout=60)
    assert process.exitcode == (0 if signum == signal.SIGTERM else 130)
    errors = output.with_suffix(".err").read_text()
    stopped = output.with_suffix(".out").read_text() if signum == signal.SIGTERM else errors.splitlines()[-1]
    assert "evaluate it, or continue from it with --resume" in stopped
    assert "Traceback" not in errors
    last = json.loads(metrics.read_text().splitlines()[-1])["update"]
    assert latest_checkpoint(out).name == f"update-{last:08d}"
    assert DecisionTransformer.from_pretrained(latest_checkpoint(out)).config.context_length == 2
