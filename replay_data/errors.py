"""Exceptions about problems that the user can fix."""

import re

_MAX_QUOTED = 500  # characters of another library's message; longer ones are explanations and advice


class InputError(Exception):
    """Bad input. The message is one sentence: what is wrong, in which file, and what to do.

    Commands print the message and exit with status 1; any other exception is a bug and keeps its traceback. The message
    names parameters in backticks, as in "`num_steps` must be at least 1"; commands print them as their flags,
    ``--num-steps``.
    """


class ReplayFormatError(InputError):
    """Recorded data is damaged or not in its documented format. The message names the file and the row or record."""


def summarize_error(error: BaseException) -> str:
    """Return the type and the message of an error, on one line, to quote in another message.

    The message is quoted whole or, if it has more than 500 characters, not at all: a part of it can say the opposite,
    and advice of another library can be wrong here. Its backticks become apostrophes, because they do not mark
    parameters of this project. The message of an InputError stands alone.
    """
    message = " ".join(re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", str(error)).split())  # without terminal codes
    message = "".join(character for character in message if character.isprintable())
    if isinstance(error, InputError):
        return message
    message = message.replace("`", "'")
    return f"{type(error).__name__}: {message}" if 0 < len(message) <= _MAX_QUOTED else type(error).__name__
