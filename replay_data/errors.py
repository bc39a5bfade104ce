"""The exceptions for what a person can mend."""


class InputError(Exception):
    """Something a person gave is wrong; the message says what, where, and what to do about it.

    Commands print it as one sentence and exit with status 1; anything else is a bug and keeps its traceback.
    """


class ReplayFormatError(InputError):
    """Recorded data is damaged, or is not what its format says; the message names the file and the row or record."""
