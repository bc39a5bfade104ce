"""The processes that `benchmark_value_methods` measures, besides `d3rlpy_contestant`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import torch
from throughput_contestants import WARM_UP_UPDATES

from atari_dt.batches.sampler import BatchSampler
from atari_dt.config import TrainingConfig
from atari_dt.hardware import set_up_compute
from atari_dt.method_config import MethodConfig
from atari_dt.methods.registry import find_method
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from replay_data import InputError, TrajectoryStore


def project_updates(
    data: Path, method_config: MethodConfig, config: TrainingConfig, device: torch.device, dtype: torch.dtype
) -> Iterator[None]:
    """Make an update of this project at each step of the iterator, as scripts/train.py does."""
    store, method = TrajectoryStore.open(data), find_method(method_config)
    compute = dataclasses.replace(set_up_compute(str(device), "auto", config.compile), dtype=dtype)
    learner = Learner(method.make_network(method_config, store).to(device), config, compute, ProcessGroup())
    sampler = BatchSampler(method.usable_steps(np.arange(len(store)), store), config.batch_size, config.seed)
    batches = method.make_loader(method_config, store, device).batches(map(sampler.batch, range(sys.maxsize)))
    for update, batch in enumerate(batches):
        learner.update(batch, update, config.learning_rate)
        yield


class D3rlpyContestant:
    """Makes updates of d3rlpy on request, in a process of another Python; has the methods of `Contestant`.

    Args:
        python: Python of an environment of d3rlpy.
        store: Data.
        method: ``qrdqn`` or ``cql``.
        batch_size: Transitions per update.
        device: Device of the network.

    Attributes:
        versions: Versions of d3rlpy and of its PyTorch.
    """

    def __init__(self, python: Path, store: TrajectoryStore, method: str, batch_size: int, device: torch.device):
        self._python = python
        data = str(store.path.resolve()), store.num_actions
        arguments = *data, method, batch_size, str(device), torch.get_num_threads()
        self._program = f"import d3rlpy_contestant; d3rlpy_contestant.serve(*{arguments!r})"

    def __enter__(self) -> D3rlpyContestant:
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            try:
                process = subprocess.Popen(
                    [self._python, "-c", self._program],
                    cwd=Path(__file__).parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                    start_new_session=True,  # it never hears a Ctrl-C; this process ends it
                )
            except OSError as error:
                raise InputError(f"cannot start {self._python}: {error.strerror}") from error
            self._process = stack.enter_context(process)
            stack.callback(process.kill)
            self.versions = json.loads(self._read())
            self.update(WARM_UP_UPDATES)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def update(self, updates: int) -> float:
        """Make some updates and return the seconds per update."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_read` says why the process ended
            print(updates, file=self._process.stdin, flush=True)
        return float(self._read()) / updates

    def _read(self) -> str:
        """Return the next line of the process.

        Raises:
            InputError: If the process ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last_line = (self._errors.read().strip() or "no message").splitlines()[-1]
            raise InputError(f"d3rlpy ended in {self._python}: {last_line[:300]}")
        return line
