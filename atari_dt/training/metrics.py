"""The training metrics of a run: one line per ``log_every`` updates, in ``metrics.jsonl`` and TensorBoard."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atari_dt.hardware import Compute, matmul_peak
from atari_dt.training.distributed import ProcessGroup
from replay_data import InputError
from replay_data.contexts import IntArray
from replay_data.errors import summarize_error
from replay_data.json_fields import parse_json, read_count, read_field, read_optional_field
from replay_data.storage.atomic import atomic_write
from replay_data.storage.regular_files import read_regular_file

FILE_NAME = "metrics.jsonl"

_MAX_BYTES = 128 << 20  # the lines of 500,000 updates, if each has its own


@dataclass(frozen=True)
class MetricsLine:
    """One line of ``metrics.jsonl``.

    Losses of the training, ``action_accuracy``, ``grad_norm``, ``contexts_per_s``, ``mfu`` and ``q_value`` are means
    over the updates since the line before.

    Attributes:
        update: Number of updates made.
        tokens: Number of tokens trained on.
        learning_rate: Learning rate of the last update.
        loss: Loss of the method: cross-entropy per action, in nats, or the temporal-difference loss with CQL's term.
            Losses of predicted states and returns are included with their weights.
        action_accuracy: Fraction of steps at which the dataset's action is the most probable or the greedy one.
        grad_norm: Global norm of the gradient before clipping.
        contexts_per_s: Number of contexts or transitions trained on per second, in all processes together.
        mfu: Model FLOP/s utilization: FLOP/s of the model as a fraction of those of a large matrix product on the same
            machine. None in files of early versions.
        validation_loss: Cross-entropy per action, in nats, or temporal-difference loss on the held-out episodes. None
            except at the checkpoints of a run that holds episodes out.
        validation_accuracy: Action accuracy on the held-out episodes. None where ``validation_loss`` is None.
        seconds: Wall time of all updates so far, in seconds: neither validation nor checkpoints count, and in a resumed
            run, updates that no checkpoint holds do not count either. ``torch.compile`` compiles in the first update of
            each process, which counts. None in files of early versions, and in runs that continue one.
        td_loss: Temporal-difference loss, which is ``loss`` without CQL's term. None for methods without Q.
        q_value: Largest Q of a state, averaged over the states of the batches. None for methods without Q.
        action_loss: Cross-entropy per action, in nats. None where it is ``loss``.
        state_loss: Mean squared error of the predicted next states. None for models that predict none.
        return_loss: Mean squared error of the predicted next returns-to-go. None for models that predict none.
    """

    update: int
    tokens: int
    learning_rate: float
    loss: float
    action_accuracy: float
    grad_norm: float
    contexts_per_s: float
    mfu: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    seconds: float | None = None
    td_loss: float | None = None
    q_value: float | None = None
    action_loss: float | None = None
    state_loss: float | None = None
    return_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the content of a line; fields that are None are left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, content: Any) -> MetricsLine:
        """Read the content of a line.

        Raises:
            ValueError, KeyError, TypeError: If the content is malformed.
        """
        return cls(
            update=read_count(content, "update"),
            tokens=read_count(content, "tokens"),
            learning_rate=read_field(content, "learning_rate", float),
            loss=read_field(content, "loss", float),
            action_accuracy=read_field(content, "action_accuracy", float),
            grad_norm=read_field(content, "grad_norm", float),
            contexts_per_s=read_field(content, "contexts_per_s", float),
            mfu=read_optional_field(content, "mfu", float),
            validation_loss=read_optional_field(content, "validation_loss", float),
            validation_accuracy=read_optional_field(content, "validation_accuracy", float),
            seconds=read_optional_field(content, "seconds", float),
            td_loss=read_optional_field(content, "td_loss", float),
            q_value=read_optional_field(content, "q_value", float),
            action_loss=read_optional_field(content, "action_loss", float),
            state_loss=read_optional_field(content, "state_loss", float),
            return_loss=read_optional_field(content, "return_loss", float),
        )


def read_metrics(directory: Path) -> list[MetricsLine]:
    """Read the ``metrics.jsonl`` of a run's directory.

    Raises:
        InputError: If the file cannot be read, or one of its lines is malformed.
    """
    path = directory / FILE_NAME
    try:
        lines = read_regular_file(path, _MAX_BYTES).splitlines()
        return [MetricsLine.from_json(parse_json(line)) for line in lines]
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({summarize_error(error)}); resume the training, which repairs it, or train again"
        ) from error


class MetricsLogger:
    """Averages the metrics of updates and writes them as lines of ``metrics.jsonl`` and TensorBoard scalars.

    The metrics of an update stay on the device until a line is due, so that no update waits for them.

    Args:
        directory: Directory of the run. Lines of updates after ``update`` are removed from its files.
        names: Names of the values that `Learner.update` returns.
        update: Number of updates made before.
        flops: Number of floating-point operations of an update per context or transition.
        compute: Device and type of the forward pass.
        group: Processes that train together; the first one writes.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[str],
        update: int,
        flops: int,
        compute: Compute,
        group: ProcessGroup,
    ):
        self._names = names
        self._update, self._flops, self._group = update, flops, group
        self._peak = group.size * matmul_peak(compute.device, compute.dtype)
        self._seconds = None if update else 0.0
        self._files = ExitStack()
        if group.rank == 0:
            self._open(directory, update)
        self._reset()

    def _open(self, directory: Path, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a process that writes needs it

        path = directory / FILE_NAME
        content = read_regular_file(path, _MAX_BYTES) if update and path.exists() else b""
        lines = [line for line in content.splitlines(keepends=True) if 0 < _update_of(line) <= update]
        atomic_write(path, b"".join(lines))
        if lines and _update_of(lines[-1]) == update:
            self._seconds = MetricsLine.from_json(parse_json(lines[-1])).seconds
        if not update:
            shutil.rmtree(directory / "tensorboard", ignore_errors=True)
        purge_step = update + 1 if update else None
        self._tensorboard = SummaryWriter(directory / "tensorboard", purge_step=purge_step)
        self._files.callback(self._tensorboard.close)
        self._file = self._files.enter_context(path.open("a"))

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _reset(self) -> None:
        self._values: list[torch.Tensor] = []
        self._batches: list[IntArray] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Exclude the time since the last line, such as that of a checkpoint or a validation, from the next line."""
        self._start = time.perf_counter()

    def add(self, steps: IntArray, values: torch.Tensor) -> None:
        """Add an update: the first steps ``[B]`` of its batch, and what `Learner.update` returned."""
        self._values.append(values)
        self._batches.append(steps)

    def next_line(self, tokens: int, learning_rate: float) -> MetricsLine:
        """Return the line of the updates since the last call. All processes must call it together.

        Args:
            tokens: Number of tokens trained on.
            learning_rate: Learning rate of the last update.

        Raises:
            FloatingPointError: If the loss or the gradient of an update is not finite.
        """
        values = self._group.all_reduce_sum(torch.stack(self._values).double().cpu())
        # Every process has the norm of the same averaged gradient.
        values[:, self._names.index("grad_norm")] /= self._group.size
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            index = int(finite.int().argmin())
            steps = self._batches[index]
            raise FloatingPointError(
                f"the loss or its gradient is no longer finite at update {self._update + index + 1} (its windows "
                f"start at the dataset's steps {', '.join(map(str, steps[:8]))}{' …' if len(steps) > 8 else ''})"
            )
        means = dict(zip(self._names, values.mean(dim=0).tolist(), strict=True))
        seconds = time.perf_counter() - self._start
        speed = sum(map(len, self._batches)) / seconds
        if self._seconds is not None:
            self._seconds += seconds
        self._update += len(self._values)
        self._reset()
        mfu = speed * self._flops / self._peak
        return MetricsLine(
            update=self._update,
            tokens=tokens,
            learning_rate=learning_rate,
            contexts_per_s=speed,
            mfu=mfu,
            seconds=self._seconds,
            **means,
        )

    def write(self, line: MetricsLine) -> None:
        """Write a line, in the first process."""
        if self._group.rank:
            return
        content = line.to_json()
        for name, value in content.items():
            if name != "update":
                self._tensorboard.add_scalar(name, value, line.update)
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()


def _update_of(line: bytes) -> int:
    """Return the update of a line of ``metrics.jsonl``, or 0 if the line is damaged or cut off."""
    try:
        return MetricsLine.from_json(parse_json(line)).update if line.endswith(b"\n") else 0
    except (ValueError, KeyError, TypeError):
        return 0
