"""The methods of the benchmark, by the names that commands accept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from atari_dt.config import MethodName
from replay_data import InputError

TABLE_METHODS: tuple[MethodName, ...] = ("dt", "bc", "qrdqn", "cql", "rem")
"""Methods of the paper's table 1, which observe frames."""

DEFAULT_METHODS = ("dt", "bc", "top10bc")
"""Names of the methods that the benchmark does by default."""


@dataclass(frozen=True)
class BenchmarkMethod:
    """A learning method, and the percentage of the steps that it trains on.

    Attributes:
        name: Name of the learning method.
        top_percent: Percentage of the steps, those of the best episodes; below 100 for %BC.
    """

    name: MethodName
    top_percent: float = 100.0

    @property
    def label(self) -> str:
        """Name of the method in the name of a run: ``DT``, ``BC``, ``10BC``, ``QRDQN``, ``CQL`` or ``REM``."""
        return f"{self.top_percent:g}BC" if self.top_percent < 100 else self.name.upper()


def parse_methods(names: Sequence[str]) -> list[BenchmarkMethod]:
    """Return the methods of the given names: those of `TABLE_METHODS`, and ``top10bc`` or other percentages.

    Raises:
        InputError: If there is no name, a name is unknown, or two names are of the same method.
    """
    if not names:
        raise InputError("`methods` must have at least one method")
    methods: dict[str, BenchmarkMethod] = {}
    for name in names:
        method = _parse_method(name)
        if method.label in methods:
            raise InputError(f"`methods` has {name!r} twice; give each method once")
        methods[method.label] = method
    return list(methods.values())


def _parse_method(name: str) -> BenchmarkMethod:
    for method_name in TABLE_METHODS:
        if name == method_name:
            return BenchmarkMethod(method_name)
    match = re.fullmatch(r"top([0-9]+(?:\.[0-9]+)?)bc", name)
    if match is None:
        raise InputError(
            f"`methods` has {name[:80]!r}, which is not a method; choose from {', '.join(TABLE_METHODS)} and top10bc, "
            "behavior cloning of the best 10% of the steps, or another percentage of them"
        )
    percent = float(match[1])
    if percent == 100:
        raise InputError(f"`methods` has {name!r}, which clones all of the steps; use bc, or a percentage below 100")
    if not 0 < percent < 100:
        raise InputError(f"`methods` has {name[:80]!r}, whose percentage must be above 0 and below 100")
    return BenchmarkMethod("bc", percent)
