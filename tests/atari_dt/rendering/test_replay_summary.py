"""What a recording's summary suggests."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from atari_dt.games.catalogue import find_game
from atari_dt.rendering import replay_summary
from atari_dt.rendering.figures import to_png
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
    names = {"policy_0": "a.zip", "policy_1": "b.zip"}
    recording = dataclasses.replace(buffers[0].recording, settings=names)
    buffers[0] = dataclasses.replace(buffers[0], recording=recording)
    assert policy_table(buffers).splitlines()[:2] == ["policy 0: a.zip", "policy 1: b.zip"]
    assert [line.split() for line in policy_table(buffers).splitlines()[2:]] == [
        ["epsilon", "episodes", "policy", "0", "policy", "1"],
        ["0", "1", "30.0", "-"],
        ["0.5", "3", "10.0", "3.5"],
    ]
    assert policy_table([sidecar((12, 10))]) == ""


@pytest.mark.parametrize(("steps", "unit"), [(100, "steps"), (8_000, "thousand steps"), (600_000, "million steps")])
def test_trained_policies_can_be_told_apart_in_the_figure(
    steps: int, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_summary, "to_png", lambda figure: figure)
    names = [f"sb3/dqn@{'0123456789' * 4}", "best$1$.zip", "_other.zip"]
    recording = dataclasses.replace(
        recording_of("Breakout", ["NOOP"]), settings={f"policy_{index}": name for index, name in enumerate(names)}
    )
    episodes = [
        RecordedEpisode(9, steps, 0.0, 10.0 * policy, {"policy": policy, "epsilon": epsilon, "env_index": 0})
        for epsilon in (0.0, 1.0)
        for policy in range(3)
    ]
    buffer = dataclasses.replace(sidecar_of(*episodes), recording=recording)
    figure: Any = replay_summary.replay_figure(find_game("Breakout"), [buffer])
    axes, (legend,) = figure.axes[0], figure.legends
    assert axes.get_xlabel() == f"{unit} recorded"
    labels = [text.get_text().replace("\\$", "$") for text in legend.get_texts()]
    assert labels[:3] == ["policy 0: sb3/dqn@0123456", "policy 1: best$1$.zip", "policy 2: _other.zip"]
    points = [each for each in axes.collections if len(each.get_offsets())]
    assert [each.get_offsets()[:, 1].tolist() for each in points] == [[0, 0], [10, 10], [20, 20]]
    assert len({tuple(each.get_facecolors()[0]) for each in points}) == 3
    for each in points:
        own, at_random = each.get_facecolors()[:, 3]
        assert 0 < at_random < own == 1
    assert len(to_png(figure)) > 10_000  # and its texts are no mathematics


@pytest.mark.parametrize(
    ("game", "best", "human", "lines"),
    [
        ("Qbert", 700.0, "13455", [163.9]),
        ("Qbert", 9000.0, "13455", [163.9, 13455.0]),
        ("Pong", -19.0, "14.6", [-20.7]),
        ("Pong", 20.0, "14.6", [-20.7, 14.6]),
    ],
)
def test_a_reference_far_above_all_scores_does_not_flatten_the_curve(
    game: str, best: float, human: str, lines: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_summary, "to_png", lambda figure: figure)
    buffer = dataclasses.replace(
        sidecar_of(RecordedEpisode(9, 7, 1.0, best, {})), recording=recording_of(game, ["NOOP"])
    )
    figure: Any = replay_summary.replay_figure(find_game(game), [buffer])
    (axes,) = figure.axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() in (":", "--")] == lines
    assert axes.get_ylim()[1] < 2 * max(best, lines[-1], 1)
    assert any(text.get_text().startswith(f"human ({human})") for text in axes.get_legend().get_texts())


def test_an_episode_counts_for_the_buffer_that_it_begins_in() -> None:
    # The share of a buffer is a third of its rows. An episode that ends in row 29, the link row, has no other row here.
    assert suggest_selection([sidecar((12, 10)), sidecar((29, 14), (17, 15))]) == Selection.of("even", num_steps=20)
    assert suggest_selection([sidecar((12, 10)), sidecar((29, 24), (8, 6))]) == Selection.of("all")
