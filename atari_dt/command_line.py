"""Run a command: parse its options, and print errors as one sentence."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from atari_dt import interrupts
from replay_data import InputError


class RankError(InputError):
    """An error that occurs in only one process of a distributed run.

    `run` prints it from any process. Any other InputError occurs in all processes, and `run` prints it only from the
    first process of each machine.
    """


def run(main: Callable[..., None], parse: bool = True) -> None:
    """Call ``main`` with the options of the command line, and exit with one sentence if it fails.

    The exit status is 1 for an error and 130 for an interruption. SIGTERM acts like Ctrl-C, so that files are finished
    or removed in either case. Start-up is interruptible too, if the command's first line calls `exit_on_interrupt`.

    Args:
        main: The command. Its parameters become the options, and its docstring becomes the help text.
        parse: Whether to parse the command line here; if false, ``main`` has no parameters and does the parsing itself.
    """
    try:
        with interrupts.raise_on_interrupt():
            if parse:
                tyro.cli(main)
            else:
                main()
            sys.stdout.flush()
        return
    except (InputError, FloatingPointError) as error:
        # Under torchrun, the first process of each machine prints the errors that all processes met.
        if os.environ.get("LOCAL_RANK", "0") != "0" and not isinstance(error, RankError):
            sys.exit(1)
        message, status = str(error), 1
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        message, status = _explain(error), 1
    except KeyboardInterrupt as interruption:
        message = f"interrupted; {interruption}" if str(interruption) else "interrupted"
        status = interrupts.STATUS
        ended_by_torchrun = isinstance(interruption, interrupts.EndedByTorchrun)  # perhaps only this process is left
        if os.environ.get("LOCAL_RANK", "0") != "0" and not ended_by_torchrun:  # Ctrl-C interrupts all processes
            sys.exit(status)
    # Print after the exception and everything that it references is gone, so that no progress bar prints after it.
    print(f"error: {with_flags(message)}", file=sys.stderr)
    sys.exit(status)


def format_command(script: str, *arguments: str | Path) -> str:
    """Return a command to suggest, with every argument quoted for the shell.

    Args:
        script: Name of the file in ``scripts``.
        arguments: Arguments; a path that starts with a hyphen gets ``./`` in front, so that it is not an option.
    """
    words = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in arguments]
    return shlex.join(["python", f"scripts/{script}", *words])


def unused_path(path: Path) -> Path:
    """Return a path to suggest for output: ``path``, or the first of ``path-2``, ``path-3``, … that does not exist."""
    candidates = (path if index == 1 else path.with_name(f"{path.name}-{index}") for index in itertools.count(1))
    return next(candidate for candidate in candidates if not os.path.lexists(candidate))


def with_flags(message: str) -> str:
    """Replace each parameter name in backticks, such as `num_steps`, by its command-line option, --num-steps.

    An option with a prefix, such as --training.num-steps, is named with a dot.
    """
    return re.sub(r"`([a-z][a-z0-9_.]*)`", lambda name: f"--{name[1].replace('_', '-')}", message)


def _explain(error: OSError) -> str:
    """Return one sentence about an error of the operating system."""
    path = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({path}); free some space or write to another disk"
    if error.errno is None:
        return str(error)
    return f"{path}: {error.strerror}; check the path and its permissions"
