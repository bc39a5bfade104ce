"""Many runs: finished ones are skipped, several go on at once, and one that fails does not stop the others.

A sweep's directory has a directory for each run, named by it. What has been done is read from these (``result.json``,
or ``failure.json`` with the reason), so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from atari_dt.experiments.run import RunConfig, read_config
from replay_data import InputError
from replay_data.files import held, write_whole
from replay_data.parallel import available_cores

COMMANDS = "commands.txt"
"""Of a sweep's directory: the commands that did its runs, a line for each."""


def run_sweep(
    runs: Mapping[str, RunConfig],
    out: Path,
    *,
    jobs: int | None = None,
    ray_address: str | None = None,
    retry_failed: bool = False,
    command: str | None = None,
    show_progress: bool = True,
) -> dict[str, str]:
    """Do every run that is not finished, several at once, each in a process of its own.

    Args:
        runs: by name, which is that of its directory.
        out: directory of the sweep; may hold an earlier session of it, and other runs.
        jobs: how many at once; by default as many as their threads fill the cores, one at a time on a GPU; on a cluster
            all at once, as far as it has room.
        ray_address: of a Ray cluster that does the runs; each asks it for a CPU per thread and, if it is to run on one,
            a GPU. Its nodes have this project installed, and see ``out`` and the data at the same paths.
        retry_failed: try those again that failed before.
        command: that does it, to be noted for the report.
        show_progress: a progress bar of runs on standard error, with the updates of those under way.

    Returns:
        Of the runs that failed, why.

    Raises:
        InputError: if there are no runs, one is there with another config, another command does this sweep, or there is
            no such cluster, or none of its nodes has room for a run.
        OSError: if the sweep's directory cannot be written.
        KeyboardInterrupt: on Ctrl-C; runs under way leave a checkpoint, and the same call goes on from there.
    """
    if not runs:
        raise InputError("a sweep needs at least one run")
    if jobs is None:
        all_at_once = len(runs) if ray_address else available_cores() // max(c.threads for c in runs.values())
        jobs = max(1, all_at_once) if ray_address or _on_cpu(runs) else 1
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "doing the sweep in"):
        for name, config in runs.items():
            _check_same(out / name, config)
        waiting = [
            name
            for name in runs
            if not (out / name / "result.json").exists()
            and (retry_failed or not (out / name / "failure.json").exists())
        ]
        with closing(_place(ray_address if waiting else None)) as place:
            for name in waiting:
                place.check(runs[name])
            if command is not None:
                _note(command, out / COMMANDS)
            for name, config in runs.items():
                if not (out / name / "experiment.json").exists():
                    (out / name).mkdir(exist_ok=True)
                    write_whole(out / name / "experiment.json", json.dumps(config.to_json(), indent=2) + "\n")
            for name in waiting:
                (out / name / "failure.json").unlink(missing_ok=True)
            _do(waiting, runs, out, place, jobs, show_progress)
    return {name: reason for name in runs if (reason := read_failure(out / name)) is not None}


def _place(ray_address: str | None) -> _Here | _Cluster:
    return _Here() if ray_address is None else _Cluster(ray_address)


def _note(command: str, path: Path) -> None:
    """Add a line to a file, if it is not there yet."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    if command not in lines:
        write_whole(path, "\n".join([*lines, command]) + "\n")


def read_failure(directory: Path) -> str | None:
    """Why a run failed, if it did."""
    if (directory / "result.json").exists():
        return None
    try:
        return str(json.loads((directory / "failure.json").read_text())["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "its failure.json cannot be read"


def _on_cpu(runs: Mapping[str, RunConfig]) -> bool:
    devices = {config.training.device for config in runs.values()}
    return devices <= {"cpu"} or (devices <= {"cpu", "auto"} and not torch.cuda.is_available())


def _check_same(directory: Path, config: RunConfig) -> None:
    """Raise InputError if a run is there that has another config."""
    if not (directory / "experiment.json").exists():
        return
    there, now = read_config(directory).flat(), config.flat()
    fields = [f"{name} ({there[name]} there, {now[name]} now)" for name in now if there[name] != now[name]]
    if fields:
        raise InputError(
            f"{directory} was begun with other settings: {', '.join(fields)}; go on with those, or choose another --out"
        )


def _do(
    names: Sequence[str],
    runs: Mapping[str, RunConfig],
    out: Path,
    place: _Here | _Cluster,
    jobs: int,
    show_progress: bool,
) -> None:
    """Do these runs, ``jobs`` at once."""
    for name in names:
        (out / name / "log.txt").unlink(missing_ok=True)  # until it has begun
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(names), unit="run", desc="runs", disable=not show_progress) as bar,
    ):
        try:
            pending = {pool.submit(_do_one, place, out.resolve() / name, runs[name]): name for name in names}
            while pending:
                done, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
                    del pending[each]
                    bar.update()
                under_way = [out / name for name in pending.values() if (out / name / "log.txt").exists()]
                more = f" and {len(under_way) - 4} more" if len(under_way) > 4 else ""
                bar.set_postfix_str(", ".join(map(_progress, under_way[:4])) + more)
        except BaseException as error:
            place.stop()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                finished = sum((out / name / "result.json").exists() for name in runs)
                message = f"{finished} of {len(runs)} runs are finished; the same command goes on"
                raise KeyboardInterrupt(message) from None
            raise


def _do_one(place: _Here | _Cluster, directory: Path, config: RunConfig) -> None:
    """Do a run; if it fails, write why into its directory.

    Raises:
        KeyboardInterrupt: if somebody else has ended its process, as one who ends all of them does.
    """
    outcome = place.do(directory, config)
    if outcome is None or (directory / "result.json").exists():
        return
    if outcome in (130, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
    if isinstance(outcome, int):
        outcome = _reason((directory / "log.txt").read_text(errors="replace"), outcome)
    write_whole(directory / "failure.json", json.dumps({"reason": outcome}, indent=2) + "\n")


def _progress(directory: Path) -> str:
    """The name of a run under way, and how far it is."""
    try:
        *_, line = (directory / "training" / "metrics.jsonl").read_text().splitlines()
        return f"{directory.name} at update {json.loads(line)['update']}"
    except (OSError, ValueError, KeyError):
        return directory.name


def _start(directory: Path, threads: int) -> subprocess.Popen[bytes]:
    """Begin a run in a process of its own, which ends when this one does, and which Ctrl-C does not reach."""
    with (directory / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "atari_dt.experiments.run", str(directory)],
            stdin=subprocess.PIPE,  # whose end is the sign that this process has ended
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )


class _Here:
    """This machine."""

    def __init__(self) -> None:
        self._lock, self._stopped = threading.Lock(), False
        self._running: set[subprocess.Popen[bytes]] = set()

    def check(self, config: RunConfig) -> None:
        """Any run can be done here."""

    def do(self, directory: Path, config: RunConfig) -> int | str | None:
        """Do a run; return the exit status of its process, or None if all were asked to end."""
        with self._lock:
            if self._stopped:
                return None
            process = _start(directory, config.threads)
            self._running.add(process)
        with process:
            status = process.wait()
        with self._lock:
            self._running.remove(process)
            return None if self._stopped else status

    def stop(self) -> None:
        """Ask all to end; those that train leave a checkpoint."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def close(self) -> None:
        """Nothing is held."""


class _Cluster:
    """A Ray cluster."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError('Ray is not installed; pip install "atari-dt[cluster]", on every node') from error
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():  # Ray itself would wait for long
                socket.create_connection((host, int(port)), timeout=10).close()
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process on the spot
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster answers at {address}; begin one with: ray start --head --port=6379"
            ) from error
        self._ray, self._lock, self._stopped = ray, threading.Lock(), False
        self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._running: set[Any] = set()

    def _needs(self, config: RunConfig) -> dict[str, int]:
        """CPUs and GPUs of a run."""
        device = config.training.device
        any_gpu = any(node.get("GPU", 0) for node in self._nodes)
        return {"CPU": config.threads, "GPU": int(device.startswith("cuda") or (device == "auto" and any_gpu))}

    def check(self, config: RunConfig) -> None:
        """Raise InputError if no node has what a run needs; Ray would wait for one for ever."""
        needs = self._needs(config)
        if not any(all(node.get(kind, 0) >= number for kind, number in needs.items()) for node in self._nodes):
            wanted = " and ".join(f"{number} {kind}" for kind, number in needs.items() if number)
            raise InputError(
                f"no node of the Ray cluster has the {wanted} that a run needs; see --threads and --device"
            )

    def do(self, directory: Path, config: RunConfig) -> int | str | None:
        """Do a run on a node; return the exit status of its process, or what went wrong with the node, or None if all
        were asked to end."""
        needs = self._needs(config)
        with self._lock:
            if self._stopped:
                return None
            task = self._ray.remote(_run_on_node).options(num_cpus=needs["CPU"], num_gpus=needs["GPU"])
            running = task.remote(directory, config.threads)
            self._running.add(running)
        try:
            outcome: int | str = self._ray.get(running)
        except self._ray.exceptions.RayError as error:
            outcome = f"Ray: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        with self._lock:
            self._running.remove(running)
            return None if self._stopped else outcome

    def stop(self) -> None:
        """Ask all to end; those that train leave a checkpoint."""
        with self._lock:
            self._stopped = True
            for running in self._running:
                self._ray.cancel(running)

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


def _run_on_node(directory: Path, threads: int) -> int:
    """In a worker of a Ray cluster: do a run; return its process's exit status."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not there on node {platform.node()}; all nodes must see it")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray cancels with it; a node in the background ignores it
    process = _start(directory, threads)
    with process:
        try:
            while process.poll() is None:
                time.sleep(0.5)  # Ray cancels between two lines of Python, never within a wait
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _reason(log: str, status: int) -> str:
    """Why a process failed: the sentence that it ended with, or else the last exception's line."""
    if status < 0:
        return f"it was ended by signal {-status}, {signal.strsignal(-status)}{'; is memory full?' * (status == -9)}"
    lines = [line for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or [line for line in lines if _EXCEPTION.match(line)]
    return [f"it ended with status {status}", *lines[-1:], *said][-1].removeprefix("error: ")


_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
