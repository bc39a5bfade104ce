"""Training metrics: means per line, written as JSON lines and TensorBoard scalars."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.tensorboard import SummaryWriter

from atari_dt.hardware import matmul_peak
from atari_dt.training.distributed import ProcessGroup
from replay_data.storage.atomic import atomic_write


def _update_of(line: bytes) -> int:
    """The update of a line of ``metrics.jsonl``; 0 if it is damaged or cut off."""
    try:
        return int(json.loads(line)["update"]) if line.endswith(b"\n") else 0
    except (ValueError, KeyError, TypeError):
        return 0


class Metrics:
    """Numbers of each update, kept on the device and read once a line, so that no update waits for a number.

    A line of ``metrics.jsonl``, and of TensorBoard, has the ``update`` that it was written after, the ``tokens`` seen
    and the ``learning_rate`` of that update; since the line before, means of ``loss`` (nats), ``action_accuracy`` and
    ``grad_norm``, ``contexts_per_s``, and ``mfu``, the model's FLOP/s as a fraction of what a large matrix product
    reaches on this machine; and at checkpoints of a run that holds episodes out, ``validation_loss`` and
    ``validation_accuracy``.

    Args:
        out: the run; of the lines that are there, those up to ``update`` are kept.
        update: that the run goes on from.
        processes: the processes; the first one writes.
        flops: of an update for one context.
        device, dtype: of the forward pass.
    """

    def __init__(
        self, out: Path, update: int, processes: ProcessGroup, flops: int, device: torch.device, dtype: torch.dtype
    ):
        self._update, self._processes, self._flops = update, processes, flops
        self._peak = processes.size * matmul_peak(device, dtype)
        self._files = ExitStack()
        if processes.rank == 0:
            path = out / "metrics.jsonl"
            lines = path.read_bytes().splitlines(keepends=True) if update and path.exists() else []
            kept = [line for line in lines if 0 < _update_of(line) <= update]
            atomic_write(path, b"".join(kept))
            if not update:
                shutil.rmtree(out / "tensorboard", ignore_errors=True)
            purge_step = update + 1 if update else None
            self._writer = SummaryWriter(out / "tensorboard", purge_step=purge_step)
            self._files.callback(self._writer.close)
            self._file = self._files.enter_context(path.open("a"))
        self._reset()

    def __enter__(self) -> Metrics:
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
        values = self._processes.all_reduce_sum(torch.stack(self._values).double().cpu())
        values[:, 2] /= self._processes.size  # the norm of the averaged gradient is the same in every process
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
        if self._processes.rank:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)
        self._file.write(json.dumps({"update": update, **values}) + "\n")
        self._file.flush()
