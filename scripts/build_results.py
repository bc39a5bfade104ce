"""Build the tables and figures of docs/results.md from the result files in docs/data."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import tyro

from atari_dt.command_line import run
from replay_data import InputError

if TYPE_CHECKING:
    from atari_dt.experiments.study import Study, StudyReader

DOCS = Path(__file__).parents[1] / "docs"

STUDIES = {
    "acting": "atari_dt.experiments.acting_study",
    "sweep": "atari_dt.experiments.archive",
    "heads": "atari_dt.interpretation.head_ablation_study",
    "recording": "atari_dt.rendering.recording_archive",
}
"""Modules whose function ``read_study`` reads the files of a type."""


def main(names: tyro.conf.Positional[tuple[str, ...]] = (), /, docs: Path = DOCS, check: bool = False) -> None:
    """Write the tables of docs/data/NAME.json into docs/results.md, and its figures to docs/images.

    A table stands between the lines <!-- begin NAME:PART --> and <!-- end NAME:PART -->. A figure is drawn if the
    README or a page of the documentation links to its image, NAME-PART.png. The command lists the tables and figures
    that no page shows.

    Args:
        names: Names of the files, without .json; all of them by default.
        docs: Directory with results.md, data and images.
        check: Write nothing, and fail if a table is out of date. Figures are not checked.
    """
    from atari_dt.experiments.results_page import figure_name, fill_blocks, find_blocks, linked_figures, name_parts
    from replay_data.storage.atomic import atomic_write

    page = docs / "results.md"
    text = _read_text(page)
    known = sorted(path.stem for path in (docs / "data").glob("*.json"))
    blocks = find_blocks(text)
    for name in (*names, *(block.name for block in blocks)):
        if name not in known:
            raise InputError(
                f"there is no file {docs / 'data' / name}.json; choose one of {', '.join(known) or 'none'}, or "
                "make that file first"
            )
    studies = {name: _read_study(docs / "data" / f"{name}.json") for name in names or known}
    shown = [name for name in studies if not check or any(block.name == name for block in blocks)]
    tables = {name: studies[name].tables() for name in shown}
    content, changed = fill_blocks(text, tables)
    if check:
        if changed:
            raise InputError(f"{page} is out of date in {', '.join(changed)}; run scripts/build_results.py")
        print(f"{page}: {sum(block.name in studies for block in blocks)} tables are up to date")
        return
    figures = {name: study.figures() for name, study in studies.items()}
    linked = set[str]().union(*(linked_figures(_read_text(each)) for each in _pages(docs)))
    (docs / "images").mkdir(exist_ok=True)
    for name, drawn in figures.items():
        for part, image in drawn.items():
            if figure_name(name, part) in linked:
                atomic_write(docs / "images" / f"{figure_name(name, part)}.png", image)
    if changed:
        atomic_write(page, content)
    labels = {block.label for block in blocks}
    for name in studies:
        unused = name_parts(name, [part for part in tables[name] if name_parts(name, [part]) not in labels])
        unlinked = [each for part in figures[name] if (each := figure_name(name, part)) not in linked]
        print(f"{name}: tables without a block: {unused}; figures without a link: {', '.join(unlinked) or 'none'}")
    print(f"{page}: {len(changed)} of {len(blocks)} tables changed")


def _pages(docs: Path) -> list[Path]:
    """Return the pages that may show figures."""
    readme = docs.parent / "README.md"
    return [*sorted(docs.glob("*.md")), *([readme] if readme.exists() else [])]


def _read_text(path: Path) -> str:
    from replay_data.storage.regular_files import MAX_JSON_BYTES, read_regular_file

    try:
        return read_regular_file(path, MAX_JSON_BYTES).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; restore the file") from error


def _read_study(path: Path) -> "Study":
    from replay_data.errors import summarize_error
    from replay_data.json_fields import read_field
    from replay_data.storage.regular_files import read_json_file

    try:
        content = read_json_file(path)
        study_type = read_field(content, "type", str)
        if study_type not in STUDIES:
            raise ValueError(f"its type is {study_type[:80]!r}, not one of {', '.join(sorted(STUDIES))}")
        read_study = cast("StudyReader", importlib.import_module(STUDIES[study_type]).read_study)
        return read_study(content)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(
            f"{path} cannot be read ({summarize_error(error)}); restore the file or make it again"
        ) from error


if __name__ == "__main__":
    run(main)
