"""Many runs: finished ones are skipped, several go on at once, and one that fails does not stop the others.

A sweep's directory has a directory for each run, named by it. What has been done is read from these (``result.json``,
or ``failure.json`` with the reason), so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

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
        show_progress: a progress bar of runs on standard error, with the updates of those under way.

    Returns:
        Of the runs that failed, why.

    Raises:
        InputError: if there are no runs, one is there with another config, or another command does this sweep.
        OSError: if the sweep's directory cannot be written.
        KeyboardInterrupt: on Ctrl-C; runs under way leave a checkpoint, and the same call goes on from there.
    """
    if not runs:
        raise InputError("a sweep needs at least one run")
    if jobs is None:
        jobs = max(1, available_cores() // max(config.threads for config in runs.values())) if _on_cpu(runs) else 1
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    out.mkdir(parents=True, exist_ok=True)
    with held(out, "doing the sweep in"):
        for name, config in runs.items():
            _check_same(out / name, config)
        for name, config in runs.items():
            if not (out / name / "experiment.json").exists():
                (out / name).mkdir(exist_ok=True)
                write_whole(out / name / "experiment.json", json.dumps(config.to_json(), indent=2) + "\n")
        waiting = [name for name in runs if not (out / name / "result.json").exists()]
        for name in waiting if retry_failed else ():
            (out / name / "failure.json").unlink(missing_ok=True)
        waiting = [name for name in waiting if not (out / name / "failure.json").exists()]
        _do(waiting, runs, out, jobs, show_progress)
    return {name: reason for name in runs if (reason := read_failure(out / name)) is not None}


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
                bar.set_postfix_str(", ".join(map(_progress, children.running())))
        except BaseException as error:
            children.stop()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                finished = sum((out / name / "result.json").exists() for name in runs)
                message = f"{finished} of {len(runs)} runs are finished; the same command goes on"
                raise KeyboardInterrupt(message) from None
            raise


def _progress(directory: Path) -> str:
    """The name of a run under way, and how far it is."""
    try:
        *_, line = (directory / "training" / "metrics.jsonl").read_text().splitlines()
        return f"{directory.name} at update {json.loads(line)['update']}"
    except (OSError, ValueError, KeyError):
        return directory.name


class _Children:
    """The processes of runs. They end when this one does, and Ctrl-C reaches only this one."""

    def __init__(self) -> None:
        self._lock, self._stopped = threading.Lock(), False
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    def do(self, directory: Path, threads: int) -> None:
        """Do a run; if it fails, write why into its directory.

        Raises:
            KeyboardInterrupt: if somebody else has ended its process, as one who ends all of them does.
        """
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
                self._running[directory] = process
            with process:
                status = process.wait()
        with self._lock:
            del self._running[directory]
            stopped = self._stopped
        if stopped or not status or (directory / "result.json").exists():
            return
        if status in (130, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        reason = _reason((directory / "log.txt").read_text(errors="replace"), status)
        write_whole(directory / "failure.json", json.dumps({"reason": reason, "status": status}, indent=2) + "\n")

    def running(self) -> list[Path]:
        """Directories of the runs under way."""
        with self._lock:
            return list(self._running)

    def stop(self) -> None:
        """Ask all to end; those that train leave a checkpoint."""
        with self._lock:
            self._stopped = True
            for process in self._running.values():
                process.terminate()


def _reason(log: str, status: int) -> str:
    """Why a process failed: the sentence that it ended with, or else the last exception's line."""
    if status < 0:
        return f"it was ended by signal {-status}, {signal.strsignal(-status)}{'; is memory full?' * (status == -9)}"
    lines = [line for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or [line for line in lines if _EXCEPTION.match(line)]
    return [f"it ended with status {status}", *lines[-1:], *said][-1].removeprefix("error: ")


_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
