"""Launch runs as processes: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, TypeAlias

from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_process import run_on_node, start_run
from replay_data import InputError
from replay_data.errors import summarize_error

Outcome: TypeAlias = int | str | None
"""Outcome of a run: exit status of its process; a sentence if its node failed; None if the launcher was stopped."""


class LocalLauncher:
    """Launches runs on this machine. Threads may call its methods concurrently."""

    def __init__(self) -> None:
        self._lock, self._stopped = threading.Lock(), False
        self._processes: set[subprocess.Popen[bytes]] = set()

    def check(self, config: RunConfig) -> None:
        """Accept any run."""

    def run(self, directory: Path, config: RunConfig) -> Outcome:
        """Do a run and return its outcome."""
        with self._lock:
            if self._stopped:
                return None
            process = start_run(directory, config.threads)
            self._processes.add(process)
        with process:
            status = process.wait()
        with self._lock:
            self._processes.remove(process)
            return None if self._stopped else status

    def stop(self) -> None:
        """Ask all processes to end, without waiting for them; a run in training writes a checkpoint first."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()

    def close(self) -> None:
        """Do nothing; a local launcher holds no resources."""


class RayLauncher:
    """Launches runs on the nodes of a Ray cluster. Threads may call its methods concurrently.

    Args:
        address: Address of the cluster, such as ``127.0.0.1:6379``.

    Raises:
        InputError: If Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("Ray is not installed; install it on every node with: pip install ray") from error
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():  # fail at once; Ray itself retries for a long time
                socket.create_connection((host, int(port)), timeout=10).close()
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            if signal.getsignal(signal.SIGTERM) is not handler:  # not in a thread, where nobody may set a handler
                signal.signal(signal.SIGTERM, handler)  # Ray's handler would end this process without cleaning up
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"no Ray cluster answers at {address}; start its head node with ray start, or correct the address"
            ) from error
        self._ray, self._lock, self._stopped = ray, threading.Lock(), False
        self._nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._tasks: set[Any] = set()

    def _required_resources(self, config: RunConfig) -> dict[str, int]:
        """Return the numbers of CPUs and GPUs that a run needs, under Ray's names."""
        device = config.training.device
        any_gpu = any(node.get("GPU", 0) for node in self._nodes)
        return {"CPU": config.threads, "GPU": int(device.startswith("cuda") or (device == "auto" and any_gpu))}

    def check(self, config: RunConfig) -> None:
        """Check that some node has the resources that a run needs; Ray would wait for such a node forever.

        Raises:
            InputError: If no node has them.
        """
        required = self._required_resources(config)
        if not any(all(node.get(name, 0) >= count for name, count in required.items()) for node in self._nodes):
            wanted = " and ".join(f"{count} {name}" for name, count in required.items() if count)
            raise InputError(
                f"no node of the Ray cluster has the {wanted} that a run needs; lower `threads`, choose another "
                "`device`, or add such a node"
            )

    def run(self, directory: Path, config: RunConfig) -> Outcome:
        """Do a run on a node and return its outcome."""
        required = self._required_resources(config)
        with self._lock:
            if self._stopped:
                return None
            remote = self._ray.remote(run_on_node).options(num_cpus=required["CPU"], num_gpus=required["GPU"])
            task = remote.remote(directory, config.threads)
            self._tasks.add(task)
        try:
            outcome: int | str = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            outcome = f"Ray: {summarize_error(getattr(error, 'cause', None) or error)}"
        with self._lock:
            self._tasks.remove(task)
            return None if self._stopped else outcome

    def stop(self) -> None:
        """Ask all processes to end, without waiting for them; a run in training writes a checkpoint first."""
        with self._lock:
            self._stopped = True
            for task in self._tasks:
                self._ray.cancel(task)

    def close(self) -> None:
        """Disconnect from the cluster."""
        self._ray.shutdown()


Launcher: TypeAlias = LocalLauncher | RayLauncher


def make_launcher(ray_address: str | None) -> Launcher:
    """Return the launcher of a Ray cluster, or of this machine if ``ray_address`` is None.

    Raises:
        InputError: If no Ray cluster answers at the address.
    """
    return LocalLauncher() if ray_address is None else RayLauncher(ray_address)
