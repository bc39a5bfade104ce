"""A Ray cluster of two nodes with one CPU each on this machine, in a process of its own.

``python ray_cluster.py DIRECTORY`` starts the cluster, writes its address to ``DIRECTORY/address``, and shuts it down
when standard input closes. Ray's own command, ``ray start``, is slower: it starts more processes for each node.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replay_data.storage.atomic import atomic_write

STARTUP_SECONDS = 120


@contextmanager
def start_cluster() -> Iterator[Callable[[], str]]:
    """Start a cluster in the background; yield a function that waits for it and returns its address."""
    # The cluster makes sockets in the directory, and the paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch:
        address, log = Path(scratch) / "address", Path(scratch) / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, __file__, scratch],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"RAY_TMPDIR": scratch, "RAY_USAGE_STATS_ENABLED": "0"},
            )

        def wait_for_address() -> str:
            deadline = time.monotonic() + STARTUP_SECONDS
            while not address.exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            return address.read_text()

        try:
            yield wait_for_address
        finally:
            process.communicate(timeout=60)


def main(directory: Path) -> None:
    """Run a cluster until standard input closes."""
    from ray.cluster_utils import Cluster

    (directory / "ray").mkdir()  # Ray writes a file there before it makes the directory
    options: dict[str, Any] = {
        "num_cpus": 1,
        "object_store_memory": 80_000_000,
        "include_log_monitor": False,
    }
    cluster = Cluster(True, head_node_args={**options, "no_monitor": True, "include_dashboard": False})
    cluster.add_node(**options)
    atomic_write(directory / "address", cluster.address)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
