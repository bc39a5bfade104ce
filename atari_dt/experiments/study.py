"""The interface between a file of results in docs/data and the page docs/results.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Study(Protocol):
    """The results of an experiment, read from one file in ``docs/data``.

    The field ``type`` of the file, such as ``"sweep"``, selects the module that reads it.
    """

    def tables(self) -> dict[str, list[list[str]]]:
        """Return tables of text by part; the first row of each is its header.

        The part names the block of ``docs/results.md`` that the table fills: the table of part ``scores`` in
        ``NAME.json`` fills the block ``NAME:scores``, and the table of part ``""`` the block ``NAME``.
        """
        ...

    def figures(self) -> dict[str, bytes]:
        """Return the contents of PNG files by part; part ``scores`` of ``NAME.json`` is drawn to ``NAME-scores.png``.

        The figure of part ``""`` is drawn to ``NAME.png``.
        """
        ...


StudyReader = Callable[[Any], Study]
"""Function from parsed JSON to the study.

It raises an InputError, ValueError, KeyError or TypeError if the content is malformed.
"""
