"""The exceptions for what a user can fix."""


class InputError(Exception):
    """Bad input: the message says what is wrong, where, and what to do about it.

    Commands print the message as one sentence and exit with status 1; any other exception is a bug and keeps its
    traceback. A parameter is named in backticks, as in "`num_steps` must be at least 1": commands print it as their own
    option, ``--num-steps``.
    """


class ReplayFormatError(InputError):
    """Recorded data is damaged or not in its documented format; the message names the file and the row or record."""


def summarize_error(error: BaseException) -> str:
    """Return the first 200 characters of an error's message, on one line."""
    return " ".join(str(error).split())[:200]
