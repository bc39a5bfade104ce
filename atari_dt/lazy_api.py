"""Import the names of a package when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_api(module_name: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package (PEP 562) that takes its names from a module.

    Args:
        module_name: Name of the module, which is imported when the first of its names is used. Its ``__all__`` lists
            the names.
    """

    def get_attribute(name: str) -> Any:
        if not name.startswith("_"):
            module = import_module(module_name)
            if name in module.__all__:
                return getattr(module, name)
        raise AttributeError(f"module {module_name.rpartition('.')[0]!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return list(import_module(module_name).__all__)

    return get_attribute, list_names
