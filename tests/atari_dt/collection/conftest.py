"""A complete recording, and tests that do not wait for the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.atari_dt.collection.recordings import record_breakout, without_fsync


@pytest.fixture(autouse=True)
def _no_fsync() -> Iterator[None]:
    with without_fsync():
        yield


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a recording of `NumberedEpisodes` that was never interrupted."""
    out = tmp_path_factory.mktemp("recordings") / "complete"
    with without_fsync():
        record_breakout(out)
    return out
