"""Many runs: finished ones are skipped, several go on at once, and one that fails does not stop the others.

A sweep's directory has a directory for each run, named by it. What has been done is read from these (``result.json``,
or ``failure.json`` with the reason), so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from atari_dt.devices import find_device
from atari_dt.experiments.run import RunConfig, read_config
from replay_data import InputError
from replay_data.files import held, write_whole
from replay_data.parallel import available_cores


def run_sweep(
    runs: Mapping[str, RunConfig],
    out: Path,
    *,
    jobs: int | None = None,
    retry_failed: bool = False,
    show_progress: bool = True,
) -> dict[str, str]:
    """Do every run that is not finished, several at once, each in a process of its own.

    Args:
        runs: by name, which is that of its directory.
        out: directory of the sweep; may hold an earlier session of it, and other runs.
        jobs: how many at once; by default as many as their threads fill the cores, one at a time on a GPU.
        retry_failed: try those again that failed before.
        show_progress: a progress bar in updates/s on standard error.

    Returns:
        Of the runs that failed, why.

    Raises:
        InputError: if a run is there with another config, or another command does this sweep.
        OSError: if the sweep's directory cannot be written.
        KeyboardInterrupt: on Ctrl-C; runs under way leave a checkpoint, and the same call goes on from there.
    """
    if jobs is None:
        jobs = max(1, available_cores() // max(config.threads for config in runs.values())) if _on_cpu(runs) else 1
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "doing the sweep in"):
        for name, config in runs.items():
            _prepare(out / name, config)
        waiting = [name for name in runs if not (out / name / "result.json").exists()]
        for name in waiting if retry_failed else ():
            (out / name / "failure.json").unlink(missing_ok=True)
        waiting = [name for name in waiting if not (out / name / "failure.json").exists()]
        _do(waiting, runs, out, jobs, show_progress)
    return {name: reason for name in runs if (reason := read_failure(out / name)) is not None}


def read_failure(directory: Path) -> str | None:
    """Why a run failed, if it did."""
    try:
        return str(json.loads((directory / "failure.json").read_text())["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "its failure.json cannot be read"


def _on_cpu(runs: Mapping[str, RunConfig]) -> bool:
    return all(find_device(config.training.device).type == "cpu" for config in runs.values())


def _prepare(directory: Path, config: RunConfig) -> None:
    """Write a run's config, or see that it is the one that is there.

    Raises:
        InputError: if it is another.
    """
    path = directory / "experiment.json"
    if not path.exists():
        directory.mkdir(exist_ok=True)
        write_whole(path, json.dumps(config.to_json(), indent=2) + "\n")
        return
    there, now = (_flat(each.to_json()) for each in (read_config(directory), config))
    fields = [f"{name} ({there[name]} there, {now[name]} now)" for name in now if there[name] != now[name]]
    if fields:
        raise InputError(
            f"{directory} was begun with other settings: {', '.join(fields)}; go on with those, or choose another --out"
        )


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat


def _do(names: Sequence[str], runs: Mapping[str, RunConfig], out: Path, jobs: int, show_progress: bool) -> None:
    """Do these runs, ``jobs`` at once."""
    children = _Children()
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(names), unit="run", desc="runs", disable=not show_progress) as bar,
    ):
        try:
            pending = {pool.submit(children.do, out / name, runs[name].threads) for name in names}
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
                    bar.update()
                under_way = [f"{name} {update}" for name in names if (update := _progress(out / name))]
                bar.set_postfix_str(", ".join(under_way))
        except BaseException as error:
            children.stop()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                finished = sum((out / name / "result.json").exists() for name in runs)
                message = f"{finished} of {len(runs)} runs are finished; the same command goes on"
                raise KeyboardInterrupt(message) from None
            raise


def _progress(directory: Path) -> str:
    """How far a run under way is, or nothing."""
    if any((directory / name).exists() for name in ("result.json", "failure.json")):
        return ""
    try:
        *_, line = (directory / "training" / "metrics.jsonl").read_text().splitlines()
        return f"at update {json.loads(line)['update']}"
    except (OSError, ValueError, KeyError):
        return ""


class _Children:
    """The processes of runs. They end when this one does, and Ctrl-C reaches only this one."""

    def __init__(self) -> None:
        self._lock, self._running, self._stopped = threading.Lock(), set[subprocess.Popen[bytes]](), False

    def do(self, directory: Path, threads: int) -> None:
        """Do a run; if it fails, write why into its directory."""
        with (directory / "log.txt").open("wb") as log:
            with self._lock:
                if self._stopped:
                    return
                process = subprocess.Popen(
                    [sys.executable, "-m", "atari_dt.experiments.run", str(directory)],
                    stdin=subprocess.PIPE,  # whose end is the sign that this process has ended
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                    start_new_session=True,
                )
                self._running.add(process)
            with process:
                status = process.wait()
        with self._lock:
            self._running.discard(process)
        if status and not self._stopped:
            reason = _reason((directory / "log.txt").read_text(errors="replace"), status)
            write_whole(directory / "failure.json", json.dumps({"reason": reason, "status": status}, indent=2) + "\n")

    def stop(self) -> None:
        """Ask all to end; those that train leave a checkpoint."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _reason(log: str, status: int) -> str:
    """Why a process failed: its last words."""
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}{' (is memory full?)' if status == -9 else ''}"
    last = next((line for line in reversed(log.splitlines()) if line.strip()), f"it ended with status {status}")
    return last.removeprefix("error: ")
