"""Launch runs as processes: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from atari_dt.experiments.run import RunConfig
from replay_data import InputError


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


class LocalLauncher:
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


class RayLauncher:
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
