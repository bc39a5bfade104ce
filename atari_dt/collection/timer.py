"""Measure where a player's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class ComponentTimer:
    """Measures the share of wall time that each component of a player takes.

    Args:
        components: Their names.
    """

    def __init__(self, *components: str):
        self._start_time = time.perf_counter()
        self._seconds = dict.fromkeys(components, 0.0)

    @contextmanager
    def time(self, component: str) -> Iterator[None]:
        """Add the time that the block takes to a component."""
        start_time = time.perf_counter()
        yield
        self._seconds[component] += time.perf_counter() - start_time

    def shares(self) -> dict[str, float]:
        """Return each component's share of the time since this timer was created, by ``"{component}_share"``."""
        total = time.perf_counter() - self._start_time
        return {f"{component}_share": seconds / total for component, seconds in self._seconds.items()}
