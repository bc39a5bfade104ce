"""The one exception for what a person can mend."""


class InputError(Exception):
    """Something a person gave is wrong; the message says what, where, and what to do about it.

    Commands print it as one sentence and exit with status 1; anything else is a bug and keeps its traceback.
    """
