"""Selection: defaults, and options that a method does not use or that are out of range."""

from __future__ import annotations

from typing import Any

import pytest

from replay_data import InputError
from replay_data.selection.methods import Selection, SelectionMethod


def test_only_the_draws_default_to_fifty_buffers() -> None:
    assert Selection.of("corrected") == Selection()
    assert Selection.of("original").num_buffers == 50
    assert Selection.of("even").num_buffers is None
    assert Selection.of("top", num_buffers=7, top_episode_percent=None).num_buffers == 7


def test_json_lists_the_options_that_the_method_uses() -> None:
    assert Selection.of("corrected", seed=5).to_json() == {
        "method": "corrected",
        "num_steps": 500_000,
        "num_buffers": 50,
        "trajectories_per_buffer": 10,
        "seed": 5,
    }
    assert Selection.of("top").to_json() == {"method": "top", "top_episode_percent": 10}
    assert Selection.of("return_range", max_return=0).to_json() == {"method": "return_range", "max_return": 0}
    assert Selection.of("return_range", min_return=2.5, max_return=2.5, num_buffers=3).to_json() == {
        "method": "return_range",
        "num_buffers": 3,
        "min_return": 2.5,
        "max_return": 2.5,
    }


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("all", {"num_steps": 5}, "`num_steps` has no effect on `selection` all, which uses `num_buffers`; leave it"),
        ("even", {"seed": 5}, "`seed` has no effect on `selection` even"),
        ("corrected", {"top_episode_percent": 5}, "`top_episode_percent` has no effect on `selection` corrected"),
        ("corrected", {"num_steps": 0}, "`num_steps` is 0; it must be at least 1"),
        ("even", {"num_steps": 10**400}, "`num_steps` is 1000*; it must be from 1 to 9007199254740992"),
        ("corrected", {"num_buffers": 0}, "`num_buffers` is 0; it must be at least 1"),
        ("corrected", {"seed": -1}, "`seed` is -1; it must be from 0 to"),
        ("top", {"top_episode_percent": 101}, "`top_episode_percent` is 101; it must be from"),
        ("corrected", {"trajectories_per_buffer": -1}, "`trajectories_per_buffer` is -1; it must be at least 0"),
        ("return_range", {}, "`selection` return_range needs `min_return`, `max_return` or both"),
        ("return_range", {"num_buffers": 2}, "`selection` return_range needs `min_return`, `max_return` or both"),
        ("return_range", {"min_return": 5, "max_return": 4.5}, "`min_return` is 5, above `max_return`, which is 4.5"),
        ("return_range", {"min_return": float("nan")}, "`min_return` is nan; it must be from"),
        ("return_range", {"max_return": float("inf")}, "`max_return` is inf; it must be from"),
        ("return_range", {"min_return": 1, "top_episode_percent": 5}, "`top_episode_percent` has no effect on `selec"),
        ("top", {"min_return": 1}, "`min_return` has no effect on `selection` top"),
    ],
)
def test_invalid_options_are_refused(method: SelectionMethod, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Selection.of(method, **options)
