"""build_results.py: tables and figures of a page from result files; and docs/results.md is up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest

from tests.conftest import DATA
from tests.scripts.commands import SCRIPTS, call

PAGE = """# Results

<!-- begin sweep:scores -->
<!-- end sweep:scores -->

![Curves](images/sweep-curves.png)
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A page and the archive of two runs, written by version 0.1.0 of the archive's format."""
    (tmp_path / "docs" / "data").mkdir(parents=True)
    (tmp_path / "docs" / "results.md").write_text(PAGE)
    archive = (DATA / "sweep_archive.json").read_text()
    (tmp_path / "docs" / "data" / "sweep.json").write_text(archive)
    return tmp_path / "docs"


def build(monkeypatch: pytest.MonkeyPatch, docs: Path, *options: str) -> int:
    return call(monkeypatch, "build_results.py", *options, "--docs", docs)


def test_tables_and_linked_figures_are_built(
    docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(monkeypatch, docs) == 0
    output = capsys.readouterr().out
    assert "1 of 1 tables changed" in output
    assert re.search("sweep: tables without a block: .*sweep:runs.*; figures without a link: .*sweep-benchmark", output)
    lines = (docs / "results.md").read_text().splitlines()
    assert [path.name for path in (docs / "images").iterdir()] == ["sweep-curves.png"]
    image = cv2.imread(str(docs / "images" / "sweep-curves.png"))
    assert image is not None
    assert image.std() > 5

    runs = json.loads((docs / "data" / "sweep.json").read_text())["runs"]
    for label, run in zip(("BC", "DT"), runs, strict=True):
        (target,) = run["result"]["targets"]
        mean = sum(target["scores"]) / len(target["scores"])
        row = next(line for line in lines if line.startswith(f"| Breakout | {label} |"))
        assert f" | {mean:.1f} | " in row
    assert lines[:2] + lines[-2:] == ["# Results", "", "", "![Curves](images/sweep-curves.png)"]

    before = (docs / "results.md").read_text()
    changed = json.dumps(json.loads((docs / "data" / "sweep.json").read_text())).replace('"scores": [4', '"scores": [9')
    (docs / "data" / "sweep.json").write_text(changed)
    assert build(monkeypatch, docs, "--check") == 1
    assert "is out of date in sweep:scores; run scripts/build_results.py" in capsys.readouterr().err
    assert (docs / "results.md").read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("data/x.json", "{}", (), "x.json cannot be read (KeyError: 'type'); restore the file or make it again"),
        ("data/x.json", '{"type": "poem"}', (), "its type is 'poem', not one of acting, heads"),
        ("data/x.json", '{"type": "sweep"}', (), "x.json cannot be read (KeyError: 'datasets')"),
        ("data/x.json", "[", (), "x.json cannot be read (JSONDecodeError"),
        ("results.md", "<!-- begin y:z -->\n<!-- end y:z -->", (), "there is no file {docs}/data/y.json; choose one"),
        ("results.md", "<!-- begin sweep -->\n<!-- end sweep -->", (), "sweep has no table for the block sweep"),
        ("results.md", "\udcff", (), "results.md is not UTF-8 text"),
        ("x", "", ("no",), "there is no file {docs}/data/no.json; choose one of sweep, or make"),
    ],
)
def test_bad_input_gets_one_sentence(
    docs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    (docs / name).write_bytes(content.encode(errors="surrogateescape"))
    before = {path: path.read_bytes() for path in docs.rglob("*.*")}
    assert build(monkeypatch, docs, *options) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message.format(docs=docs) in error
    assert {path: path.read_bytes() for path in docs.rglob("*.*")} == before


def test_the_published_tables_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(monkeypatch, SCRIPTS.parent / "docs", "--check") == 0
