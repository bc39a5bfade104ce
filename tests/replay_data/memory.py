"""Limit the memory that a block of a test may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited_memory(megabytes: float) -> Iterator[None]:
    """Check that Python and NumPy never hold more memory inside the block than before it, plus ``megabytes``."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()
