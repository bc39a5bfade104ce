"""The training loop."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.hardware import find_device, find_precision, translate_compile_errors, translate_out_of_memory
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.training.batches import ContextLoader, ContextSampler
from atari_dt.training.checkpoint import generator_state, read_checkpoint, restore, save_checkpoint
from atari_dt.training.distributed import ProcessGroup, process_group, shared
from atari_dt.training.interruption import Interruption, TrainingStopped
from atari_dt.training.learner import Learner, flops_per_context
from atari_dt.training.metrics import Metrics
from atari_dt.training.optimizer import learning_rate_multiplier
from atari_dt.training.run_directory import describe_machine, find_checkpoint, run_directory
from replay_data import InputError, TrajectoryStore, best_episodes, hold_out, window_starts
from replay_data.progress import ProgressBar


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
    `Metrics`), the same for TensorBoard, and ``checkpoints/update-…``, the last ``keep_checkpoints`` of them.

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
    with process_group() as processes:
        if processes.size > 1 and ":" in config.device:
            raise InputError(f"several processes cannot share {config.device}; use --device cuda, and each has its own")
        device = find_device(config.device, processes.local_rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        sizes = f"batch_size ({config.batch_size}), context_length ({model_config.context_length})"
        with (
            translate_out_of_memory(device, f"{sizes} or embed_dim ({model_config.embed_dim})"),
            translate_compile_errors(),
        ):
            return _train(store, out, model_config, config, resume, show_progress, processes, device)


def _train(
    store: TrajectoryStore,
    out: Path,
    model_config: ModelConfig,
    config: TrainingConfig,
    resume: bool,
    show_progress: bool,
    processes: ProcessGroup,
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
        "processes": processes.size,
        "model": dataclasses.asdict(model_config),
        "training": dataclasses.asdict(config),
        **describe_machine(device),
    }
    settings = processes.all_gather((store.digest, model_config, config, dtype))
    if any(other != settings[0] for other in settings):
        raise shared(
            InputError("the processes of this run differ in their options, data or arithmetic; start all alike")
        )
    checkpoint = processes.broadcast_object(lambda: find_checkpoint(out, description, resume))
    store.verify()

    torch.manual_seed(config.seed)
    model = DecisionTransformer(model_config, store.num_actions, int(store.timesteps.max())).to(device)
    model.dataset = DatasetInfo.from_store(store)
    model.training_config = config
    if processes.rank:
        torch.manual_seed(config.seed + processes.rank)  # of its own dropout
    learner = Learner(model, config, dtype, processes)
    order = ContextSampler(windows, config.batch_size, config.seed)
    loader = ContextLoader(store, model_config.context_length, device)
    updates = min(config.epochs * order.updates_per_epoch, config.max_updates or sys.maxsize)
    final_tokens = config.final_tokens or 2 * len(windows) * 3 * model_config.context_length
    tokens = update = saved = 0
    if checkpoint is not None:
        state = processes.broadcast_object(lambda: read_checkpoint(checkpoint, model))
        update, tokens = restore(state, model, learner.optimizer, processes.rank)
        saved = update

    with (
        run_directory(out, description) if processes.rank == 0 else nullcontext(),
        Interruption() as interruption,
        Metrics(out, update, processes, flops_per_context(model_config, store.num_actions), device, dtype) as metrics,
        ProgressBar(
            total=updates,
            initial=update,
            unit="update",
            desc="training",
            disable=not show_progress or processes.rank > 0,
        ) as bar,
    ):
        parts = (processes.shard(order.batch(number)) for number in range(update, updates))
        for batch in loader.batches(parts):
            steps = order.batch(update)
            tokens += len(steps) * model_config.context_length
            rate = config.learning_rate * learning_rate_multiplier(tokens, config.warmup_tokens, final_tokens)
            metrics.add(steps, learner.update(batch, rate, processes.weight(steps, loader.num_steps)))
            update += 1
            bar.update()
            stop = processes.all_reduce_max(interruption.number)  # read once: what is saved and what is said must agree
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
                    values |= _validate(learner, loader, validation_windows, config.batch_size, processes)
                metrics.write(update, {"tokens": tokens, "learning_rate": rate, **values})
                bar.set_postfix(loss=f"{values['loss']:.3f}", accuracy=f"{values['action_accuracy']:.3f}")
            if saving:
                generators = processes.all_gather(generator_state(device))
                if processes.rank == 0:
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
    learner: Learner, loader: ContextLoader, windows: npt.NDArray[np.int64], batch_size: int, processes: ProcessGroup
) -> dict[str, float]:
    """Mean cross-entropy and action accuracy over windows, each process doing its part of them."""
    mine = windows[processes.rank :: processes.size]
    parts = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    total = torch.zeros(3, dtype=torch.float64)
    for part, batch in zip(parts, loader.batches(parts), strict=True):
        number = loader.num_steps(part)
        total += torch.cat([learner.validate(batch).double().cpu() * number, torch.tensor([number])])
    loss, right, number = processes.all_reduce_sum(total).tolist()
    return {"validation_loss": loss / number, "validation_accuracy": right / number}
