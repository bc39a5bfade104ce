"""The training loop."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.devices import enough_memory, find_device, find_precision, matmul_peak
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.training.batches import ContextLoader, ContextOrder
from atari_dt.training.checkpoint import generator_state, read_checkpoint, restore, save_checkpoint
from atari_dt.training.distributed import Ranks, process_group, shared
from atari_dt.training.learner import Learner, compiler_sentence, flops_per_context
from atari_dt.training.optimizer import learning_rate_multiplier
from replay_data import InputError, TrajectoryStore, best_episodes, hold_out, window_starts
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

    Writes to ``out``: ``config.json`` (both configs, the store's digest, versions, hardware), ``metrics.jsonl`` (see
    `_Metrics`), the same for TensorBoard, and ``checkpoints/update-…``, the last ``keep_checkpoints`` of them.

    Under ``torchrun``, on one machine or many, every process trains on its own part of each batch, and the gradients
    are averaged: the same batches, schedule and losses as in one process, dropout aside. Each machine reads its own
    store; process 0 alone reads and writes ``out``.

    Args:
        store: the data.
        out: directory of the run, to be created.
        model_config: the network.
        config: how it is trained; ``batch_size`` is that of all processes together.
        resume: go on from the last checkpoint in ``out``, if there is one. On one machine's CPU the weights become, bit
            for bit, those of a run that never stopped, in one process or two; more add gradients in an order that
            depends on when they began.
        show_progress: a progress bar in updates/s on standard error.

    Returns:
        The trained model, in evaluation mode, on the device it was trained on.

    Raises:
        InputError: if ``out`` exists (or, to be resumed, is a run of another config or data), the frames are damaged,
            the batch is larger than the dataset, the device is not there or out of memory, or a process is lost.
        FloatingPointError: if the loss, its gradient or the weights are no longer finite; checkpoints never have such
            weights.
        OSError: if something cannot be written.
        TrainingStopped: on Ctrl-C or SIGTERM, after the update under way and with a checkpoint.

    A run that fails before its first checkpoint leaves nothing.
    """
    with process_group() as ranks:
        if ranks.size > 1 and ":" in config.device:
            raise InputError(f"several processes cannot share {config.device}; use --device cuda, and each has its own")
        device = find_device(config.device, ranks.local_rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        sizes = f"batch_size ({config.batch_size}), context_length ({model_config.context_length})"
        with enough_memory(device, f"{sizes} or embed_dim ({model_config.embed_dim})"), compiler_sentence():
            return _train(store, out, model_config, config, resume, show_progress, ranks, device)


def _train(
    store: TrajectoryStore,
    out: Path,
    model_config: ModelConfig,
    config: TrainingConfig,
    resume: bool,
    show_progress: bool,
    ranks: Ranks,
    device: torch.device,
) -> DecisionTransformer:
    try:
        windows, validation_windows = training_windows(store, model_config, config)
    except InputError as error:
        raise shared(error) from error
    dtype = find_precision(config.precision, device)
    description = {
        "data": str(store.path.resolve()),
        "data_digest": store.digest,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "processes": ranks.size,
        "model": dataclasses.asdict(model_config),
        "training": dataclasses.asdict(config),
        **_machine(device),
    }
    settings = ranks.gather((store.digest, model_config, config, dtype))
    if any(other != settings[0] for other in settings):
        raise shared(
            InputError("the processes of this run differ in their options, data or arithmetic; start all alike")
        )
    checkpoint = ranks.from_first(lambda: _find_checkpoint(out, description, resume))
    store.verify()

    torch.manual_seed(config.seed)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    model.dataset = DatasetInfo.of(store)
    model.training_config = dataclasses.asdict(config)
    if ranks.rank:
        torch.manual_seed(config.seed + ranks.rank)  # of its own dropout
    learner = Learner(model, config, dtype, ranks)
    order = ContextOrder(windows, config.batch_size, config.seed)
    loader = ContextLoader(store, model_config.context_length, device)
    updates = min(config.epochs * order.updates_per_epoch, config.max_updates or sys.maxsize)
    final_tokens = config.final_tokens or 2 * len(windows) * 3 * model_config.context_length
    tokens = update = saved = 0
    if checkpoint is not None:
        state = ranks.from_first(lambda: read_checkpoint(checkpoint, model))
        update, tokens = restore(state, model, learner.optimizer, ranks.rank)
        saved = update

    with (
        _run_directory(out, description) if ranks.rank == 0 else nullcontext(),
        _Interruption() as interruption,
        _Metrics(out, update, ranks, flops_per_context(model_config, store.num_actions), device, dtype) as metrics,
        tqdm(
            total=updates,
            initial=update,
            unit="update",
            desc="training",
            mininterval=0.5,
            disable=not show_progress or ranks.rank > 0,
        ) as bar,
    ):
        parts = (ranks.part(order.batch(number)) for number in range(update, updates))
        for batch in loader.batches(parts):
            steps = order.batch(update)
            tokens += len(steps) * model_config.context_length
            rate = config.learning_rate * learning_rate_multiplier(tokens, config.warmup_tokens, final_tokens)
            metrics.add(steps, learner.update(batch, rate, ranks.share(steps, loader.num_steps)))
            update += 1
            bar.update()
            stop = ranks.largest(interruption.number)  # read once: what is saved and what is said must agree
            planned = update % config.checkpoint_every == 0 or update == updates
            saving = planned or stop > 0
            if update % config.log_every == 0 or saving:
                values, bad = metrics.means()
                if bad is None and saving and not all(p.isfinite().all() for p in model.parameters()):
                    bad = f"the weights are no longer finite at update {update}"
                if bad is not None:
                    raise FloatingPointError(
                        f"{bad}; lower the learning rate "
                        f"({f'update {saved} is' if saved else 'there is no checkpoint'} left to use)"
                    )
                if planned and len(validation_windows):
                    values |= _validate(learner, loader, validation_windows, config.batch_size, ranks)
                metrics.write(update, {"tokens": tokens, "learning_rate": rate, **values})
                bar.set_postfix(loss=f"{values['loss']:.3f}", accuracy=f"{values['action_accuracy']:.3f}")
            if saving:
                generators = ranks.gather(generator_state(device))
                if ranks.rank == 0:
                    save_checkpoint(out, config.keep_checkpoints, model, learner.optimizer, generators, update, tokens)
                saved = update
                metrics.restart_clock()
            if stop and update < updates:
                raise TrainingStopped(
                    f"the checkpoint of update {update} is in {out}; it can be evaluated, and --resume goes on from it",
                    stop,
                )
    return model.eval()


def training_windows(
    store: TrajectoryStore, model_config: ModelConfig, config: TrainingConfig
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The steps that stand for the windows to train on, one for each step, and for those to validate on, the fewest.

    Raises:
        InputError: if too few are left for a batch.
    """
    fraction, num_episodes = config.validation_fraction, store.num_episodes
    held_out = hold_out(num_episodes, fraction, config.seed) if fraction else np.zeros(num_episodes, dtype=np.bool_)
    trained = best_episodes(~held_out, store.episode_returns, store.episode_ends, config.top_percent)
    windows = window_starts(trained, store.episode_ends)
    if config.batch_size > len(windows):
        message = f"a batch of {config.batch_size} contexts is larger than the dataset of {len(windows)} steps"
        raise InputError(f"{message}; lower batch_size")
    return windows, window_starts(held_out, store.episode_ends, stride=model_config.context_length)


def _validate(
    learner: Learner, loader: ContextLoader, windows: npt.NDArray[np.int64], batch_size: int, ranks: Ranks
) -> dict[str, float]:
    """Mean cross-entropy and action accuracy over windows, each process doing its part of them."""
    mine = windows[ranks.rank :: ranks.size]
    parts = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    total = torch.zeros(3, dtype=torch.float64)
    for part, batch in zip(parts, loader.batches(parts), strict=True):
        number = loader.num_steps(part)
        total += torch.cat([learner.validate(batch).double().cpu() * number, torch.tensor([number])])
    loss, right, number = ranks.sum(total).tolist()
    return {"validation_loss": loss / number, "validation_accuracy": right / number}


def _find_checkpoint(out: Path, description: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to go on from; None for a run that begins.

    Raises:
        InputError: if ``out`` is there and not to be resumed, or is no run, or one of another config or other data.
    """
    if not os.path.lexists(out):
        return None
    if not resume:
        raise InputError(f"{out} exists already; choose another directory, delete it, or go on from it with --resume")
    if out.is_dir() and all(entry.name.startswith(".config.json.partial-") for entry in out.iterdir()):
        return None  # it was killed before it had written anything
    try:
        # What a run of an earlier version does not name, it did as the defaults do.
        usual = {**dataclasses.asdict(ModelConfig()), **dataclasses.asdict(TrainingConfig())}
        there = json.loads(json.dumps(usual)) | _flat(json.loads((out / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out} is no run that could be resumed (its config.json cannot be read)") from error
    now = _flat(json.loads(json.dumps(description)))
    fields = [
        f"{name} ({there.get(name)} there, {now.get(name)} now)"
        for name in {**there, **now}
        if name not in ("data", "device", "hardware", "versions") and there.get(name) != now.get(name)
    ]
    if fields:
        raise InputError(
            f"{out} was made with other settings: {', '.join(fields)}; resume it with those it was made with"
        )
    checkpoints = sorted((out / "checkpoints").glob("update-*"))
    return checkpoints[-1] if checkpoints else None


def _machine(device: torch.device) -> dict[str, Any]:
    """What a run was made with."""
    names = ("atari-dt", "torch", "numpy", "ale-py")
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
    """All fields of a run's description by name."""
    model, training = description.pop("model"), description.pop("training")
    return {**model, **training, **description}


@contextmanager
def _run_directory(out: Path, description: dict[str, Any]) -> Iterator[None]:
    """Make and hold the directory of a run; remove it again if the run fails before its first checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "training in"):
        for left in (out / "checkpoints").glob(".update-*"):  # of a killed command
            shutil.rmtree(left)
        try:
            write_whole(out / "config.json", json.dumps(description, indent=2) + "\n")
            yield
        except BaseException:
            if not any(out.glob("checkpoints/update-*")):
                for name in ("checkpoints", "tensorboard"):
                    shutil.rmtree(out / name, ignore_errors=True)
                for name in ("config.json", "metrics.jsonl"):
                    (out / name).unlink(missing_ok=True)
                with suppress(OSError):  # somebody else's files are in it
                    out.rmdir()
            raise


class _Interruption:
    """While it is open, the first Ctrl-C or SIGTERM is only noted, so that no update is cut in half.

    A second one interrupts at once, unless it follows within a second: torchrun passes on to its processes what the
    terminal has told them already.
    """

    def __enter__(self) -> _Interruption:
        self.number, self._since = 0, 0.0
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python delivers no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt
        self.number, self._since = number, time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.number and kind is None:  # it came after the last update, and is not to be lost
            raise TrainingStopped("the training has just ended, and its last checkpoint can be evaluated", self.number)


def _update_of(line: bytes) -> int:
    """The update of a line of ``metrics.jsonl``; 0 if it is damaged or cut off."""
    try:
        return int(json.loads(line)["update"]) if line.endswith(b"\n") else 0
    except (ValueError, KeyError, TypeError):
        return 0


class _Metrics:
    """Numbers of each update, kept on the device and read once a line, so that no update waits for a number.

    A line of ``metrics.jsonl``, and of TensorBoard, has the ``update`` that it was written after, the ``tokens`` seen
    and the ``learning_rate`` of that update; since the line before, means of ``loss`` (nats), ``action_accuracy`` and
    ``grad_norm``, ``contexts_per_s``, and ``mfu``, the model's FLOP/s as a fraction of what a large matrix product
    reaches on this machine; and at checkpoints of a run that holds episodes out, ``validation_loss`` and
    ``validation_accuracy``.

    Args:
        out: the run; of the lines that are there, those up to ``update`` are kept.
        update: that the run goes on from.
        ranks: the processes; the first one writes.
        flops: of an update for one context.
        device, dtype: of the forward pass.
    """

    def __init__(self, out: Path, update: int, ranks: Ranks, flops: int, device: torch.device, dtype: torch.dtype):
        self._update, self._ranks, self._flops = update, ranks, flops
        self._peak = ranks.size * matmul_peak(device, dtype)
        self._files = ExitStack()
        if ranks.rank == 0:
            path = out / "metrics.jsonl"
            lines = path.read_bytes().splitlines(keepends=True) if update and path.exists() else []
            kept = [line for line in lines if 0 < _update_of(line) <= update]
            write_whole(path, b"".join(kept))
            if not update:
                shutil.rmtree(out / "tensorboard", ignore_errors=True)
            purge_step = update + 1 if update else None
            self._writer = SummaryWriter(out / "tensorboard", purge_step=purge_step)
            self._files.callback(self._writer.close)
            self._file = self._files.enter_context(path.open("a"))
        self._reset()

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _reset(self) -> None:
        self._values: list[torch.Tensor] = []
        self._batches: list[npt.NDArray[np.int64]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what was done until now, a checkpoint or a validation, out of the next line's speed."""
        self._since = time.perf_counter()

    def add(self, steps: npt.NDArray[np.int64], values: torch.Tensor) -> None:
        """Add an update: the steps of its batch, and what `Learner.update` returned."""
        self._values.append(values)
        self._batches.append(steps)

    def means(self) -> tuple[dict[str, float], str | None]:
        """Return the means since the last line, and what was first not finite, if anything; begin a new line."""
        values = self._ranks.sum(torch.stack(self._values).double().cpu())
        values[:, 2] /= self._ranks.size  # the norm of the averaged gradient is the same in every process
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
        means = {"loss": loss, "action_accuracy": accuracy, "grad_norm": grad_norm}
        return {**means, "contexts_per_s": speed, "mfu": speed * self._flops / self._peak}, bad

    def write(self, update: int, values: dict[str, float]) -> None:
        """Write a line."""
        if self._ranks.rank:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)
        self._file.write(json.dumps({"update": update, **values}) + "\n")
        self._file.flush()
