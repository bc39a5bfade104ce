"""What an installation from a wheel holds."""

from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["atari_dt", "replay_data"])
def test_every_directory_with_code_is_a_package(package: str) -> None:
    """setuptools passes over others without a word, and an editable installation hides it."""
    directories = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert directories
    assert [str(each) for each in directories if not (each / "__init__.py").is_file()] == []


@pytest.mark.parametrize("package", ["atari_dt", "replay_data"])
def test_every_file_that_is_not_code_is_named(package: str) -> None:
    """Those that are not would be missing from a wheel."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = {name.strip() for name in setup["options.package_data"][package].split(",")}
    files = [path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {path.relative_to(ROOT / package).as_posix() for path in files} == named


@pytest.mark.parametrize("name", ["environment", "evaluation", "methods", "model", "training"])
def test_names_of_a_package_can_be_listed_and_imported(name: str) -> None:
    package, api = import_module(f"atari_dt.{name}"), import_module(f"atari_dt.{name}.api")
    assert dir(package) == sorted(api.__all__)
    for each in api.__all__:
        assert getattr(package, each) is getattr(api, each)
    for missing in ("no_such_name", "annotations", "__path_of_something__"):
        with pytest.raises(AttributeError, match=f"module 'atari_dt.{name}' has no attribute '{missing}'"):
            getattr(package, missing)
