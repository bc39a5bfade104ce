"""The models in release/ are small, described, and play."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.releases import check_release

RELEASE = Path(__file__).parents[1] / "release"


@pytest.mark.parametrize("game", sorted(path.parent.name for path in RELEASE.glob("*/config.json")))
def test_released_models_are_small_and_play(game: str) -> None:
    check_release(RELEASE / game, f"release/{game}")
