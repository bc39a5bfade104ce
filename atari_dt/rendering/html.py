"""Reports of headings, tables and figures, written as Markdown and as one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import markdown

from atari_dt.rendering.tables import align_columns
from replay_data.storage.atomic import atomic_write

Rows = Sequence[Sequence[str]]


class ReportDocument:
    """Report built from top to bottom: each method appends a block, and `write` writes the files.

    All text is escaped, so that Markdown and HTML show it literally.

    Attributes:
        tables: Main tables as aligned text, with heading and caption, for the terminal.
        rows: Cells of all tables, by the name of their section: its heading as in the address of a link to it, such as
            ``learning-curves``. The second table of a section has ``-2`` behind this name, the third ``-3``.
        figures: Functions that draw the figures, as the content of a PNG file, by the name of the figure.
    """

    def __init__(self) -> None:
        self.tables: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.figures: dict[str, Callable[[], bytes]] = {}
        self._heading = ""
        self._blocks: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """Append a heading; the first one, of level 1, is also the title of the page."""
        self._heading = text
        self._blocks.append(f"{'#' * level} {_escape(text)}")

    def paragraph(self, text: str) -> None:
        """Append a paragraph."""
        self._blocks.append(_escape(text))

    def bullets(self, items: Sequence[str]) -> None:
        """Append a bulleted list."""
        self._blocks.append("\n".join(f"- {_escape(item)}" for item in items))

    def code(self, text: str) -> None:
        """Append a code block; its fence is longer than any run of backticks in the text."""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        self._blocks.append(f"{fence}\n{text}\n{fence}")

    def table(self, rows: Rows, caption: str = "", main: bool = False) -> None:
        """Append a table.

        Args:
            rows: Cells, the header first. Columns of numbers are right-aligned.
            caption: Text below the table.
            main: Whether ``tables`` gets the table too.
        """
        self._blocks.append(markdown_table(rows))
        section = re.sub(r"[^\w-]", "", self._heading.lower().replace(" ", "-"))
        names = (section if index == 1 else f"{section}-{index}" for index in itertools.count(1))
        self.rows[next(name for name in names if name not in self.rows)] = [list(row) for row in rows]
        if caption:
            self._blocks.append(f"*{_escape(caption)}*")
        if main:
            self.tables.append(f"{self._heading}\n{align_columns(rows)}\n{caption}")

    def figure(self, name: str, alt: str, draw: Callable[[], bytes]) -> None:
        """Append a figure, to be drawn when the document is written.

        Args:
            name: Name of the file, without ``.png``.
            alt: Alternative text.
            draw: Function that returns the content of the PNG file.
        """
        self.figures[name] = draw
        self._blocks.append(f"![{_escape(alt)}](figures/{name}.png)")

    def write(self, out: Path) -> None:
        """Write ``report.md``, ``report.html`` and ``figures/`` to a directory; the HTML file embeds the figures."""
        drawn = {name: draw() for name, draw in self.figures.items()}  # before a file is written, because it may fail
        text = "\n\n".join(self._blocks) + "\n"
        body = markdown.markdown(text, extensions=["tables", "fenced_code"])
        (out / "figures").mkdir(exist_ok=True)
        for name, content in drawn.items():
            atomic_write(out / "figures" / f"{name}.png", content)
            image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            body = body.replace(f'src="figures/{name}.png"', f'src="{image}"')
        body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
        title = self._blocks[0].removeprefix("# ")
        atomic_write(out / "report.md", text)
        atomic_write(out / "report.html", _PAGE.format(title=title, body=body))


def markdown_table(rows: Rows) -> str:
    """Return a table in Markdown, with all text escaped and columns of numbers right-aligned.

    Args:
        rows: Cells, the header first.
    """
    lines = [f"| {' | '.join(_escape(cell) for cell in row)} |" for row in rows]
    numeric = [all(_NUMBER.match(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
    lines.insert(1, f"|{'|'.join('---:' if is_numeric else '---' for is_numeric in numeric)}|")
    return "\n".join(lines)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ border-bottom: 1px solid #ccc; margin-top: 2.5rem }}
img {{ max-width: 100%; height: auto }}
.table {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }}
th, td {{ padding: 0.25rem 0.7rem; text-align: left; vertical-align: top }}
td[style*="right"], td:first-child {{ white-space: nowrap }}
th {{ border-bottom: 2px solid #222 }}
tr:nth-child(even) td {{ background: #f5f5f5 }}
pre {{ background: #f5f5f5; padding: 0.7rem; white-space: pre-wrap }}
</style>
</head>
<body>
{body}
</body>
</html>
"""

_NUMBER = re.compile(r"[-\d.]|$")
"""Start of a cell that is a number, or an empty cell."""


def _escape(text: str) -> str:
    """Return text without line breaks, in which all characters special to Markdown or HTML are character references.

    An underscore within a word is not special.
    """
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[*`\\\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda match: f"&#{ord(match[0])};", text)
