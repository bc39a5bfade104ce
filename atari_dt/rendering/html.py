"""Documents of headings, tables and figures, written as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

import markdown

from atari_dt.rendering.tables import align_columns
from replay_data.storage.atomic import atomic_write

Rows = Sequence[Sequence[str]]


class ReportDocument:
    """A report that is being written: Markdown, the figures in it, and its main tables as text."""

    def __init__(self) -> None:
        self.tables: list[str] = []
        self._parts: list[str] = []
        self._figures: dict[str, bytes] = {}

    def heading(self, text: str, level: int = 2) -> None:
        self._heading = text
        self._parts.append(f"{'#' * level} {_escaped(text)}")

    def paragraph(self, text: str) -> None:
        self._parts.append(_escaped(text))

    def bullets(self, items: Sequence[str]) -> None:
        self._parts.append("\n".join(f"- {_escaped(item)}" for item in items))

    def code(self, text: str) -> None:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        self._parts.append(f"{fence}\n{text}\n{fence}")

    def table(self, rows: Rows, caption: str = "", main: bool = False) -> None:
        """A table under its header; a ``main`` one is also for the terminal."""
        lines = [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
        numbers = [all(_NUMBER.match(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
        lines.insert(1, f"|{'|'.join('---:' if each else '---' for each in numbers)}|")
        self._parts.append("\n".join(lines))
        if caption:
            self._parts.append(f"*{_escaped(caption)}*")
        if main:
            self.tables.append(f"{self._heading}\n{align_columns(rows)}\n{caption}")

    def figure(self, name: str, alt: str, content: bytes) -> None:
        self._figures[f"{name}.png"] = content
        self._parts.append(f"![{_escaped(alt)}](figures/{name}.png)")

    def write(self, out: Path) -> None:
        """Write all of it; the HTML file has the figures in it."""
        text = "\n\n".join(self._parts) + "\n"
        body = markdown.markdown(text, extensions=["tables", "fenced_code"])
        (out / "figures").mkdir(exist_ok=True)
        for name, content in self._figures.items():
            atomic_write(out / "figures" / name, content)
            image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            body = body.replace(f'src="figures/{name}"', f'src="{image}"')
        body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
        title = self._parts[0].removeprefix("# ")
        atomic_write(out / "report.md", text)
        atomic_write(out / "report.html", _PAGE.format(title=title, body=body))


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
"""How the text of a cell begins that is a number, or empty; such columns are aligned to the right."""


def _escaped(text: str) -> str:
    """Text in which neither Markdown nor HTML finds a sign of its own; an underscore within a word is none."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"[*`\\\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", lambda sign: f"&#{ord(sign[0])};", text)
