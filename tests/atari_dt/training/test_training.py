from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atari_dt.config import Conditioning, ModelConfig, TrainingConfig
from atari_dt.games.presets import preset
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.training.batches import ContextLoader, ContextSampler
from atari_dt.training.learner import flops_per_context
from atari_dt.training.loop import train
from atari_dt.training.metrics import Metrics
from atari_dt.training.optimizer import learning_rate_multiplier, make_optimizer
from replay_data import InputError, TrajectoryStore, hold_out
from replay_data.storage.locks import lock_directory
from replay_data.testing import write_random_store

SCRIPTS = Path(__file__).parents[3] / "scripts"
SMALL = ModelConfig(context_length=3, num_layers=1, num_heads=2, embed_dim=16, dropout=0.0)


@pytest.mark.parametrize("context_length", [1, 4, 30])
def test_batches_hold_what_the_store_holds(store: TrajectoryStore, context_length: int) -> None:
    steps = np.random.default_rng(0).permutation(len(store))
    batch = ContextLoader(store, context_length, torch.device("cpu")).batch(steps)
    assert batch.states.shape == (len(store), context_length, 4, 84, 84)
    for row, step in enumerate(steps):
        episode = int(np.flatnonzero(step < store.episode_ends)[0])
        first, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
        start = max(first, min(int(step), end - context_length))
        window = range(start, min(start + context_length, end))
        assert batch.attention_mask[row].tolist() == [k < len(window) for k in range(context_length)]
        for k, n in enumerate(window):
            assert (batch.states[row, k].numpy() == store.stacked(n)).all()
            assert batch.actions[row, k] == store.actions[n]
            assert batch.returns_to_go[row, k] == store.returns_to_go[n]
            assert batch.timesteps[row, k] == store.timesteps[n]


def test_batches_gathered_ahead_are_those_gathered_on_the_spot(store: TrajectoryStore) -> None:
    """What a GPU too small for the frames does: they stay with the host, and a thread gathers them."""
    steps = np.random.default_rng(0).permutation(len(store))
    parts = [steps[i : i + 9] for i in range(0, len(store), 9)]
    near = ContextLoader(store, 4, torch.device("cpu"))
    far = ContextLoader(store, 4, torch.device("cpu"), resident=False)
    batches = list(far.batches(parts))
    assert len(batches) == len(parts)
    for part, batch in zip(parts, batches, strict=True):
        for name, tensor in vars(near.batch(part)).items():
            assert torch.equal(getattr(batch, name), tensor), name
        assert near.num_steps(part) == int(batch.attention_mask.sum())
    for outside in (-1, len(store)):
        with pytest.raises(IndexError):
            near.batch([0, outside])


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_the_flops_of_an_update_are_those_of_its_products(conditioning: Conditioning) -> None:
    """By hand: 2 for each multiplication, three products a layer but for the first convolution, which has no input
    gradient; and the last block computes queries, outputs and perceptron for the state tokens alone."""
    steps, dim, layers, actions = 30, 128, 6, 4
    kinds = 3 if conditioning == "return" else 2
    tokens = kinds * steps
    encoder = 2 * 20 * 20 * 32 * 256 + 3 * (9 * 9 * 64 * 512 + 7 * 7 * 64 * 576 + 3136 * dim)
    whole_block = tokens * 12 * dim * dim + 2 * tokens * tokens * dim
    last_block = tokens * 2 * dim * dim + steps * 10 * dim * dim + 2 * steps * tokens * dim
    products = steps * encoder + 3 * ((layers - 1) * whole_block + last_block + steps * dim * actions)
    if conditioning == "return":
        products += 2 * steps * dim  # the return's embedding, whose input has no gradient either
    generator = torch.get_rng_state()
    assert flops_per_context(ModelConfig(conditioning=conditioning), actions) == 2 * products
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_the_network_compiles_as_a_whole(store: TrajectoryStore, dtype: torch.dtype, training: bool) -> None:
    """No part of it falls back to Python; what a compiler then makes of it is PyTorch's business."""
    model = DecisionTransformer(DROPOUT, num_actions=4, max_timestep=100).train(training)
    batch = ContextLoader(store, 3, torch.device("cpu")).batch(np.arange(8))
    arguments = batch.states, batch.actions, batch.returns_to_go, batch.timesteps, batch.attention_mask, batch.actions
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    gradients = []
    for network in (model, compiled):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = network(*arguments).loss
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for plain, other in zip(*gradients, strict=True):
        assert other.isfinite().all()
        assert training or torch.allclose(plain, other, atol=1e-6 if dtype == torch.float32 else 1e-2)


def test_the_schedule_is_the_papers() -> None:
    """Warm-up over 512·20 tokens, cosine to a tenth at 2·(500,000)·3·30 tokens, 128·30 tokens an update."""
    warmup, final = 512 * 20, 2 * 500_000 * 3 * 30
    for update in [1, 2, 3, 100, 5_000, 15_000, 19_530]:
        tokens = update * 128 * 30
        if tokens < warmup:
            expected = tokens / warmup
        else:
            expected = max(0.1, 0.5 * (1 + math.cos(math.pi * (tokens - warmup) / (final - warmup))))
        assert learning_rate_multiplier(tokens, warmup, final) == pytest.approx(expected)
    assert learning_rate_multiplier(warmup, warmup, final) == 1
    assert learning_rate_multiplier((warmup + final) // 2, warmup, final) == pytest.approx(0.5, abs=1e-6)
    for tokens in (final, 2 * final, 3 * final):
        assert learning_rate_multiplier(tokens, warmup, final) == 0.1


def test_weight_decay_is_on_linear_and_convolution_weights_only() -> None:
    model = DecisionTransformer(ModelConfig(), num_actions=4, max_timestep=100)
    decayed, kept = make_optimizer(model, TrainingConfig()).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)
    assert decayed["betas"] == (0.9, 0.95)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    undecayed_matrices = {names[id(p)] for p in kept["params"] if p.dim() >= 2}
    assert undecayed_matrices == {"action_embedding.weight", "position_embedding", "timestep_embedding"}


def test_weights_start_as_in_the_paper() -> None:
    model = DecisionTransformer(ModelConfig(), num_actions=4, max_timestep=100)
    for name, module in model.transformer.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert (module.bias == 0).all(), name
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert (model.position_embedding == 0).all()
    assert (model.timestep_embedding == 0).all()
    assert model.position_embedding.shape == (3 * 30 + 1, 128)


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_training_learns_what_the_frames_say(
    readable_store: TrajectoryStore, tmp_path: Path, conditioning: str
) -> None:
    config = TrainingConfig(
        epochs=100,
        max_updates=300,
        batch_size=16,
        learning_rate=3e-3,
        log_every=50,
        checkpoint_every=120,
        final_tokens=300 * 16 * 3,
        warmup_tokens=100,
    )
    model_config = ModelConfig(3, 1, 2, 16, 0.0, conditioning)  # type: ignore[arg-type]
    out = tmp_path / "run"
    train(readable_store, out, model_config, config, show_progress=False)

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [50, 100, 120, 150, 200, 240, 250, 300]
    assert lines[-1]["tokens"] == sum(min(16, 200 - 16 * (u % 13)) * 3 for u in range(300))
    for line in lines:
        factor = 0.5 * (1 + math.cos(math.pi * (line["tokens"] - 100) / (300 * 16 * 3 - 100)))
        assert line["learning_rate"] == pytest.approx(3e-3 * max(0.1, factor))
    assert lines[-1]["action_accuracy"] > 0.95
    assert lines[-1]["loss"] < 0.3 < lines[0]["loss"]
    assert {"learning_rate", "grad_norm", "contexts_per_s"} < set(lines[0])
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        f"update-{update:08d}" for update in (120, 240, 300)
    ]
    assert list((out / "tensorboard").iterdir())
    written = json.loads((out / "config.json").read_text())
    assert written["training"]["learning_rate"] == 3e-3
    assert written["data_digest"] == readable_store.digest
    assert written["versions"]["torch"] == torch.__version__
    assert written["hardware"]["cores"] >= 1

    model = DecisionTransformer.from_pretrained(latest_checkpoint(out))
    batch = ContextLoader(readable_store, 3, torch.device("cpu")).batch(np.arange(200))
    logits = model(batch.states, batch.actions, batch.returns_to_go, batch.timesteps).action_logits
    assert (logits.argmax(-1) == batch.actions).float().mean() > 0.95
    assert model.dataset is not None
    assert (model.dataset.game, model.dataset.max_return, model.dataset.mean_score) == ("Breakout", 25, None)


def test_the_same_seed_gives_the_same_weights(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(max_updates=5, batch_size=16, precision="fp32", device="cpu")
    weights: list[torch.Tensor] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))
        run = TrainingConfig(**{**vars(config), "seed": seed})
        weights.append(train(readable_store, tmp_path / name, SMALL, run, show_progress=False).head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_schedule_ends_where_the_paper_ends_it_and_gradients_are_clipped(
    readable_store: TrajectoryStore, tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=4, batch_size=50, warmup_tokens=300, grad_norm_clip=1e-3, log_every=1, device="cpu")
    model = train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == [150 * update for update in range(1, 17)]
    final = 2 * 200 * 3 * 3
    for line in lines:
        tokens = line["tokens"]
        factor = tokens / 300 if tokens < 300 else 0.5 * (1 + math.cos(math.pi * (tokens - 300) / (final - 300)))
        assert line["learning_rate"] == pytest.approx(6e-4 * max(0.1, factor))
        assert line["grad_norm"] > 1e-3  # before clipping
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert gradients.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_one_epoch_draws_every_window_once(
    readable_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    batch = ContextLoader.batch

    def record(self: ContextLoader, steps: np.ndarray) -> object:
        drawn.extend(steps)
        return batch(self, steps)

    monkeypatch.setattr(ContextLoader, "batch", record)
    config = TrainingConfig(epochs=1, batch_size=48)
    train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    assert sorted(drawn) == list(range(200))
    assert drawn != sorted(drawn)

    drawn.clear()
    others = write_random_store(tmp_path / "store", [25] * 8)
    train(others, tmp_path / "best", SMALL, dataclasses.replace(config, top_percent=30), show_progress=False)
    returns = others.rewards.reshape(8, 25).sum(1)
    best = sorted(range(8), key=lambda episode: -returns[episode])[:2]
    assert returns[best].min() > np.delete(returns, best).max()
    assert sorted(drawn) == [step for step in range(200) if step // 25 in best]


def test_held_out_episodes_are_not_trained_on_but_predicted(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(
        epochs=3, batch_size=16, validation_fraction=0.25, checkpoint_every=10, log_every=7, precision="fp32"
    )
    model = train(readable_store, tmp_path / "run", DROPOUT, config, show_progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [7, 10, 14, 20, 21, 28, 30]  # 150 of 200 windows: 10 updates an epoch
    assert [line["update"] for line in lines if "validation_loss" in line] == [10, 20, 30]
    assert 0 < lines[-1]["mfu"] < 1
    losses, right = [], []
    for episode in np.flatnonzero(hold_out(8, 0.25, config.seed)):
        for start in [*range(25 * episode, 25 * episode + 24, 3), 25 * episode + 22]:
            n = slice(start, start + 3)
            actions = torch.from_numpy(readable_store.actions[n].astype(np.int64))
            with torch.inference_mode():
                output = model(
                    torch.from_numpy(np.stack([readable_store.stacked(i) for i in range(start, start + 3)]))[None],
                    actions[None],
                    torch.from_numpy(readable_store.returns_to_go[n].copy())[None],
                    torch.from_numpy(readable_store.timesteps[n].astype(np.int64))[None],
                )
            logits = output.action_logits[0]
            losses.extend(nn.functional.cross_entropy(logits, actions, reduction="none").tolist())
            right.extend((logits.argmax(-1) == actions).tolist())
    assert lines[-1]["validation_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert lines[-1]["validation_accuracy"] == pytest.approx(np.mean(right))
    with pytest.raises(InputError, match="none be left to train on"):
        train(readable_store, tmp_path / "all", SMALL, TrainingConfig(batch_size=16, validation_fraction=0.99))
    assert not (tmp_path / "all").exists()


def test_a_run_that_fails_removes_only_what_it_made(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    train(readable_store, tmp_path / "good", SMALL, TrainingConfig(batch_size=16, max_updates=1), show_progress=False)
    diverging = TrainingConfig(batch_size=16, max_updates=9, learning_rate=1e38)
    description = json.loads((tmp_path / "good" / "config.json").read_text())
    description["training"] = {**vars(diverging)}
    (out / "config.json").write_text(json.dumps(description))  # a run killed before its first checkpoint
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FloatingPointError):
        train(readable_store, out, SMALL, diverging, resume=True, show_progress=False)
    assert [file.name for file in out.iterdir()] == ["notes.txt"]
    (out / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is no run that could be resumed"):
        train(readable_store, out, SMALL, diverging, resume=True)


def test_a_run_killed_before_it_wrote_anything_begins(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.json.partial-7").write_text("{")
    config = TrainingConfig(batch_size=16, max_updates=1)
    train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    assert latest_checkpoint(out).name == "update-00000001"


def test_the_papers_games_have_the_papers_settings() -> None:
    for game in ("Breakout", "Qbert", "Seaquest", "Zaxxon"):
        model, training = preset(game)
        assert (model.context_length, training.batch_size) == (30, 128)
    model, training = preset("Pong")
    assert (model.context_length, training.batch_size) == (50, 512)
    assert (model.num_layers, model.num_heads, model.embed_dim, model.dropout) == (6, 8, 128, 0.1)
    assert (training.learning_rate, training.warmup_tokens, training.epochs) == (6e-4, 512 * 20, 5)


def test_training_that_cannot_start_writes_nothing(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="larger than the dataset of 200 steps"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=201))
    with pytest.raises(InputError, match="no device 'cuda:99'"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8, device="cuda:99"))
    lower = r"lower batch_size \(8\), context_length \(3\) or embed_dim \(100000000\)"
    with pytest.raises(InputError, match=f"out of memory on cpu; {lower}"):
        train(readable_store, out, ModelConfig(3, 1, 1, 10**8), TrainingConfig(batch_size=8, device="cpu"))
    assert not out.exists()
    out.mkdir()
    with pytest.raises(InputError, match="exists already"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8))
    (out / ".git").mkdir()
    with pytest.raises(InputError, match="is no run that could be resumed"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8), resume=True)


@pytest.mark.parametrize("batch_size", [7, 50, 200])
def test_each_epoch_has_every_window_once_in_an_order_of_its_own(batch_size: int) -> None:
    windows = np.arange(100, 200, 2)
    order = ContextSampler(windows, batch_size, seed=3)
    per_epoch = math.ceil(50 / batch_size)
    assert order.updates_per_epoch == per_epoch
    updates = [order.batch(update).tolist() for update in range(4 * per_epoch)]
    epochs = [list(itertools.chain(*updates[e * per_epoch : (e + 1) * per_epoch])) for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == windows.tolist()
        assert epochs.count(epoch) == 1
    assert updates[0] != ContextSampler(windows, batch_size, seed=4).batch(0).tolist()
    for update in (3 * per_epoch, 0, 4 * per_epoch - 1):  # any place, in any order
        assert order.batch(update).tolist() == updates[update]
        assert ContextSampler(windows, batch_size, seed=3).batch(update).tolist() == updates[update]


RESUMED = TrainingConfig(
    epochs=5, batch_size=16, log_every=4, checkpoint_every=11, keep_checkpoints=2, warmup_tokens=100, device="cpu"
)
DROPOUT = ModelConfig(context_length=3, num_layers=1, num_heads=2, embed_dim=16, dropout=0.2)


def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    """65 updates straight, and the same killed again and again; dropout and the order of contexts are random."""
    straight = train(readable_store, tmp_path / "straight", DROPOUT, RESUMED, show_progress=False).state_dict()
    out = tmp_path / "killed"
    context = multiprocessing.get_context("spawn")
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(20):
        child = context.Process(target=_train_in_child, args=(readable_store.path, out))
        child.start()
        before = latest_update(out)
        while child.is_alive() and latest_update(out) == before:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.1)))
        child.kill()
        child.join()
        if child.exitcode == 0:
            break
        kills += 1
    assert kills >= 4
    model = train(readable_store, out, DROPOUT, RESUMED, resume=True, show_progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, straight[name]), name
    lines, expected = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (out, tmp_path / "straight")
    )
    for line in lines + expected:
        del line["contexts_per_s"], line["mfu"]
    assert lines == expected
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["update-00000055", "update-00000065"]


def latest_update(out: Path) -> str:
    return max((path.name for path in out.glob("checkpoints/update-*")), default="")


def _train_in_child(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    train(TrajectoryStore.open(data), out, DROPOUT, RESUMED, resume=True, show_progress=False)


def test_a_run_is_resumed_with_what_it_was_made_with(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = TrainingConfig(batch_size=16, max_updates=4, checkpoint_every=2)
    train(readable_store, out, SMALL, config, show_progress=False)
    with pytest.raises(
        InputError, match="exists already; choose another directory, delete it, or go on from it with --res"
    ):
        train(readable_store, out, SMALL, config)
    description = json.loads((out / "config.json").read_text())
    description["hardware"]["cores"] = 1000  # another machine is no other setting
    (out / "config.json").write_text(json.dumps(description))
    train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    other = TrainingConfig(**{**vars(config), "learning_rate": 1e-3, "seed": 5})
    with pytest.raises(
        InputError,
        match=r"other settings: learning_rate \(0.0006 there, 0.001 now\), seed \(123 there, 5 now\); resume",
    ):
        train(readable_store, out, SMALL, other, resume=True)
    write_random_store(tmp_path / "store", [40])
    with pytest.raises(InputError, match="data_digest"):
        train(TrajectoryStore.open(tmp_path / "store"), out, SMALL, config, resume=True)
    with lock_directory(out), pytest.raises(InputError, match="another command is training in"):
        train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    state = out / "checkpoints" / "update-00000004" / "training_state.pt"
    for content in (state.read_bytes()[:-100], b"", b"nonsense"):
        state.write_bytes(content)
        with pytest.raises(InputError, match=r"the checkpoint .*update-00000004 is damaged .*delete it and go on from"):
            train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    train(readable_store, tmp_path / "foreign", SMALL, other, show_progress=False)
    shutil.copytree(tmp_path / "foreign" / "checkpoints" / "update-00000004", state.parent)
    with pytest.raises(InputError, match="it is of another run"):
        train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    shutil.copytree(out / "checkpoints" / "update-00000002", state.parent)
    with pytest.raises(InputError, match="it is of update 2"):
        train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    (out / "metrics.jsonl").write_text("garbage\n")
    (out / "checkpoints" / ".DS_Store").write_text("")
    model = train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    assert latest_checkpoint(out) == state.parent
    assert not model.training


def test_damaged_frames_are_not_trained_on(tmp_path: Path) -> None:
    write_random_store(tmp_path / "store", [20])
    file = tmp_path / "store" / "frames.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        train(TrajectoryStore.open(tmp_path / "store"), tmp_path / "run", SMALL, TrainingConfig(batch_size=8))


def test_a_loss_that_is_not_finite_ends_the_run(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    config = TrainingConfig(batch_size=16, learning_rate=1e30, warmup_tokens=1, grad_norm_clip=1e30, precision="fp32")
    with pytest.raises(FloatingPointError, match=r"no longer finite at update \d+ \(its contexts start at .* steps \d"):
        train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    assert not (tmp_path / "run").exists()


def test_an_interruption_at_any_moment_of_an_update_is_honest(
    readable_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal that comes after the decision what to save waits for the next update."""
    means = Metrics.means

    def interrupted_means(self: Metrics) -> tuple[dict[str, float], str | None]:
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)
        return means(self)

    interrupted: list[bool] = []
    monkeypatch.setattr(Metrics, "means", interrupted_means)
    config = TrainingConfig(batch_size=16, log_every=2)
    with pytest.raises(KeyboardInterrupt, match="the checkpoint of update 3 is in"):
        train(readable_store, tmp_path / "run", SMALL, config, show_progress=False)
    assert latest_checkpoint(tmp_path / "run").name == "update-00000003"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_usable_checkpoint(
    readable_store: TrajectoryStore, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    options = "--epochs 100000 --batch-size 8 --num-layers 1 --context-length 2 --log-every 1"
    command = f"{sys.executable} {SCRIPTS}/train.py --data {readable_store.path} --out {out} {options}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    metrics = out / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") > 3:
            break
        time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == (0 if number == signal.SIGTERM else 130)
    said = output if number == signal.SIGTERM else errors.splitlines()[-1]
    assert "can be evaluated, and --resume goes on from it" in said
    assert "Traceback" not in errors
    last = json.loads(metrics.read_text().splitlines()[-1])["update"]
    assert latest_checkpoint(out).name == f"update-{last:08d}"
    assert DecisionTransformer.from_pretrained(latest_checkpoint(out)).config.context_length == 2
