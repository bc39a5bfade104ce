"""Readable errors for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from replay_data.errors import InputError, summarize_error

_PACKAGES = {"huggingface_hub", "httpx", "httpx2", "requests"}  # whose exceptions the Hub's library raises

_REASONS = {
    "GatedRepoError": "it is gated; accept its terms on its web page",
    "RepositoryNotFoundError": "it does not exist, or is private",
    "RevisionNotFoundError": "it has no such revision",
}
"""What the most frequent errors of the Hub's library mean."""


def foreign_answer_error(repo_id: str) -> InputError:
    """Return the error to raise where an answer about a repository is not the JSON that the Hub sends."""
    return InputError(
        f"the answer about {repo_id} does not come from the Hugging Face Hub; check the network, which may want you to "
        "log in"
    )


@contextmanager
def translate_hub_errors(repo_id: str, action: str) -> Iterator[None]:
    """Turn network and repository errors of the Hub's library into an InputError.

    Args:
        repo_id: Repository on the Hub.
        action: Attempted action, such as ``"written to"``.

    Raises:
        InputError: If the repository does not exist, access is denied, or the network is down.
    """
    try:
        yield
    except Exception as error:
        bases = type(error).__mro__
        if not _PACKAGES & {base.__module__.partition(".")[0] for base in bases}:
            raise
        reason = next((_REASONS[base.__name__] for base in bases if base.__name__ in _REASONS), summarize_error(error))
        raise InputError(
            f"{repo_id!r} cannot be {action} the Hugging Face Hub ({reason}); check the name, the network and your "
            "login"
        ) from error
