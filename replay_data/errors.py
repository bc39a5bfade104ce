"""Exceptions about problems that the user can fix."""


class InputError(Exception):
    """Bad input. The message is one sentence: what is wrong, in which file, and what to do.

    Commands print the message and exit with status 1; any other exception is a bug and keeps its traceback. The message
    names parameters in backticks, as in "`num_steps` must be at least 1"; commands print them as their flags,
    ``--num-steps``.
    """


class ReplayFormatError(InputError):
    """Recorded data is damaged or not in its documented format. The message names the file and the row or record."""


def summarize_error(error: BaseException) -> str:
    """Return the first 200 characters of an error's message, on one line."""
    return " ".join(str(error).split())[:200]
