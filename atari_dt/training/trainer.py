"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.training.batches import ContextLoader
from atari_dt.training.optimizer import learning_rate_multiplier, make_optimizer
from replay_data import InputError, TrajectoryStore
from replay_data.files import write_whole


def train(
    store: TrajectoryStore,
    out: Path,
    model_config: ModelConfig,
    config: TrainingConfig,
    show_progress: bool = True,
) -> DecisionTransformer:
    """Train a model on a store.

    Writes to ``out``: ``config.json`` (both configs and the store's digest), ``metrics.jsonl`` (a line every
    ``log_every`` updates: means of ``loss``, ``action_accuracy`` and ``grad_norm`` since the last line,
    ``learning_rate``, ``contexts_per_s``), the same for TensorBoard, and ``checkpoints/update-…``.

    Ctrl-C or SIGTERM ends it after the update under way, with a checkpoint, as a KeyboardInterrupt.

    Args:
        store: the data.
        out: directory of the run, to be created.
        model_config: the network.
        config: how it is trained.
        show_progress: a progress bar in updates/s on standard error.

    Returns:
        The trained model, in evaluation mode, on the device it was trained on.

    Raises:
        InputError: if ``out`` exists, the frames are damaged, the batch is larger than the dataset, or the device is
            not there.
        FloatingPointError: if the loss, its gradient or the weights are no longer finite; checkpoints never have such
            weights.
        OSError: if something cannot be written.

    A run that fails before its first checkpoint leaves nothing.
    """
    if out.exists():
        raise InputError(f"{out} exists already; choose another directory or delete it first")
    if config.batch_size > len(store):
        raise InputError(
            f"a batch of {config.batch_size} contexts is larger than the dataset of {len(store)} steps; "
            "lower batch_size"
        )
    device = find_device(config.device)
    dtype = find_precision(config.precision, device)
    store.verify()

    torch.manual_seed(config.seed)
    order = np.random.default_rng(config.seed)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    model.dataset = DatasetInfo.of(store)
    optimizer = make_optimizer(model, config)
    loader = ContextLoader(store, model_config.context_length, device)
    updates = config.epochs * math.ceil(len(store) / config.batch_size)
    updates = min(updates, config.max_updates or updates)
    final_tokens = config.final_tokens or 2 * len(store) * 3 * model_config.context_length

    description = {
        "data": str(store.path.resolve()),
        "data_digest": store.digest,
        "precision": str(dtype).removeprefix("torch."),
        "device": str(device),
        "model": dataclasses.asdict(model_config),
        "training": dataclasses.asdict(config),
    }
    model.train()
    tokens = update = saved = 0

    with (
        _run_directory(out),
        _Interruption() as interruption,
        _Metrics(out) as metrics,
        tqdm(total=updates, unit="update", desc="training", mininterval=0.5, disable=not show_progress) as bar,
    ):
        write_whole(out / "config.json", json.dumps(description, indent=2) + "\n")
        for steps in _batches(len(store), config.batch_size, updates, order):
            tokens += len(steps) * model_config.context_length
            rate = config.learning_rate * learning_rate_multiplier(tokens, config.warmup_tokens, final_tokens)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = loader.batch(steps)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                output = model(
                    batch.states,
                    batch.actions,
                    batch.returns_to_go,
                    batch.timesteps,
                    batch.attention_mask,
                    targets=batch.actions,
                )
            optimizer.zero_grad()
            output.loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_norm_clip)
            optimizer.step()
            update += 1
            bar.update()
            right = (output.action_logits.detach().argmax(-1) == batch.actions) & batch.attention_mask
            metrics.add(output.loss.detach(), right.sum() / batch.attention_mask.sum(), grad_norm, len(steps))
            stop = interruption.requested  # read once: what is saved and what is said must agree
            saving = update % config.checkpoint_every == 0 or update == updates or stop
            if update % config.log_every == 0 or saving:
                means = metrics.means()
                finite = all(map(math.isfinite, means.values()))
                if not finite or (saving and not all(p.isfinite().all() for p in model.parameters())):
                    raise FloatingPointError(
                        f"the loss, its gradient or the weights were no longer finite at update {update}; lower the "
                        f"learning rate ({f'update {saved} is' if saved else 'there is no checkpoint'} left to use)"
                    )
                metrics.write(update, {"tokens": tokens, "learning_rate": rate, **means})
                bar.set_postfix(loss=f"{means['loss']:.3f}", accuracy=f"{means['action_accuracy']:.3f}")
            if saving:
                model.save_pretrained(out / "checkpoints" / f"update-{update:08d}")
                saved = update
            if stop:
                raise KeyboardInterrupt(f"the checkpoint of update {update} is in {out} and can be evaluated")
    return model.eval()


def find_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU if there is one.

    Raises:
        InputError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"there is no device {name!r} here; use cpu, or cuda on a machine with a GPU") from error
    return device


def find_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the forward pass's type; ``auto`` is bfloat16 where the hardware computes in it."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:  # PyTorch has no public name for the question
            fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def _batches(
    num_steps: int, batch_size: int, updates: int, order: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield batches of window starts, every step once an epoch in random order; an epoch's last may be smaller."""
    while True:
        permutation = order.permutation(num_steps)
        for start in range(0, num_steps, batch_size):
            if updates == 0:
                return
            updates -= 1
            yield permutation[start : start + batch_size]


@contextmanager
def _run_directory(out: Path) -> Iterator[None]:
    """Make the directory of a run; remove it again if the run fails before its first checkpoint."""
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{out} exists already; another process made it meanwhile") from None
    try:
        yield
    except BaseException:
        if not any(out.glob("checkpoints/update-*")):
            shutil.rmtree(out, ignore_errors=True)
        raise


class _Interruption:
    """While it is open, the first Ctrl-C or SIGTERM is only noted, so that no update is cut in half."""

    def __enter__(self) -> _Interruption:
        self.requested = False
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.requested and kind is None:  # it came after the last update, and is not to be lost
            raise KeyboardInterrupt


class _Metrics:
    """Sums on the device, read once a line, so that no update waits for a number."""

    def __init__(self, out: Path):
        self._writer = SummaryWriter(out / "tensorboard")
        self._file = (out / "metrics.jsonl").open("w")
        self._reset()

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def _reset(self) -> None:
        self._sums: Any = 0
        self._count = self._contexts = 0
        self._since = time.perf_counter()

    def add(self, loss: torch.Tensor, accuracy: torch.Tensor, grad_norm: torch.Tensor, contexts: int) -> None:
        """Add an update."""
        self._sums = self._sums + torch.stack([loss, accuracy, grad_norm])
        self._count += 1
        self._contexts += contexts

    def means(self) -> dict[str, float]:
        """Return the means since the last line, and begin a new one."""
        loss, accuracy, grad_norm = (self._sums / self._count).tolist()
        speed = self._contexts / (time.perf_counter() - self._since)
        self._reset()
        return {"loss": loss, "action_accuracy": accuracy, "grad_norm": grad_norm, "contexts_per_s": speed}

    def write(self, update: int, values: dict[str, float]) -> None:
        """Write a line."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)
        self._file.write(json.dumps({"update": update, **values}) + "\n")
        self._file.flush()
