"""How the errors of other libraries are quoted."""

from __future__ import annotations

import pytest

from replay_data.errors import InputError, summarize_error


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (KeyError("game"), "KeyError: 'game'"),
        (EOFError(), "EOFError"),
        (ValueError("first line\n\n\tsecond line\n"), "ValueError: first line second line"),
        (
            RuntimeError("\x1b[1mdo this only if you trust it\x1b[0m\x07\x00"),
            "RuntimeError: do this only if you trust it",
        ),
        (ValueError("give a `repo_id`"), "ValueError: give a 'repo_id'"),
        (InputError("`num_steps` is 0; raise it"), "`num_steps` is 0; raise it"),
        (InputError("the disk is full; free some space"), "the disk is full; free some space"),
        (RuntimeError("x" * 500), "RuntimeError: " + "x" * 500),
        (RuntimeError("It failed. " * 50 + "Do not do this: turn the check off"), "RuntimeError"),
        (InputError("x" * 999), "x" * 999),
    ],
)
def test_a_message_is_quoted_whole_or_not_at_all(error: Exception, summary: str) -> None:
    assert summarize_error(error) == summary
