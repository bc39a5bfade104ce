"""A complete recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.atari_dt.collection.recordings import record_breakout


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a recording of `NumberedEpisodes` that was never interrupted."""
    out = tmp_path_factory.mktemp("recordings") / "complete"
    record_breakout(out)
    return out
