"""Target returns as multiples of the dataset's largest return, as percentiles of its returns, and by default."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.evaluation.scores import EvaluationScores
from atari_dt.evaluation.target_returns import (
    check_target_returns,
    compute_target_returns,
    default_percentiles,
    explain_percentiles,
    lacks_positive_return,
    look_up_percentiles,
)
from atari_dt.model.dataset_info import compute_percentiles
from atari_dt.rendering.figures import draw_target_return_curve
from atari_dt.rendering.tables import evaluation_table
from replay_data import InputError, TrajectoryStore
from replay_data.testing import write_random_store
from tests.atari_dt.models import DATASET, small_model

LOSING = dataclasses.replace(
    DATASET, max_return=-2.0, mean_return=-7.0, return_percentiles=compute_percentiles(np.arange(-12.0, -1.0))
)
"""Eleven episodes with returns of -12, -11, …, -2."""

WINNING = dataclasses.replace(DATASET, max_return=3.0, return_percentiles=compute_percentiles(np.array([1.0, 3.0])))
"""Two episodes with returns of 1 and 3."""


def test_target_returns_are_multiples_of_the_largest_return(store: TrajectoryStore) -> None:
    assert compute_target_returns(DATASET, [0, 0.5, 2]) == [0, 20, 80]
    assert compute_target_returns(DATASET, [2], store) == [2 * store.metadata.max_return]


def test_a_negative_largest_return_has_no_multiples() -> None:
    losing = dataclasses.replace(DATASET, max_return=-14.0)
    assert compute_target_returns(losing, [1]) == [-14]
    with pytest.raises(InputError, match="largest return is -14"):
        compute_target_returns(losing, [1, 2])


def test_an_unknown_largest_return_is_refused() -> None:
    with pytest.raises(InputError, match="does not know its dataset's largest return"):
        compute_target_returns(dataclasses.replace(DATASET, max_return=None), [1])


def test_store_of_another_game_is_refused(tmp_path: Path) -> None:
    pong = write_random_store(tmp_path / "pong", [4], game="Pong")
    with pytest.raises(InputError, match=r"plays Breakout, but the store at .* is of Pong"):
        compute_target_returns(DATASET, [1], pong)


def test_store_with_other_reward_clipping_is_refused(store: TrajectoryStore) -> None:
    unclipped = dataclasses.replace(DATASET, reward_clipping=not store.metadata.reward_clipping)
    with pytest.raises(InputError, match="differ in reward clipping"):
        compute_target_returns(unclipped, [1], store)


def test_percentiles_are_returns_that_occurred(store: TrajectoryStore) -> None:
    assert look_up_percentiles(LOSING, [0, 9, 10, 50, 90, 91, 100]) == [-12, -12, -11, -7, -3, -2, -2]
    of_store = np.percentile(store.episode_returns, [0, 50, 100], method="inverted_cdf").tolist()
    assert look_up_percentiles(LOSING, [0, 50, 100], store) == of_store
    with pytest.raises(InputError, match="from 0 to 100, not 101"):
        look_up_percentiles(LOSING, [50, 101])


def test_an_older_checkpoint_knows_only_the_largest_return() -> None:
    assert look_up_percentiles(DATASET, [100]) == [40]
    for dataset, percentile in ((DATASET, 90), (dataclasses.replace(DATASET, max_return=None), 100)):
        with pytest.raises(InputError, match=r"does not store the distribution .* give target returns as numbers"):
            look_up_percentiles(dataset, [percentile])


def test_target_returns_fit_single_precision() -> None:
    largest = float(np.finfo(np.float32).max)
    check_target_returns([-largest, 0.0, largest])
    for value in (1e39, -1e39, 1.001 * largest, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"must be finite numbers of magnitude 3\.4e38 at most, not "):
            check_target_returns([1.0, value])
    with pytest.raises(InputError, match=r"must be finite numbers .*, not 4e\+39"):
        compute_target_returns(DATASET, [1, 1e38])


def test_percentiles_are_the_default_where_no_return_is_positive(tmp_path: Path) -> None:
    """The two seeds have datasets of their own, of which one has positive returns."""
    for name, dataset in (("losing", LOSING), ("winning", WINNING)):
        model = small_model()
        model.dataset = dataset
        model.save_pretrained(tmp_path / name)
    play = PlayConfig(episodes=1, max_steps=3, device="cpu")
    evaluation = evaluate_runs([tmp_path / "losing", tmp_path / "winning"], play, show_progress=False)
    assert evaluation.return_multiples == (None, None, None)
    assert evaluation.return_percentiles == (50, 90, 100)
    assert [[result.target_return for result in results] for results in evaluation.results] == [[-7, -3, -2], [1, 3, 3]]
    assert [evaluation.label(i) for i in range(3)] == ["percentile-50", "percentile-90", "percentile-100"]
    rows = evaluation_table(evaluation).splitlines()[1:4]
    assert [row[: row.index(")") + 1].strip() for row in rows] == [
        "-3.0 (percentile 50)",
        "0.0 (percentile 90)",
        "0.5 (percentile 100)",
    ]
    for name in ("return_multiples", "return_percentiles", "target_returns"):
        empty: dict[str, Any] = {name: []}
        with pytest.raises(InputError, match=f"`{name}` must have at least 1 number"):
            evaluate_runs([tmp_path / "losing"], play, show_progress=False, **empty)
    scores = EvaluationScores.from_evaluation(evaluation)
    read = EvaluationScores.from_json(json.loads(json.dumps(scores.to_json())))
    assert read == scores
    assert [target.return_percentile for target in read.summary] == [50, 90, 100]
    assert [target.return_percentile for target in read.runs[0].evaluations] == [50, 90, 100]
    assert read.datasets[0].return_percentiles == LOSING.return_percentiles

    losing = dataclasses.replace(evaluation, results=evaluation.results[:1])
    best = dataclasses.replace(
        losing, return_multiples=(None,), return_percentiles=(100,), results=(losing.results[0][2:],)
    )
    for drawn, ends in ((losing, [-7, -2]), (best, [-2.5, -1.5])):
        axes = Figure().subplots()
        draw_target_return_curve(axes, drawn)
        (diagonal,) = (line for line in axes.lines if line.get_label() == "achieved = target")
        assert np.array_equal(diagonal.get_xdata(), ends)
        assert np.array_equal(diagonal.get_ydata(), ends)


def test_the_default_percentiles_are_different_returns() -> None:
    zero = dataclasses.replace(DATASET, max_return=0.0, return_percentiles=(0.0,) * 101)
    assert default_percentiles([LOSING]) == (50, 90, 100)
    assert default_percentiles([zero]) == (100,)
    assert default_percentiles([zero, WINNING]) == (50, 100)
    assert default_percentiles([LOSING, DATASET]) == (100,)  # an older checkpoint stores no others
    assert [lacks_positive_return([dataset]) for dataset in (LOSING, zero, WINNING)] == [True, True, False]
    assert lacks_positive_return([WINNING, zero])


def test_the_default_is_explained() -> None:
    assert "target returns are percentiles 50, 90 and 100 of its returns" in explain_percentiles([50, 90, 100])
    assert "target return is percentile 100 of its returns" in explain_percentiles([100])
