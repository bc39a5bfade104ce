"""What an installation from a wheel holds."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["atari_dt", "replay_data"])
def test_every_directory_with_code_is_a_package(package: str) -> None:
    """setuptools passes over others without a word, and an editable installation hides it."""
    directories = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert directories
    assert [str(each) for each in directories if not (each / "__init__.py").is_file()] == []
