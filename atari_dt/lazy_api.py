"""Import the names of a package when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_api(module_name: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package (PEP 562) that takes the package's names from a module.

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

    return get_attribute
