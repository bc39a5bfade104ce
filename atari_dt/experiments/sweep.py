"""A sweep: a grid of runs, several at once, with finished runs skipped and failed runs reported.

The directory of a sweep contains a directory for each run, under the run's name. What is left to do is read from these:
a finished run has a ``result.json``, and a failed run a ``failure.json`` with the reason. A killed sweep therefore
resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import torch

from atari_dt.config import ARITHMETIC_SETTINGS, describe_differences
from atari_dt.experiments.launchers import Launcher, make_launcher
from atari_dt.experiments.report import COMMANDS_FILE, write_report
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import RunConfig, read_run_config
from atari_dt.experiments.run_result import RunFailure, read_failure
from atari_dt.experiments.sweep_options import SweepOptions
from atari_dt.hardware import find_device, warn_of_emulation
from atari_dt.training import read_metrics
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.processes import available_cores
from replay_data.storage.regular_files import MAX_JSON_BYTES, read_regular_file


def run_sweep_and_report(
    runs: Mapping[str, RunConfig],
    out: Path,
    digests: Mapping[Path, str],
    options: SweepOptions,
    files: Mapping[str, str] | None = None,
) -> None:
    """Do all runs, write the report and print its tables.

    Args:
        runs: Configs by name.
        out: Directory of the sweep.
        digests: Digest of each run's trajectory store, by path.
        options: How the runs are launched.
        files: Contents of files that describe the sweep, by name.

    Raises:
        InputError: If a run fails, naming each failed run after all others are done; or as in `run_sweep` and
            `read_groups`.
        OSError: If a file cannot be written.
        KeyboardInterrupt: On Ctrl-C; the same call resumes the sweep.
    """
    read_groups(out, runs, digests)  # fail before hours of training
    command = shlex.join(["python", *sys.argv])
    failures = run_sweep(runs, out, **dataclasses.asdict(options), command=command, files=files)
    read_groups(out, runs, digests)
    print(write_report(out))
    print(f"report: {out / 'report.html'}")
    if failures:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failures.items())
        raise InputError(f"{len(failures)} of {len(runs)} runs failed: {reasons}; `retry_failed` retries them")


def run_sweep(
    runs: Mapping[str, RunConfig],
    out: Path,
    *,
    jobs: int | None = None,
    ray_address: str | None = None,
    retry_failed: bool = False,
    command: str | None = None,
    files: Mapping[str, str] | None = None,
    show_progress: bool = True,
) -> dict[str, str]:
    """Do every run that is not finished, several at once, each in a process of its own.

    Args:
        runs: Configs by name; the name is that of the run's directory.
        out: Directory of the sweep; may contain an earlier session of it, and other runs.
        jobs: Number of runs at once; by default as many as fill the cores with their threads, one on a GPU, and on a
            cluster all that it has room for.
        ray_address: Address of a Ray cluster that does the runs. Each run asks for one CPU per thread and, if its
            device is a GPU, for one GPU. All nodes have this project installed, and see ``out`` and the trajectory
            stores under the same paths.
        retry_failed: Whether to retry runs that failed before.
        command: Command that does the sweep, to be quoted in the report.
        files: Contents of files that describe the sweep, by name; written before the first run starts.
        show_progress: Whether to show a progress bar of runs on standard error, with the updates of running runs.

    Returns:
        Reasons of the failed runs, by name.

    Raises:
        InputError: If there are no runs, a run exists with another config, another command is doing this sweep, no
            cluster answers, or no node of it has room for a run.
        OSError: If the sweep's directory cannot be written.
        KeyboardInterrupt: On Ctrl-C; running runs write a checkpoint, and the same call resumes the sweep.
    """
    if not runs:
        raise InputError("a sweep needs at least one run")
    if jobs is None:
        all_at_once = len(runs) if ray_address else available_cores() // max(c.threads for c in runs.values())
        jobs = max(1, all_at_once) if ray_address or _all_on_cpu(runs) else 1
    if jobs < 1:
        raise InputError(f"`jobs` must be at least 1, not {jobs}")
    with _created_directory(out), exclusive_lock(out, "doing the sweep in"):
        for name, config in runs.items():
            _check_same_config(out / name, config)
        pending = [
            name
            for name in runs
            if not (out / name / "result.json").exists()
            and (retry_failed or not (out / name / "failure.json").exists())
        ]
        with closing(make_launcher(ray_address if pending else None)) as launcher:
            for name in pending:
                launcher.check(runs[name])
            if ray_address is None:  # a run itself warns too, but in its log
                settings = [runs[name].training for name in pending]
                for device in {each.device for each in settings if each.precision == "bf16"}:
                    warn_of_emulation("bf16", find_device(device))
            if command is not None:
                _append_line(out / COMMANDS_FILE, command)
            for name, content in (files or {}).items():
                atomic_write(out / name, content)
            for name, config in runs.items():
                if name in pending or not (out / name / "experiment.json").exists():
                    (out / name).mkdir(exist_ok=True)
                    atomic_write(out / name / "experiment.json", json.dumps(config.to_json(), indent=2) + "\n")
            for name in pending:
                (out / name / "failure.json").unlink(missing_ok=True)
            _launch_all(pending, runs, out, launcher, jobs, show_progress)
    return {name: failure.reason for name in runs if (failure := read_failure(out / name)) is not None}


@contextmanager
def _created_directory(path: Path) -> Iterator[None]:
    """Create a directory and its parents for the block; afterwards remove those that are empty."""
    created = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in created:
            with suppress(OSError):  # it holds files
                each.rmdir()


def _append_line(path: Path, line: str) -> None:
    """Append a line to a file, unless the file has it."""
    content = read_regular_file(path, MAX_JSON_BYTES) if path.exists() else b""
    lines = content.decode(errors="replace").splitlines()
    if line not in lines:
        atomic_write(path, "\n".join([*lines, line]) + "\n")


def _all_on_cpu(runs: Mapping[str, RunConfig]) -> bool:
    devices = {config.training.device for config in runs.values()}
    return devices <= {"cpu"} or (devices <= {"cpu", "auto"} and not torch.cuda.is_available())


def _check_same_config(directory: Path, config: RunConfig) -> None:
    """Check that the run of a directory, if it exists, is the same experiment.

    Raises:
        InputError: If it has other settings; those that decide only the rounding may differ.
    """
    if not (directory / "experiment.json").exists():
        return
    ignored = (*ARITHMETIC_SETTINGS, "threads")
    if differences := describe_differences(read_run_config(directory).flat(), config.flat(), ignore=ignored):
        raise InputError(
            f"{directory} was started with other settings: {differences}; use those, or choose another `out`"
        )


def _launch_all(
    names: Sequence[str],
    runs: Mapping[str, RunConfig],
    out: Path,
    launcher: Launcher,
    jobs: int,
    show_progress: bool,
) -> None:
    """Do the named runs, ``jobs`` at once."""
    for name in names:
        (out / name / "log.txt").unlink(missing_ok=True)  # its existence says that the run has started
    with (
        ThreadPoolExecutor(jobs) as pool,
        ProgressBar(total=len(names), unit="run", desc="runs", disable=not show_progress) as bar,
    ):
        try:
            futures = {pool.submit(_launch, launcher, out.resolve() / name, runs[name]): name for name in names}
            while futures:
                done, _ = wait(futures, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    del futures[future]
                    bar.update()
                running = [out / name for name in futures.values() if (out / name / "log.txt").exists()]
                more = f" and {len(running) - 4} more" if len(running) > 4 else ""
                bar.set_postfix_str(", ".join(map(_describe_progress, running[:4])) + more)
        except BaseException as error:
            launcher.stop()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                finished = sum((out / name / "result.json").exists() for name in runs)
                message = f"{finished} of {len(runs)} runs are finished; the same command resumes the sweep"
                raise KeyboardInterrupt(message) from None
            raise


def _launch(launcher: Launcher, directory: Path, config: RunConfig) -> None:
    """Do a run; if it fails, write its ``failure.json``.

    Raises:
        KeyboardInterrupt: If the run's process was interrupted or terminated by someone else.
    """
    outcome = launcher.run(directory, config)
    if outcome is None or (directory / "result.json").exists():
        return
    if outcome in (130, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
    if isinstance(outcome, int):
        outcome = describe_failure((directory / "log.txt").read_text(errors="replace"), outcome)
    atomic_write(directory / "failure.json", json.dumps(RunFailure(outcome).to_json(), indent=2) + "\n")


def _describe_progress(directory: Path) -> str:
    """Return the name of a running run, with its last logged update."""
    try:
        return f"{directory.name} at update {read_metrics(directory / 'training')[-1].update}"
    except (InputError, IndexError):  # the run has not written a line yet, or is writing one
        return directory.name


def describe_failure(log: str, status: int) -> str:
    """Return why a run's process failed.

    This is the error message that ended it, or the line of the last exception, or the last line of the log.

    Args:
        log: Content of the run's ``log.txt``.
        status: Exit status of the process; the negative number of the signal that killed it, if one did.
    """
    if status < 0:
        hint = "; is the memory full?" if -status == _SIGKILL else ""
        return f"signal {-status} ({signal.strsignal(-status)}) ended it{hint}"
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or [
        line for line in lines if _EXCEPTION.match(line)
    ]
    return [f"it ended with status {status}", *lines[-1:], *errors][-1].removeprefix("error: ")


_SIGKILL = 9  # Windows, which has no signals, has no `signal.SIGKILL`
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception)\b")
