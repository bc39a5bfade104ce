"""Evaluation protocols, on data with and without sticky actions."""

from __future__ import annotations

import pytest

from atari_dt.config import ModelConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.policies.protocol import PROTOCOLS


@pytest.mark.parametrize(("of_data", "played"), [(0.25, 0.25), (0.0, 0.0), (0.1, 0.1), (None, 0.25)])
def test_sticky_actions_are_those_of_the_data(of_data: float | None, played: float) -> None:
    """The data of JAT has none; that of an unknown recorder is taken for DQN-replay data."""
    dataset = DatasetInfo("Breakout", ("NOOP",), reward_clipping=True, sticky_actions=of_data, max_return=1.0)
    assert PROTOCOLS["dopamine"].environment(dataset, 100).sticky_actions == played
    assert PROTOCOLS["dopamine"].resolved(dataset, ModelConfig()).sticky_actions == played
    assert PROTOCOLS["original"].environment(dataset, 100).sticky_actions == 0
