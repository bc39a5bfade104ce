"""What the results of an experiment offer to docs/results.md: tables and figures, made of one JSON file."""

from __future__ import annotations

from typing import Any, Protocol


class Study(Protocol):
    """The results in one file of ``docs/data``, whatever the experiment was.

    The field ``type`` of the file names the kind of experiment, such as ``"sweep"``. The module that writes files of a
    type offers a `StudyReader` for them.
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


class StudyReader(Protocol):
    """A function that reads the content of a study's file."""

    def __call__(self, content: Any, /) -> Study:
        """Return the study.

        Args:
            content: Parsed JSON, with the fields ``type`` and ``format_version``.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        ...
