"""The training loop."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from atari_dt.batches.loader import BatchLoader
from atari_dt.batches.sampler import BatchSampler
from atari_dt.config import TrainingConfig, describe_differences
from atari_dt.hardware import Compute, set_up_compute, translate_compile_errors, translate_out_of_memory
from atari_dt.interrupts import EndedByTorchrun
from atari_dt.method_config import MethodConfig
from atari_dt.methods.registry import find_method
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import PretrainedModel, checkpoint_updates
from atari_dt.training.checkpoint import GeneratorState, read_checkpoint, save_checkpoint
from atari_dt.training.distributed import ProcessGroup, ProcessLostError, SharedError, process_group
from atari_dt.training.interruption import Interruption, TrainingStopped
from atari_dt.training.learner import Learner, flops_per_window
from atari_dt.training.metrics import MetricsLine, MetricsLogger
from atari_dt.training.optimizer import learning_rate_schedule
from atari_dt.training.run_directory import (
    SavedRun,
    check_same_experiment,
    find_checkpoint,
    find_saved_run,
    run_directory,
)
from atari_dt.training.training_run import TrainingRun, arithmetic, find_hardware, installed_versions
from atari_dt.training.windows import training_windows
from replay_data import InputError, TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.progress import ProgressBar


def train(
    store: TrajectoryStore,
    out: Path,
    method_config: MethodConfig,
    config: TrainingConfig,
    resume: bool = False,
    show_progress: bool = True,
) -> PretrainedModel:
    """Train a model on a store.

    The run writes into ``out``: ``config.json`` (see `TrainingRun`), ``metrics.jsonl`` (see `MetricsLine`), the same
    metrics for TensorBoard, and ``checkpoints/update-…``, the last ``keep_checkpoints`` of them. A run that fails
    before its first checkpoint leaves nothing.

    Under ``torchrun``, on one machine or many, each process trains on its shard of every batch, and the gradients are
    averaged. Batches, schedule and losses are those of one process, dropout aside. Each machine reads its own store;
    process 0 alone reads and writes ``out``.

    Args:
        store: Data.
        out: Directory of the run, which must not exist unless ``resume`` is set.
        method_config: Config of the method and its network.
        config: Config of the training; ``batch_size`` counts the windows of all processes together.
        resume: Whether to continue from the last checkpoint in ``out``, if there is one. On a CPU, one or two processes
            on one machine get the same weights, bit for bit, as a run that never stopped; three or more add gradients
            in an order that depends on when each process started. The precision, the device, the number of processes,
            ``compile``, the machine and the package versions may change; the batches stay the same, but not the last
            digits, and one line on standard error says so. With ``auto``, the precision of the run is kept.
        show_progress: Whether to show a progress bar on standard error.

    Returns:
        The trained model, in evaluation mode, on the device it was trained on.

    Raises:
        InputError: If ``out`` exists (or, with ``resume``, holds a run with other settings or data), the frames are
            damaged, the batch is larger than the dataset, the device does not exist, is out of memory or does not
            support the precision of the resumed run, or a process ends or does not answer.
        FloatingPointError: If the loss, its gradient or the weights are no longer finite. A checkpoint never holds such
            weights.
        OSError: If a file cannot be written.
        TrainingStopped: On Ctrl-C or SIGTERM, after the current update and with a checkpoint.
        KeyboardInterrupt: On Ctrl-C or SIGTERM before the first update.
    """
    try:
        return _train_in_group(store, out, method_config, config, resume, show_progress)
    except (ProcessLostError, EndedByTorchrun) as error:
        checkpoint = find_checkpoint(out)
        update = "the last checkpoint, if there is one"
        if checkpoint is not None:
            update = f"update {checkpoint_updates(checkpoint)}"
        raise type(error)(f"{error}; `resume` continues from {update}") from error


def _train_in_group(
    store: TrajectoryStore,
    out: Path,
    method_config: MethodConfig,
    config: TrainingConfig,
    resume: bool,
    show_progress: bool,
) -> PretrainedModel:
    """Train in one process, or as one of the processes that ``torchrun`` started."""
    with process_group() as group:
        if group.size > 1 and ":" in config.device:
            raise InputError(
                f"several processes cannot share {config.device}; set `device` to cuda, and each one uses its own GPU"
            )
        saved = group.broadcast_object(lambda: find_saved_run(out, resume))
        compute = set_up_compute(config.device, config.precision, config.compile, group.local_rank)
        if config.precision == "auto" and saved is not None and saved.checkpoint is not None:
            compute = _keep_precision(compute, saved.run.dtype, out, group)
        advice = method_config.describe_sizes(config.batch_size)
        with translate_out_of_memory(compute.device, advice), translate_compile_errors():
            return _train(store, out, method_config, config, saved, show_progress, compute, group)


def _keep_precision(compute: Compute, dtype: str, out: Path, group: ProcessGroup) -> Compute:
    """Return ``compute`` with the precision of the run that resumes.

    Args:
        compute: Compute with the best precision of this machine.
        dtype: Name of the type in which the run was trained so far.
        out: Directory of the run.
        group: Processes that train together.

    Raises:
        SharedError: If the machine of one of the processes does not support the precision.
    """
    if not all(group.all_gather(dtype in ("float32", _name(compute.dtype)))):
        raise SharedError(
            f"{out} was trained in {dtype}, which the {compute.device.type.upper()} here does not support; set "
            "`precision` to fp32 to continue in float32 (the result is then no longer bit for bit that of an "
            "uninterrupted run), or to bf16 to continue in bfloat16 more slowly"
        )
    return dataclasses.replace(compute, dtype=getattr(torch, dtype))


def _name(dtype: torch.dtype) -> str:
    """Return the name of a type without its module, such as ``"bfloat16"``."""
    return str(dtype).removeprefix("torch.")


def _train(
    store: TrajectoryStore,
    out: Path,
    method_config: MethodConfig,
    config: TrainingConfig,
    saved: SavedRun | None,
    show_progress: bool,
    compute: Compute,
    group: ProcessGroup,
) -> PretrainedModel:
    """Train in one process of a group."""
    try:
        windows, validation_windows = training_windows(store, method_config, config)
    except InputError as error:
        raise SharedError(str(error)) from error
    run = TrainingRun(
        data=str(store.path.resolve()),
        data_digest=store.digest,
        dtype=_name(compute.dtype),
        device=str(compute.device),
        processes=group.size,
        model=method_config,
        training=config,
        versions=installed_versions(),
        hardware=find_hardware(compute.device),
        compiled=compute.compiled,
    )
    settings = group.all_gather((run.data_digest, run.dtype, run.model, run.training))
    if any(each != settings[0] for each in settings):
        raise SharedError(
            "the processes of this run differ in options, data or precision; start all with the same options and data, "
            "and set `precision` to fp32 if only some of the machines support bfloat16"
        )
    if saved is not None:
        group.broadcast_object(lambda: check_same_experiment(out, saved.run, run))
    store.verify()

    torch.manual_seed(config.seed)
    method = find_method(method_config)
    model = method.make_network(method_config, store).to(compute.device)
    model.dataset = DatasetInfo.from_store(store)
    model.training_config = config
    if group.rank:
        torch.manual_seed(config.seed + group.rank)  # each process draws its own dropout
    learner = Learner(model, config, compute, group)
    sampler = BatchSampler(windows, config.batch_size, config.seed)
    loader = method.make_loader(method_config, store, compute.device)
    window_length = method.window_length(method_config)
    num_updates = min(config.epochs * sampler.updates_per_epoch, config.max_updates or sys.maxsize)
    schedule = learning_rate_schedule(config, window_length, len(windows), num_updates)
    flops = flops_per_window(method_config, store.num_actions, model.observation)
    tokens = update = last_checkpoint = 0
    if saved is not None and (path := saved.checkpoint) is not None:
        checkpoint = group.broadcast_object(lambda: read_checkpoint(path, model))
        checkpoint.restore(learner, config.seed, group.rank)
        tokens, update, last_checkpoint = checkpoint.tokens, checkpoint.update, checkpoint.update
        run = _continue_history(run, saved.run, update, group) if update < num_updates else saved.run

    with (
        run_directory(out, run) if group.rank == 0 else nullcontext(),
        Interruption() as interruption,
        MetricsLogger(out, learner.metrics, update, flops, compute, group) as metrics,
        ProgressBar(
            total=num_updates,
            initial=update,
            unit="update",
            desc="training",
            disable=not show_progress or group.rank > 0,
        ) as bar,
    ):
        shards = (group.shard(sampler.batch(index)) for index in range(update, num_updates))
        for batch in loader.batches(shards):
            steps = sampler.batch(update)
            tokens += len(steps) * window_length
            rate = config.learning_rate * schedule(tokens)
            metrics.add(steps, learner.update(batch, update, rate, group.weight(steps, loader.num_steps)))
            update += 1
            bar.update()
            # Read once per update, so that all processes and all lines below agree on it.
            signum = group.all_reduce_max(interruption.signum)
            planned = update % config.checkpoint_every == 0 or update == num_updates
            saving = planned or signum > 0
            if update % config.log_every == 0 or saving:
                line = _next_line(metrics, tokens, rate, model if saving else None, last_checkpoint)
                if planned and len(validation_windows):
                    loss, accuracy = _validate(learner, loader, validation_windows, config.batch_size, group)
                    line = dataclasses.replace(line, validation_loss=loss, validation_accuracy=accuracy)
                metrics.write(line)
                bar.set_postfix(loss=f"{line.loss:.3f}", accuracy=f"{line.action_accuracy:.3f}")
            if saving:
                generators = group.all_gather(GeneratorState.current(compute.device))
                if group.rank == 0:
                    save_checkpoint(out, config, learner, generators, update, tokens)
                last_checkpoint = update
                metrics.restart_clock()
            if signum and update < num_updates:
                raise TrainingStopped(
                    f"the checkpoint of update {update} is in {out}; evaluate it, or continue from it with `resume`",
                    signum,
                )
    return model.eval()


def _continue_history(run: TrainingRun, saved: TrainingRun, update: int, group: ProcessGroup) -> TrainingRun:
    """Return a run with the history of the saved run that it continues, and say if the arithmetic changes.

    Args:
        run: The run, without a history.
        saved: The saved run.
        update: Number of updates of the saved run that the run builds on.
        group: Processes that train together.
    """
    *earlier, last = saved.segments(update)
    changes = describe_differences(arithmetic(last), arithmetic(run))
    if not changes:
        return dataclasses.replace(run, history=tuple(earlier))
    if group.rank == 0:
        print(
            f"continuing from update {update} with other arithmetic: {changes}; the result is no longer bit for bit "
            "that of an uninterrupted run",
            file=sys.stderr,
        )
    return dataclasses.replace(run, history=(*earlier, last))


def _next_line(
    metrics: MetricsLogger, tokens: int, rate: float, saved_model: PretrainedModel | None, last_checkpoint: int
) -> MetricsLine:
    """Return the next line of metrics.

    Raises:
        FloatingPointError: If the loss, a gradient or a weight of the model about to be saved is not finite.
    """
    try:
        line = metrics.next_line(tokens, rate)
        if saved_model is not None and not all(p.isfinite().all() for p in saved_model.parameters()):
            raise FloatingPointError(f"the weights are no longer finite at update {line.update}")
        return line
    except FloatingPointError as error:
        usable = f"the checkpoint of update {last_checkpoint} is" if last_checkpoint else "there is no checkpoint"
        raise FloatingPointError(f"{error}; lower `learning_rate` ({usable} left to use)") from error


def _validate(
    learner: Learner, loader: BatchLoader[Any], windows: IntArray, batch_size: int, group: ProcessGroup
) -> tuple[float, float]:
    """Return validation loss and action accuracy over windows; each process computes its share of them."""
    shard = windows[group.rank :: group.size]
    batches = [shard[i : i + batch_size] for i in range(0, len(shard), batch_size)]
    total = torch.zeros(3, dtype=torch.float64)
    for steps, batch in zip(batches, loader.batches(batches), strict=True):
        num_steps = loader.num_steps(steps)
        total += torch.cat([learner.validate(batch).double().cpu() * num_steps, torch.tensor([num_steps])])
    loss, correct, num_steps = group.all_reduce_sum(total).tolist()
    return loss / num_steps, correct / num_steps
