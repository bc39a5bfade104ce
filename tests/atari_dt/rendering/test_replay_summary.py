"""What a recording's summary suggests."""

from __future__ import annotations

import numpy as np

from atari_dt.rendering.replay_summary import suggest_selection
from replay_data.selection.methods import Selection
from replay_data.sources.dopamine_sidecar import BufferSidecar, RecordedEpisode
from tests.replay_data.recordings import recording_of


def sidecar(*ends: tuple[int, int]) -> BufferSidecar:
    """Return the sidecar of a buffer of 30 rows with the last row and the number of steps of each episode."""
    episodes = tuple(RecordedEpisode(row, steps, 0.0, 0.0) for row, steps in ends)
    none = np.zeros(0)
    return BufferSidecar(
        recording_of("Breakout", ["NOOP"]), 30, episodes, none.astype(np.int64), none.astype(np.float32)
    )


def test_an_episode_counts_for_the_buffer_that_it_begins_in() -> None:
    # The share of a buffer is a third of its rows. An episode that ends in row 29, the link row, has no other row here.
    assert suggest_selection([sidecar((12, 10)), sidecar((29, 14), (17, 15))]) == Selection.of("even", num_steps=20)
    assert suggest_selection([sidecar((12, 10)), sidecar((29, 24), (8, 6))]) == Selection.of("all")
