"""The time of an update for each context length, by which the runs of an ablation train for equally long."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atari_dt.batches.sampler import BatchSampler
from atari_dt.config import ModelConfig, TrainingConfig, describe_differences
from atari_dt.experiments.run_config import RunConfig
from atari_dt.hardware import Compute, set_up_compute, synchronize, translate_compile_errors, translate_out_of_memory
from atari_dt.methods.registry import find_method
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from atari_dt.training.training_run import Hardware, find_hardware
from atari_dt.training.windows import training_windows
from replay_data import InputError, TrajectoryStore
from replay_data.contexts import IntArray
from replay_data.json_fields import read_versioned_dataclass
from replay_data.progress import ProgressBar
from replay_data.storage.regular_files import read_json_as

FILE_NAME = "update_times.json"
"""File of a sweep's directory with the times of updates."""

FORMAT_VERSION = 1

ROUNDS = 5
"""Number of measurements of each context length; their median is its time."""

SECONDS = 0.5
"""Shortest duration of a measurement, in seconds; it consists of whole updates."""


@dataclass(frozen=True)
class UpdateTime:
    """The time of an update for one context length.

    Attributes:
        context_length: Context length K, in steps.
        seconds: Median time of an update, in seconds.
        reference_seconds: Median time of an update of the reference, measured in turns with this context length.
    """

    context_length: int
    seconds: float
    reference_seconds: float

    def __post_init__(self) -> None:
        for name in ("context_length", "seconds", "reference_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be positive")


@dataclass(frozen=True)
class UpdateTimes:
    """The content of ``update_times.json``.

    Attributes:
        model: Network of the reference, with the reference's context length.
        batch_size: Contexts per update.
        threads: Number of PyTorch threads on a CPU.
        dtype: Name of the forward pass's type, such as ``"float32"``.
        hardware: Machine of the measurement.
        times: A time for each context length, the reference's among them.
    """

    model: ModelConfig
    batch_size: int
    threads: int
    dtype: str
    hardware: Hardware
    times: tuple[UpdateTime, ...]

    def equal_updates(self, context_length: int, reference_updates: int) -> int:
        """Return the number of updates that take as long as a number of updates of the reference; at least 1.

        Raises:
            KeyError: If the context length was not measured.
        """
        time = {each.context_length: each for each in self.times}[context_length]
        return max(1, round(reference_updates * time.reference_seconds / time.seconds))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "model": self.model.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> UpdateTimes:
        """Read a JSON object that `to_json` returned.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        return read_versioned_dataclass(content, cls, FORMAT_VERSION)


def read_update_times(out: Path) -> UpdateTimes | None:
    """Read the ``update_times.json`` of a sweep's directory; return None if there is none.

    Raises:
        InputError: If the file cannot be read.
    """
    if not (path := out / FILE_NAME).exists():
        return None
    return read_json_as(path, UpdateTimes.from_json, "restore the file, or choose another `out`")


def find_update_times(
    store: TrajectoryStore, base: RunConfig, context_lengths: Sequence[int], out: Path, show_progress: bool = True
) -> UpdateTimes:
    """Return the times of a sweep's ``update_times.json``, and measure the context lengths that it lacks.

    Each measurement includes the reference, so that times of several measurements can be compared.

    Args:
        store: Data of the runs.
        base: Config of the reference.
        context_lengths: Context lengths K, in steps.
        out: Directory of the sweep. Nothing is written.
        show_progress: Whether to show a progress bar on standard error.

    Raises:
        InputError: If the file is of another reference, or as in `measure_update_times`.
    """
    reference = base.model
    assert isinstance(reference, ModelConfig)
    saved = read_update_times(out)
    if saved is not None:
        before = {**saved.model.to_json(), "batch_size": saved.batch_size}
        now = {**reference.to_json(), "batch_size": base.training.batch_size}
        if differences := describe_differences(before, now):
            raise InputError(
                f"{out / FILE_NAME} was measured with other settings: {differences}; use those, or choose another `out`"
            )
    known = {} if saved is None else {each.context_length: each for each in saved.times}
    missing = [length for length in {reference.context_length, *context_lengths} if length not in known]
    if saved is not None and not missing:
        return saved
    compute = set_up_compute(base.training.device, base.training.precision, base.training.compile)
    lengths = sorted({reference.context_length, *missing})
    seconds = measure_update_times(store, base, lengths, compute, show_progress)
    known |= {length: UpdateTime(length, seconds[length], seconds[reference.context_length]) for length in missing}
    times = tuple(known[length] for length in sorted(known))
    if saved is not None:
        return dataclasses.replace(saved, times=times)
    return UpdateTimes(
        model=reference,
        batch_size=base.training.batch_size,
        threads=base.threads,
        dtype=str(compute.dtype).removeprefix("torch."),
        hardware=find_hardware(compute.device),
        times=times,
    )


def measure_update_times(
    store: TrajectoryStore,
    base: RunConfig,
    context_lengths: Sequence[int],
    compute: Compute,
    show_progress: bool = True,
) -> dict[int, float]:
    """Measure the time of an update, with the loading of its batch, for several context lengths.

    The context lengths take turns, so that a job that slows the machine down for a while slows all of them down. The
    first update of a turn is not timed.

    Args:
        store: Data of the runs.
        base: Settings that the runs share.
        context_lengths: Context lengths K, in steps.
        compute: Device, type of the forward pass, and compilation.
        show_progress: Whether to show a progress bar on standard error.

    Returns:
        Median seconds of an update, by context length.

    Raises:
        InputError: If a batch is larger than the dataset, or does not fit into memory, or the network cannot be
            compiled.
    """
    assert isinstance(base.model, ModelConfig)
    models = {length: dataclasses.replace(base.model, context_length=length) for length in context_lengths}
    windows, _ = training_windows(store, base.model, base.training)
    store.verify()
    seconds: dict[int, list[float]] = {length: [] for length in models}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(base.threads)
    try:
        with (
            translate_out_of_memory(compute.device, base.model.describe_sizes(base.training.batch_size)),
            translate_compile_errors(),
            _allow_compilations(compute, len(models)),
            ProgressBar(
                total=ROUNDS * len(models), unit="turn", desc="timing updates", disable=not show_progress
            ) as bar,
        ):
            learners = {length: _make_learner(store, model, base.training, compute) for length, model in models.items()}
            for _ in range(ROUNDS):
                for length, learner in learners.items():
                    seconds[length].append(_time_updates(store, learner, windows, base.training, compute))
                    bar.update()
    finally:
        torch.set_num_threads(num_threads)
    return {length: statistics.median(times) for length, times in seconds.items()}


def _allow_compilations(compute: Compute, num_networks: int) -> AbstractContextManager[None]:
    """Let one process compile several networks; a network that PyTorch's limit keeps from it would end in an error."""
    if not compute.compiled:
        return nullcontext()
    from torch._dynamo import config  # slow to import, and needed only to compile

    patch: AbstractContextManager[None] = config.patch(recompile_limit=config.recompile_limit + num_networks)
    return patch


def _make_learner(store: TrajectoryStore, model: ModelConfig, training: TrainingConfig, compute: Compute) -> Learner:
    network = find_method(model).make_network(model, store).to(compute.device)
    return Learner(network, training, compute, ProcessGroup())


def _time_updates(
    store: TrajectoryStore, learner: Learner, windows: IntArray, training: TrainingConfig, compute: Compute
) -> float:
    """Return the mean seconds of the updates of a turn.

    The learning rate is 0, at which an update takes as long as at any other one.
    """
    config = learner.model.config
    loader = find_method(config).make_loader(config, store, compute.device)  # on a GPU, a copy of all frames
    sampler = BatchSampler(windows, training.batch_size, training.seed)
    batches = loader.batches(map(sampler.batch, itertools.count()))
    learner.update(next(batches), 0, learning_rate=0.0)
    synchronize(compute.device)
    start, num_updates = time.perf_counter(), 0
    while not num_updates or time.perf_counter() - start < SECONDS:
        num_updates += 1
        learner.update(next(batches), num_updates, learning_rate=0.0)
    synchronize(compute.device)
    return (time.perf_counter() - start) / num_updates
