"""The study of ways to act: its tables and figure for docs/results.md, from the file of `compare_acting.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atari_dt.experiments.acting_results import ActingComparison
from atari_dt.experiments.acting_tables import comparison_tables


@dataclass(frozen=True)
class ActingStudy:
    """A comparison of ways to act as a `atari_dt.experiments.study.Study`."""

    comparison: ActingComparison

    def tables(self) -> dict[str, list[list[str]]]:
        """Return a table for each question that was asked, one of what was left out, and one of the settings."""
        return comparison_tables(self.comparison)

    def figures(self) -> dict[str, bytes]:
        """Return the figure of the comparison; none if only the default was played."""
        from atari_dt.experiments.acting_figure import comparison_figure  # Matplotlib takes half a second

        return {"": comparison_figure(self.comparison)} if len(self.comparison.results) > 1 else {}


def read_study(content: Any) -> ActingStudy:
    """Read the content of a file of the type ``acting``.

    Raises:
        InputError, ValueError, KeyError, TypeError: If the content is malformed.
    """
    return ActingStudy(ActingComparison.from_json(content))
