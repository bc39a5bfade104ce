"""What every command shares: a command line made from a function's signature, and errors that are for people."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from types import FrameType

import tyro

from replay_data import InputError


class RankError(InputError):
    """An error that only one process of a distributed run met.

    `run` prints it from every process. Any other InputError is met by all processes, and `run` prints it only from the
    first process of each machine.
    """


def run(main: Callable[..., None], parse: bool = True) -> None:
    """Call ``main`` with what the command line says; end with one sentence and status 1 (or 130) if it cannot go on.

    Without ``parse``, ``main`` reads the command line itself. SIGTERM is handled like Ctrl-C, so that files are
    finished or removed either way.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if parse:
            tyro.cli(main)
        else:
            main()
        return
    except (InputError, FloatingPointError) as error:
        # Of the processes that torchrun started on a machine, the first one says what all have met.
        if os.environ.get("LOCAL_RANK", "0") != "0" and not isinstance(error, RankError):
            sys.exit(1)
        message, status = str(error), 1
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        message, status = _explain(error), 1
    except KeyboardInterrupt as interruption:
        message, status = f"interrupted; {interruption}" if str(interruption) else "interrupted", 130
    # Said when the exception is gone, and with it what it held: a progress bar would otherwise have the last word.
    print(f"error: {with_flags(message)}", file=sys.stderr)
    sys.exit(status)


def with_flags(message: str) -> str:
    """Turn the parameters that an error names, such as `num_steps`, into command-line options, such as --num-steps."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda name: f"--{name[1].replace('_', '-')}", message)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _explain(error: OSError) -> str:
    where = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({where}); free some space or write to another disk"
    if error.errno is None:
        return str(error)
    return f"{where}: {error.strerror}; check that the path is right and yours to write"
