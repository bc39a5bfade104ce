"""The generated parts of docs/results.md: tables between markers, and links to figures.

A table stands between the lines ``<!-- begin NAME:PART -->`` and ``<!-- end NAME:PART -->``, where ``NAME.json`` is a
file in ``docs/data`` and PART one of its tables (see `Study`). The text around them is written by hand.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from atari_dt.rendering.html import markdown_table
from replay_data import InputError

_MARKER = re.compile(r"^<!-- *(begin|end) +([^\s:]+)(?::(\S+))? *-->$")
_IMAGE = re.compile(r"images/([^\s/()\"']+)\.png")


@dataclass(frozen=True)
class Block:
    """A generated table of the page.

    Attributes:
        name: Name of the study.
        part: Part of the study's tables.
        start, stop: Indices of the first line of the table, and of the line after it.
    """

    name: str
    part: str
    start: int
    stop: int

    @property
    def label(self) -> str:
        """The block's name in its markers."""
        return f"{self.name}:{self.part}" if self.part else self.name


def find_blocks(text: str) -> list[Block]:
    """Return the blocks of a page, from top to bottom.

    Raises:
        InputError: If a marker lacks its partner, or blocks overlap.
    """
    blocks: list[Block] = []
    begun: Block | None = None
    for index, line in enumerate(text.split("\n")):
        if (marker := _MARKER.match(line.strip())) is None:
            continue
        block = Block(marker[2], marker[3] or "", index + 1, index + 1)
        if marker[1] == "begin" and begun is None:
            begun = block
        elif marker[1] == "end" and begun is not None and begun.label == block.label:
            blocks.append(dataclasses.replace(begun, stop=index))
            begun = None
        else:
            raise InputError(
                f"line {index + 1} of the page, {line.strip()[:80]}, has no partner; put each table between a begin "
                "and an end line of its name"
            )
    if begun is not None:
        raise InputError(f"the block {begun.label}, which begins in line {begun.start}, does not end; add its end line")
    return blocks


def fill_blocks(text: str, tables: Mapping[str, Mapping[str, list[list[str]]]]) -> tuple[str, list[str]]:
    """Return a page with its tables made again, and the labels of the blocks that this changed.

    Args:
        text: The page.
        tables: Tables of each study to be filled in, by part; the blocks of other studies stay as they are.

    Raises:
        InputError: If a study has no table of a block's part, or as in `find_blocks`.
    """
    lines, changed = text.split("\n"), []
    for block in reversed(find_blocks(text)):
        if block.name not in tables:
            continue
        parts = tables[block.name]
        if block.part not in parts:
            raise InputError(
                f"{block.name} has no table for the block {block.label}; its tables are {name_parts(block.name, parts)}"
            )
        content = ["", *markdown_table(parts[block.part]).split("\n"), ""]
        if lines[block.start : block.stop] != content:
            lines[block.start : block.stop] = content
            changed.append(block.label)
    return "\n".join(lines), changed[::-1]


def name_parts(name: str, parts: Iterable[str]) -> str:
    """Return the labels of the parts of a study, for a message; "none" if it has none."""
    return ", ".join(f"{name}:{part}" if part else name for part in parts) or "none"


def figure_name(name: str, part: str) -> str:
    """Return the name of a figure's file, without ``.png``."""
    return f"{name}-{part}" if part else name


def linked_figures(text: str) -> set[str]:
    """Return the names of all images of a page in ``images/``, without ``.png``."""
    return set(_IMAGE.findall(text))
