"""The law of docs/architecture.md: imports point down, files stay short, libraries know no command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("replay_data", "atari_dt")
LINES = 400

# From the bottom up. Packages on one layer do not import each other.
LAYERS = (
    {"replay_data.errors", "replay_data.json_fields", "replay_data.progress"},
    {"replay_data.recording", "replay_data.opencv"},
    {"replay_data.storage"},
    {"replay_data.episode"},
    {"replay_data.observation"},
    {"replay_data.byte_statistics"},
    {"replay_data.sources"},
    {"replay_data.contexts", "replay_data.store_metadata", "replay_data.download", "replay_data.hub_download"},
    {"replay_data.store_arrays"},
    {"replay_data.store_writer", "replay_data.trajectory_store"},
    {"replay_data.selection", "replay_data.testing", "replay_data.minari_export"},
    {"replay_data"},
    {"atari_dt"},
    {"atari_dt.interrupts", "atari_dt.lazy_api"},
    {"atari_dt.config", "atari_dt.hardware", "atari_dt.command_line"},
    {"atari_dt.player_config", "atari_dt.trajectory_config"},
    {"atari_dt.method_config"},
    {"atari_dt.games", "atari_dt.recipes"},
    {"atari_dt.model", "atari_dt.environment"},
    {"atari_dt.batches", "atari_dt.policies"},
    {"atari_dt.methods"},
    {"atari_dt.training", "atari_dt.evaluation"},
    {"atari_dt.rendering"},
    {"atari_dt.experiments", "atari_dt.interpretation", "atari_dt.collection"},
    {"atari_dt.preparation"},
    {"scripts"},
)


def sources(*directories: str) -> list[Path]:
    return [path for name in directories for path in sorted((ROOT / name).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in sources(*LIBRARIES)}


def imported_modules(path: Path) -> Iterator[str]:
    """Yield this project's modules that a file imports anywhere, in functions and under ``TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in submodules]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def layer(module: str) -> tuple[int, str]:
    """Return the index of a module's layer, and the package or module on it that the module belongs to."""
    fits = [
        (index, name)
        for index, names in enumerate(LAYERS)
        for name in names
        if module == name or (module.startswith(f"{name}.") and name not in LIBRARIES)
    ]
    assert fits, f"{module} is on no layer; add it to LAYERS and docs/architecture.md"
    return max(fits, key=lambda fit: len(fit[1]))


@pytest.mark.parametrize("path", sources(*LIBRARIES, "scripts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    index, package = layer(module_name(path))
    for module in imported_modules(path):
        other_index, other_package = layer(module)
        assert other_package == package or other_index < index, f"{path} imports {module}"


def test_no_import_cycle() -> None:
    graph = {module_name(path): set(imported_modules(path)) - {module_name(path)} for path in sources(*LIBRARIES)}
    while leaves := {module for module, imports in graph.items() if not imports & graph.keys()}:
        for module in leaves:
            del graph[module]
    assert not graph, f"these modules are in or above an import cycle: {sorted(graph)}"


@pytest.mark.parametrize("path", sources(*LIBRARIES, "scripts", "tests"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("path", sources("replay_data"), ids=lambda path: str(path.relative_to(ROOT)))
def test_replay_data_needs_no_torch_and_no_emulator(path: Path) -> None:
    assert not re.search(r"^\s*(import|from) (torch|ale_py|gymnasium|atari_dt)\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sources(*LIBRARIES, "scripts"), ids=lambda path: str(path.relative_to(ROOT)))
def test_opencv_is_imported_in_one_place(path: Path) -> None:
    if module_name(path) != "replay_data.opencv":
        assert not re.search(r"^\s*(import|from) cv2\b", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sources(*LIBRARIES), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_name_no_flags(path: Path) -> None:
    """An error names a parameter, `num_steps`; the command that prints it turns that into its flag."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    assert [text for text in strings if re.search(r"(?<![\w-])--[a-z][a-z-]*\b", text)] == []
