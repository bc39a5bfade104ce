"""The training loop."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
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
from atari_dt.training.batches import ContextLoader, ContextOrder
from atari_dt.training.checkpoint import load_checkpoint, save_checkpoint
from atari_dt.training.optimizer import learning_rate_multiplier, make_optimizer
from replay_data import InputError, TrajectoryStore
from replay_data.files import held, write_whole
from replay_data.parallel import available_cores


class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training run, after the update under way and with a checkpoint.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


def train(
    store: TrajectoryStore,
    out: Path,
    model_config: ModelConfig,
    config: TrainingConfig,
    resume: bool = False,
    show_progress: bool = True,
) -> DecisionTransformer:
    """Train a model on a store.

    Writes to ``out``: ``config.json`` (both configs, the store's digest, versions, hardware), ``metrics.jsonl`` (a
    line every ``log_every`` updates: means of ``loss``, ``action_accuracy`` and ``grad_norm`` since the last line,
    ``learning_rate``, ``contexts_per_s``), the same for TensorBoard, and ``checkpoints/update-…``, the last
    ``keep_checkpoints`` of them.

    Args:
        store: the data.
        out: directory of the run, to be created.
        model_config: the network.
        config: how it is trained.
        resume: go on from the last checkpoint in ``out``, if there is one; on the same device the weights become, bit
            for bit, those of a run that never stopped.
        show_progress: a progress bar in updates/s on standard error.

    Returns:
        The trained model, in evaluation mode, on the device it was trained on.

    Raises:
        InputError: if ``out`` exists (or, to be resumed, is a run of another config or data), the frames are damaged,
            the batch is larger than the dataset, or the device is not there.
        FloatingPointError: if the loss, its gradient or the weights are no longer finite; checkpoints never have such
            weights.
        OSError: if something cannot be written.
        TrainingStopped: on Ctrl-C or SIGTERM, after the update under way and with a checkpoint.

    A run that fails before its first checkpoint leaves nothing.
    """
    if config.batch_size > len(store):
        raise InputError(
            f"a batch of {config.batch_size} contexts is larger than the dataset of {len(store)} steps; "
            "lower batch_size"
        )
    device = find_device(config.device)
    dtype = find_precision(config.precision, device)
    description = {
        "data": str(store.path.resolve()),
        "data_digest": store.digest,
        "precision": str(dtype).removeprefix("torch."),
        "device": str(device),
        "model": dataclasses.asdict(model_config),
        "training": dataclasses.asdict(config),
        **_machine(device),
    }
    checkpoint = _find_checkpoint(out, description, resume)
    store.verify()

    torch.manual_seed(config.seed)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    model.dataset = DatasetInfo.of(store)
    optimizer = make_optimizer(model, config)
    order = ContextOrder(len(store), config.batch_size, config.seed)
    loader = ContextLoader(store, model_config.context_length, device)
    updates = config.epochs * math.ceil(len(store) / config.batch_size)
    updates = min(updates, config.max_updates or updates)
    final_tokens = config.final_tokens or 2 * len(store) * 3 * model_config.context_length
    model.train()
    tokens = update = saved = 0
    if checkpoint is not None:
        update, tokens = load_checkpoint(checkpoint, model, optimizer, order)
        saved = update

    with (
        _run_directory(out),
        _Interruption() as interruption,
        _Metrics(out, update) as metrics,
        tqdm(
            total=updates, initial=update, unit="update", desc="training", mininterval=0.5, disable=not show_progress
        ) as bar,
    ):
        write_whole(out / "config.json", json.dumps(description, indent=2) + "\n")
        while update < updates:
            steps = order.next()
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
            metrics.add(steps, output.loss.detach(), right.sum() / batch.attention_mask.sum(), grad_norm)
            stop = interruption.number  # read once: what is saved and what is said must agree
            saving = update % config.checkpoint_every == 0 or update == updates or stop is not None
            if update % config.log_every == 0 or saving:
                means, bad = metrics.means()
                if bad is None and saving and not all(p.isfinite().all() for p in model.parameters()):
                    bad = f"the weights are no longer finite at update {update}"
                if bad is not None:
                    raise FloatingPointError(
                        f"{bad}; lower the learning rate "
                        f"({f'update {saved} is' if saved else 'there is no checkpoint'} left to use)"
                    )
                metrics.write(update, {"tokens": tokens, "learning_rate": rate, **means})
                bar.set_postfix(loss=f"{means['loss']:.3f}", accuracy=f"{means['action_accuracy']:.3f}")
            if saving:
                save_checkpoint(out, config.keep_checkpoints, model, optimizer, order, update, tokens)
                saved = update
            if stop is not None and update < updates:
                raise TrainingStopped(
                    f"the checkpoint of update {update} is in {out}; it can be evaluated, and --resume goes on from it",
                    stop,
                )
    return model.eval()


def _find_checkpoint(out: Path, description: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to go on from; None for a run that begins.

    Raises:
        InputError: if ``out`` is there and not to be resumed, or is no run, or one of another config or other data.
    """
    if not os.path.lexists(out):
        return None
    if not resume:
        raise InputError(f"{out} exists already; choose another directory, delete it, or go on from it with --resume")
    try:
        there = json.loads((out / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{out} is no run that could be resumed (its config.json cannot be read)") from error
    now = _flat(description)
    fields = [
        f"{name} ({value} there, {now.get(name)} now)"
        for name, value in _flat(there).items()
        if name not in ("data", "device", "hardware", "versions") and value != now.get(name)
    ]
    if fields:
        raise InputError(
            f"{out} was made with other settings: {', '.join(fields)}; resume it with those it was made with"
        )
    checkpoints = sorted((out / "checkpoints").glob("update-*"))
    return checkpoints[-1] if checkpoints else None


def _machine(device: torch.device) -> dict[str, Any]:
    """What a run was made with."""
    names = ("torch", "numpy", "ale-py")
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}},
        "hardware": {
            "cpu": models[0] if models else platform.machine(),
            "cores": available_cores(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
    }


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """All fields of a run's description by name, as they are in JSON."""
    fields = json.loads(json.dumps(description))
    return {**fields, **fields.pop("model"), **fields.pop("training")}


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


@contextmanager
def _run_directory(out: Path) -> Iterator[None]:
    """Make and hold the directory of a run; remove it again if the run fails before its first checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "training in"):
        for left in (out / "checkpoints").glob(".*"):  # of a killed command
            shutil.rmtree(left)
        try:
            yield
        except BaseException:
            if not any(out.glob("checkpoints/update-*")):
                shutil.rmtree(out, ignore_errors=True)
            raise


class _Interruption:
    """While it is open, the first Ctrl-C or SIGTERM is only noted, so that no update is cut in half."""

    def __enter__(self) -> _Interruption:
        self.number: int | None = None
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.number is not None and kind is None:  # it came after the last update, and is not to be lost
            raise TrainingStopped("the training has just ended, and its last checkpoint can be evaluated", self.number)


class _Metrics:
    """Numbers of each update, kept on the device and read once a line, so that no update waits for a number.

    Args:
        out: the run; of the lines that are there, those up to ``update`` are kept.
        update: that the run goes on from.
    """

    def __init__(self, out: Path, update: int):
        path = out / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if update else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["update"] <= update]
        write_whole(path, "".join(kept))
        if not update:
            shutil.rmtree(out / "tensorboard", ignore_errors=True)
        self._writer = SummaryWriter(out / "tensorboard", purge_step=update + 1 if update else None)
        self._file = path.open("a")
        self._update = update
        self._reset()

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.close()

    def _reset(self) -> None:
        self._values: list[torch.Tensor] = []
        self._batches: list[npt.NDArray[np.int64]] = []
        self._since = time.perf_counter()

    def add(
        self, steps: npt.NDArray[np.int64], loss: torch.Tensor, accuracy: torch.Tensor, grad_norm: torch.Tensor
    ) -> None:
        """Add an update and the steps of its batch."""
        self._values.append(torch.stack([loss, accuracy, grad_norm]))
        self._batches.append(steps)

    def means(self) -> tuple[dict[str, float], str | None]:
        """Return the means since the last line, and what was first not finite, if anything; begin a new line."""
        values = torch.stack(self._values).double().cpu()
        finite = values.isfinite().all(dim=1)
        bad = None
        if not finite.all():
            index = int(finite.int().argmin())
            steps = self._batches[index]
            bad = (
                f"the loss or its gradient is no longer finite at update {self._update + index + 1} (its contexts "
                f"start at the dataset's steps {', '.join(map(str, steps[:8]))}{' …' if len(steps) > 8 else ''})"
            )
        loss, accuracy, grad_norm = values.mean(dim=0).tolist()
        speed = sum(map(len, self._batches)) / (time.perf_counter() - self._since)
        self._update += len(self._values)
        self._reset()
        return {"loss": loss, "action_accuracy": accuracy, "grad_norm": grad_norm, "contexts_per_s": speed}, bad

    def write(self, update: int, values: dict[str, float]) -> None:
        """Write a line."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)
        self._file.write(json.dumps({"update": update, **values}) + "\n")
        self._file.flush()
