from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.model import DecisionTransformer, latest_checkpoint
from atari_dt.training import ContextLoader, ContextOrder, train, trainer
from atari_dt.training.optimizer import learning_rate_multiplier, make_optimizer
from replay_data import InputError, StoreWriter, TrajectoryStore, hold_out
from replay_data.files import locked
from tests.conftest import write_store

SCRIPTS = Path(__file__).parents[2] / "scripts"
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


@pytest.fixture(scope="module")
def readable_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """Episodes in which the brightness of the newest frame says the action."""
    path = tmp_path_factory.mktemp("stores") / "readable"
    rng = np.random.default_rng(0)
    with StoreWriter(
        path,
        game="Breakout",
        action_meanings=["NOOP", "FIRE", "RIGHT", "LEFT"],
        reward_clipping=False,
        sticky_actions=None,
        source={"kind": "test"},
    ) as writer:
        for _ in range(8):
            actions = rng.integers(0, 4, size=25)
            frames = np.broadcast_to((60 * actions).astype(np.uint8)[:, None, None], (25, 84, 84))
            writer.append(np.ascontiguousarray(frames), actions, np.ones(25))
    return TrajectoryStore.open(path)


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
    train(readable_store, tmp_path / "run", SMALL, TrainingConfig(epochs=1, batch_size=48), show_progress=False)
    assert sorted(drawn) == list(range(200))
    assert drawn != sorted(drawn)


def test_training_that_cannot_start_writes_nothing(readable_store: TrajectoryStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="larger than the dataset of 200 steps"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=201))
    with pytest.raises(InputError, match="no device 'cuda:99'"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8, device="cuda:99"))
    assert not out.exists()
    out.mkdir()
    with pytest.raises(InputError, match="exists already"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8))
    (out / "notes.txt").write_text("somebody's")
    with pytest.raises(InputError, match="is no run that could be resumed"):
        train(readable_store, out, SMALL, TrainingConfig(batch_size=8), resume=True)


@pytest.mark.parametrize("batch_size", [7, 50, 200])
def test_each_epoch_has_every_window_once_in_an_order_of_its_own(batch_size: int) -> None:
    windows = np.arange(100, 200, 2)
    order = ContextOrder(windows, batch_size, seed=3)
    per_epoch = math.ceil(50 / batch_size)
    assert order.updates_per_epoch == per_epoch
    updates = [order.batch(update).tolist() for update in range(4 * per_epoch)]
    epochs = [list(itertools.chain(*updates[e * per_epoch : (e + 1) * per_epoch])) for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == windows.tolist()
        assert epochs.count(epoch) == 1
    assert updates[0] != ContextOrder(windows, batch_size, seed=4).batch(0).tolist()
    for update in (3 * per_epoch, 0, 4 * per_epoch - 1):  # any place, in any order
        assert order.batch(update).tolist() == updates[update]
        assert ContextOrder(windows, batch_size, seed=3).batch(update).tolist() == updates[update]


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


@pytest.mark.parametrize(
    "batch_size", [50, 37]
)  # 150 windows: with 37 the last batch of an epoch has two, one a process
def test_two_processes_train_as_one(readable_store: TrajectoryStore, tmp_path: Path, batch_size: int) -> None:
    """The same losses, learning rates and weights; between them, every window of an epoch once."""
    config = TrainingConfig(
        epochs=20, max_updates=50, batch_size=batch_size, log_every=1, precision="fp32", validation_fraction=0.2
    )
    alone = train(readable_store, tmp_path / "alone", SMALL, config, show_progress=False)
    ranks = _train_in_two_processes(readable_store, tmp_path / "both", config)
    assert [process.exitcode for process in ranks] == [0, 0]
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


def _train_in_two_processes(
    store: TrajectoryStore, out: Path, config: TrainingConfig, model_config: ModelConfig = SMALL
) -> list[multiprocessing.context.SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_train_as_rank, args=(rank, port, store.path, out, config, model_config))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
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
    np.savez(out.with_name(f"{out.name}.{rank}.npz"), *drawn)


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
    with pytest.raises(InputError, match=r"learning_rate \(0.0006 there, 0.001 now\), seed \(123 there, 5 now\)"):
        train(readable_store, out, SMALL, other, resume=True)
    write_store(tmp_path / "store", [40])
    with pytest.raises(InputError, match="data_digest"):
        train(TrajectoryStore.open(tmp_path / "store"), out, SMALL, config, resume=True)
    with locked(out), pytest.raises(InputError, match="another command is training in"):
        train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    state = out / "checkpoints" / "update-00000004" / "training_state.pt"
    for content in (state.read_bytes()[:-100], b"", b"nonsense"):
        state.write_bytes(content)
        with pytest.raises(InputError, match=r"the checkpoint .*update-00000004 is damaged .*delete it and go on from"):
            train(readable_store, out, SMALL, config, resume=True)
    shutil.rmtree(state.parent)
    model = train(readable_store, out, SMALL, config, resume=True, show_progress=False)
    assert latest_checkpoint(out) == state.parent
    assert not model.training


def test_damaged_frames_are_not_trained_on(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [20])
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
    means = trainer._Metrics.means

    def interrupted_means(self: trainer._Metrics) -> tuple[dict[str, float], str | None]:
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)
        return means(self)

    interrupted: list[bool] = []
    monkeypatch.setattr(trainer._Metrics, "means", interrupted_means)
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
