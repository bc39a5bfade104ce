"""Many runs: finished ones are skipped, several go on at once, and one that fails does not stop the others.

A sweep's directory has a directory for each run, named by it. What has been done is read from these (``result.json``,
or ``failure.json`` with the reason), so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import torch

from atari_dt.config import describe_differences
from atari_dt.experiments.launchers import LocalLauncher, RayLauncher
from atari_dt.experiments.run import RunConfig, read_config
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.processes import available_cores

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
    with exclusive_lock(out, "doing the sweep in"):
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
                    atomic_write(out / name / "experiment.json", json.dumps(config.to_json(), indent=2) + "\n")
            for name in waiting:
                (out / name / "failure.json").unlink(missing_ok=True)
            _do(waiting, runs, out, place, jobs, show_progress)
    return {name: reason for name in runs if (reason := read_failure(out / name)) is not None}


def _place(ray_address: str | None) -> LocalLauncher | RayLauncher:
    return LocalLauncher() if ray_address is None else RayLauncher(ray_address)


def _note(command: str, path: Path) -> None:
    """Add a line to a file, if it is not there yet."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    if command not in lines:
        atomic_write(path, "\n".join([*lines, command]) + "\n")


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
    if differences := describe_differences(there, now):
        raise InputError(
            f"{directory} was begun with other settings: {differences}; go on with those, or choose another --out"
        )


def _do(
    names: Sequence[str],
    runs: Mapping[str, RunConfig],
    out: Path,
    place: LocalLauncher | RayLauncher,
    jobs: int,
    show_progress: bool,
) -> None:
    """Do these runs, ``jobs`` at once."""
    for name in names:
        (out / name / "log.txt").unlink(missing_ok=True)  # until it has begun
    with (
        ThreadPoolExecutor(jobs) as pool,
        ProgressBar(total=len(names), unit="run", desc="runs", disable=not show_progress) as bar,
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


def _do_one(place: LocalLauncher | RayLauncher, directory: Path, config: RunConfig) -> None:
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
    atomic_write(directory / "failure.json", json.dumps({"reason": outcome}, indent=2) + "\n")


def _progress(directory: Path) -> str:
    """The name of a run under way, and how far it is."""
    try:
        *_, line = (directory / "training" / "metrics.jsonl").read_text().splitlines()
        return f"{directory.name} at update {json.loads(line)['update']}"
    except (OSError, ValueError, KeyError):
        return directory.name


def _reason(log: str, status: int) -> str:
    """Why a process failed: the sentence that it ended with, or else the last exception's line."""
    if status < 0:
        return f"it was ended by signal {-status}, {signal.strsignal(-status)}{'; is memory full?' * (status == -9)}"
    lines = [line for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or [line for line in lines if _EXCEPTION.match(line)]
    return [f"it ended with status {status}", *lines[-1:], *said][-1].removeprefix("error: ")


_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
