"""Published scores, against the files and the table that they come from."""

from __future__ import annotations

import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from atari_dt.experiments.benchmark_methods import TABLE_METHODS
from atari_dt.games.published_scores import (
    D3RLPY_BENCHMARKS,
    DECISION_TRANSFORMER_PAPER,
    PAPER_SCORES,
    PUBLISHED_SCORES,
)
from atari_dt.method_config import default_config

DATA = Path(__file__).parents[2] / "data"

METHODS = {"DiscreteCQL": "CQL", "QRDQN": "QR-DQN", "DiscreteDT": "DT"}

ATARI_TABLE = """\
DiscreteCQL,breakout,22.0,2.1,89.8
DiscreteCQL,pong,3.9,7.3,16.3
DiscreteCQL,qbert,8166.2,705.4,15791.5
DiscreteCQL,seaquest,576.9,125.6,820.5
DiscreteDT,breakout,86.0,16.8,121.1
DiscreteDT,qbert,9619.0,2098.6,11040.2
DiscreteDT,seaquest,1096.0,141.2,1228.4
QRDQN,breakout,1.2,0.4,9.0
QRDQN,pong,-20.5,0.3,-16.6
QRDQN,qbert,274.5,146.6,695.8
QRDQN,seaquest,108.2,44.1,603.2"""
"""Lines of ``atari_table.csv`` of d3rlpy-benchmarks: final mean and deviation, mean of the seeds' largest scores."""


def read_seeds() -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """Return a row of updates and ten scores for each evaluation, by method and game."""
    rows = defaultdict(list)
    with gzip.open(DATA / "d3rlpy_benchmarks.csv.gz", "rt") as file:
        for line in file:
            algorithm, game, *numbers = line.strip().split(",")
            rows[METHODS[algorithm], game].append([float(number) for number in numbers])
    return {key: np.array(values) for key, values in rows.items()}


def test_scores_of_d3rlpy_follow_from_its_files() -> None:
    seeds = read_seeds()
    table = {}
    for line in ATARI_TABLE.splitlines():
        algorithm, game, *numbers = line.split(",")
        table[METHODS[algorithm], game] = [float(number) for number in numbers]
    scores = {(score.method, score.game): score for score in PUBLISHED_SCORES if score.publication is D3RLPY_BENCHMARKS}
    assert len(scores) == 11
    assert seeds.keys() == table.keys() == scores.keys()
    for key, score in scores.items():
        updates, all_scores = seeds[key][:, 0], seeds[key][:, 1:]
        means = all_scores.mean(axis=1)
        assert score.std is not None
        assert score.best is not None
        assert score.seeds == all_scores.shape[1] == 10
        assert score.updates == updates[-1]
        assert (score.final, score.std) == pytest.approx((means[-1], all_scores[-1].std()), abs=0.005)
        assert score.best == pytest.approx(means.max(), abs=0.005)
        assert means[updates == score.best_updates] == means.max()
        final, std, best_of_seeds = table[key]
        assert (score.final, score.std) == pytest.approx((final, std), abs=0.051)
        assert all_scores.max(axis=0).mean() == pytest.approx(best_of_seeds, abs=0.051)
        assert score.best <= best_of_seeds


def test_points_of_the_paper_agree_with_its_percentages() -> None:
    """Points and percentages of DT, BC and CQL were published apart; they agree up to their rounding."""
    labels = [default_config(method).label for method in TABLE_METHODS]
    scores = [score for score in PUBLISHED_SCORES if score.publication is DECISION_TRANSFORMER_PAPER]
    assert {(score.game, score.method) for score in scores} == {
        (game, label) for game in ("breakout", "qbert", "pong", "seaquest") for label in labels
    }
    for score in scores:
        paper = PAPER_SCORES[score.game]
        width = paper.gamer - paper.random
        percent, _ = paper.normalized[score.method]
        tolerance = 0.5 if score.game == "pong" else 0.11
        assert 100 * (score.final - paper.random) / width == pytest.approx(percent, abs=tolerance)
        assert (score.percent is None) == (score.method in ("DT", "BC", "CQL"))
    converted = {(score.game, score.method): score.final for score in scores if score.percent is not None}
    assert converted["breakout", "REM"] == pytest.approx(2 + 0.089 * 28)
    assert converted["pong", "QR-DQN"] == pytest.approx(-21 + 0.18 * 36)
    assert converted["qbert", "QR-DQN"] == 164
