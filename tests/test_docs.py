"""README and docs: links resolve, commands and options exist, the README stays short."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python (scripts/[\w/]+\.py)((?:[^`\n]|\\\n)*)")


@cache
def help_text(script: str) -> str:
    return subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    local = [target for target in targets if target and not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_quoted_options_exist() -> None:
    """Only the README's commands: those of the other pages were run with the versions that they are dated with."""
    commands = COMMAND.findall((ROOT / "README.md").read_text())
    assert len({script for script, _ in commands}) >= 6
    for script, options in commands:
        for option in re.findall(r"--[a-z-]+", options):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_text(script)), f"{script} has no {option}"
