"""Whole training runs in one process."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atari_dt.config import Conditioning, ModelConfig, TrainingConfig
from atari_dt.model import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.training import ContextLoader, read_metrics, read_training_run, train, training_windows
from replay_data import InputError, TrajectoryStore, hold_out
from replay_data.testing import write_random_store
from tests.atari_dt.training.processes import DROPOUT, SMALL


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_training_learns_the_action_that_the_frames_show(
    readable_store: TrajectoryStore, tmp_path: Path, conditioning: Conditioning
) -> None:
    config = TrainingConfig(
        epochs=100,
        max_updates=150,
        batch_size=16,
        learning_rate=3e-3,
        log_every=50,
        checkpoint_every=60,
        final_tokens=150 * 16 * 3,
        warmup_tokens=100,
    )
    out = tmp_path / "run"
    train(readable_store, out, ModelConfig(3, 1, 2, 16, 0.0, conditioning), config, show_progress=False)

    lines = read_metrics(out)
    assert [line.update for line in lines] == [50, 60, 100, 120, 150]
    assert lines[-1].tokens == sum(min(16, 200 - 16 * (u % 13)) * 3 for u in range(150))
    for line in lines:
        factor = 0.5 * (1 + math.cos(math.pi * (line.tokens - 100) / (150 * 16 * 3 - 100)))
        assert line.learning_rate == pytest.approx(3e-3 * max(0.1, factor))
    assert lines[-1].action_accuracy > 0.95
    assert lines[-1].loss < 0.3 < lines[0].loss
    assert lines[0].grad_norm > 0
    assert lines[0].contexts_per_s > 0
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        f"update-{update:08d}" for update in (60, 120, 150)
    ]
    assert list((out / "tensorboard").iterdir())
    run = read_training_run(out)
    assert run.training == config
    assert run.data_digest == readable_store.digest
    assert run.versions["torch"] == torch.__version__
    assert run.hardware.cores >= 1

    model = DecisionTransformer.from_pretrained(latest_checkpoint(out))
    batch = ContextLoader(readable_store, 3, torch.device("cpu")).batch(np.arange(200))
    logits = model(batch.states, batch.actions, batch.returns_to_go, batch.timesteps).action_logits
    assert (logits.argmax(-1) == batch.actions).float().mean() > 0.95
    assert model.dataset is not None
    assert (model.dataset.game, model.dataset.max_return, model.dataset.mean_score) == ("Breakout", 25, None)


def test_the_seed_decides_the_weights(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(max_updates=5, batch_size=16, precision="fp32", device="cpu")
    weights: list[torch.Tensor] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))
        seeded = dataclasses.replace(config, seed=seed)
        weights.append(
            train(readable_store, tmp_path / name, SMALL, seeded, show_progress=False).state_dict()["head.weight"]
        )
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_default_schedule_ends_as_in_the_paper_and_gradients_are_clipped(
    readable_store: TrajectoryStore, tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=4, batch_size=50, warmup_tokens=300, grad_norm_clip=1e-3, log_every=1, device="cpu")
    model = train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    lines = read_metrics(tmp_path / "run")
    assert [line.tokens for line in lines] == [150 * update for update in range(1, 17)]
    final = 2 * 200 * 3 * 3
    for line in lines:
        tokens = line.tokens
        factor = tokens / 300 if tokens < 300 else 0.5 * (1 + math.cos(math.pi * (tokens - 300) / (final - 300)))
        assert line.learning_rate == pytest.approx(6e-4 * max(0.1, factor))
        assert line.grad_norm > 1e-3  # before clipping
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert gradients.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_one_epoch_trains_on_every_window_once(
    readable_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``top_percent``, only on those of the best episodes."""
    sampled: list[int] = []
    batch = ContextLoader.batch

    def record(self: ContextLoader, steps: np.ndarray) -> object:
        sampled.extend(steps)
        return batch(self, steps)

    monkeypatch.setattr(ContextLoader, "batch", record)
    config = TrainingConfig(epochs=1, batch_size=48)
    train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    assert sorted(sampled) == list(range(200))
    assert sampled != sorted(sampled)

    sampled.clear()
    random_store = write_random_store(tmp_path / "store", [25] * 8)
    train(random_store, tmp_path / "best", SMALL, dataclasses.replace(config, top_percent=30), show_progress=False)
    returns = random_store.rewards.reshape(8, 25).sum(1)
    best = sorted(range(8), key=lambda episode: -returns[episode])[:2]
    assert returns[best].min() > np.delete(returns, best).max()
    assert sorted(sampled) == [step for step in range(200) if step // 25 in best]


def test_held_out_episodes_are_validated_on_and_not_trained_on(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(
        epochs=3, batch_size=16, validation_fraction=0.25, checkpoint_every=10, log_every=7, precision="fp32"
    )
    model = train(readable_store, tmp_path / "run", DROPOUT, config, show_progress=False)
    lines = read_metrics(tmp_path / "run")
    assert [line.update for line in lines] == [7, 10, 14, 20, 21, 28, 30]  # 150 of 200 windows: 10 updates per epoch
    assert [line.update for line in lines if line.validation_loss is not None] == [10, 20, 30]
    assert lines[-1].mfu is not None
    assert 0 < lines[-1].mfu < 1
    losses, correct = [], []
    for episode in np.flatnonzero(hold_out(8, 0.25, config.seed)):
        for start in [*range(25 * episode, 25 * episode + 24, 3), 25 * episode + 22]:
            n = slice(start, start + 3)
            actions = torch.from_numpy(readable_store.actions[n].astype(np.int64))
            with torch.inference_mode():
                output = model(
                    torch.from_numpy(np.stack([readable_store.state(i) for i in range(start, start + 3)]))[None],
                    actions[None],
                    torch.from_numpy(readable_store.returns_to_go[n].copy())[None],
                    torch.from_numpy(readable_store.timesteps[n].astype(np.int64))[None],
                )
            logits = output.action_logits[0]
            losses.extend(nn.functional.cross_entropy(logits, actions, reduction="none").tolist())
            correct.extend((logits.argmax(-1) == actions).tolist())
    assert lines[-1].validation_loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert lines[-1].validation_accuracy == pytest.approx(np.mean(correct))


def test_the_validation_seed_decides_the_held_out_episodes(readable_store: TrajectoryStore) -> None:
    config = TrainingConfig(batch_size=16, validation_fraction=0.3)
    windows = {
        (seed, validation_seed): training_windows(
            readable_store, SMALL, dataclasses.replace(config, seed=seed, validation_seed=validation_seed)
        )
        for seed, validation_seed in ((1, None), (2, None), (1, 2), (2, 2))
    }
    for pair in ((1, 2), (2, 2)):
        for trained_or_held_out, of_seed_2 in zip(windows[pair], windows[2, None], strict=True):
            np.testing.assert_array_equal(trained_or_held_out, of_seed_2)
    assert not np.array_equal(windows[1, None][1], windows[2, None][1])


def test_a_run_that_cannot_start_writes_nothing(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="larger than the dataset of 200 steps; lower `batch_size`"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=201))
    with pytest.raises(InputError, match="leaves none to train on"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=16, validation_fraction=0.99))
    with pytest.raises(InputError, match="no device 'cuda:99'"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8, device="cuda:99"))
    lower = r"lower `batch_size` \(8\), `context_length` \(3\) or `embed_dim` \(100000000\)"
    with pytest.raises(InputError, match=f"out of memory on cpu; {lower}"):
        train(readable_store, out, ModelConfig(3, 1, 1, 10**8), TrainingConfig(batch_size=8, device="cpu"))
    assert not out.exists()


def test_damaged_frames_are_refused(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [20])
    file = tmp_path / "store" / "frames.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        train(TrajectoryStore.open(tmp_path / "store"), tmp_path / "run", SMALL, TrainingConfig(batch_size=8))


def test_a_loss_that_is_not_finite_ends_the_run(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(batch_size=16, learning_rate=1e30, warmup_tokens=1, grad_norm_clip=1e30, precision="fp32")
    message = (
        r"no longer finite at update \d+ \(its windows start at .* steps \d.*\); lower `learning_rate` \(there is no"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    assert not (tmp_path / "run").exists()
