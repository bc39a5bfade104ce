"""What a recording's summary suggests."""

from __future__ import annotations

import numpy as np

from atari_dt.rendering.replay_summary import policy_table, suggest_selection
from replay_data.selection.methods import Selection
from replay_data.sources.dopamine_sidecar import BufferSidecar, RecordedEpisode
from tests.replay_data.recordings import recording_of


def sidecar(*ends: tuple[int, int]) -> BufferSidecar:
    """Return the sidecar of a buffer of 30 rows with the last row and the number of steps of each episode."""
    return sidecar_of(*(RecordedEpisode(row, steps, 0.0, 0.0) for row, steps in ends))


def sidecar_of(*episodes: RecordedEpisode) -> BufferSidecar:
    none = np.zeros(0)
    recording = recording_of("Breakout", ["NOOP"])
    return BufferSidecar(recording, 30, episodes, none.astype(np.int64), none.astype(np.float32))


def test_scores_of_trained_policies_are_listed_by_epsilon() -> None:
    played = [(0, 0.5, 10.0), (1, 0.5, 2.0), (0, 0.0, 30.0), (1, 0.5, 5.0)]
    buffers = [
        sidecar_of(RecordedEpisode(9, 7, 1.0, score, {"policy": policy, "epsilon": epsilon, "env_index": 0}))
        for policy, epsilon, score in played
    ]
    assert [line.split() for line in policy_table(buffers).splitlines()[2:]] == [
        ["epsilon", "episodes", "policy", "0", "policy", "1"],
        ["0", "1", "30.0", "-"],
        ["0.5", "3", "10.0", "3.5"],
    ]
    assert policy_table([sidecar((12, 10))]) == ""


def test_an_episode_counts_for_the_buffer_that_it_begins_in() -> None:
    # The share of a buffer is a third of its rows. An episode that ends in row 29, the link row, has no other row here.
    assert suggest_selection([sidecar((12, 10)), sidecar((29, 14), (17, 15))]) == Selection.of("even", num_steps=20)
    assert suggest_selection([sidecar((12, 10)), sidecar((29, 24), (8, 6))]) == Selection.of("all")
