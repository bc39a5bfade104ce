"""README and docs: links resolve, commands and options exist, the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scripts.commands import call

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python scripts/([\w/]+\.py)((?:[^`\n]|\\\n)*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    local = [target for target in targets if target and not target.startswith("http")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_quoted_options_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the README's commands: those of the other pages were run with the versions that they are dated with."""
    options: dict[str, set[str]] = {}
    for script, arguments in COMMAND.findall((ROOT / "README.md").read_text()):
        options.setdefault(script, set()).update(re.findall(r"--[a-z-]+", arguments))
    assert len(options) >= 6
    for script, quoted in options.items():
        assert call(monkeypatch, script, "--help") == 0
        known = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out))
        assert quoted <= known, f"{script} has no {quoted - known}"
