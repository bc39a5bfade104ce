"""`EvaluationScores` against the evaluation it comes from, and against files of both format versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atari_dt.config import ModelConfig
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.results import Evaluation
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.evaluation.scores import EvaluationScores, read_scores
from atari_dt.evaluation.statistics import summarize
from replay_data import InputError
from tests.atari_dt.models import small_model
from tests.conftest import DATA

VERSION_1 = DATA / "version_1" / "evaluation" / "scores.json"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Two runs under a multiple and a target return given as a number."""
    runs = [tmp_path_factory.mktemp("runs") / name for name in ("a", "b")]
    for run in runs:
        small_model().save_pretrained(run)
    play = PlayConfig(episodes=2, max_steps=40, device="cpu")
    return evaluate_runs(runs, play, return_multiples=[0.5], target_returns=[3.0], show_progress=False)


def test_scores_are_those_of_the_evaluation(evaluation: Evaluation) -> None:
    scores = EvaluationScores.from_evaluation(evaluation)
    assert scores.game == "Breakout"
    assert (scores.seed, scores.max_frames, scores.reward_units) == (0, 160, "clipped to [-1, 1]")
    assert scores.protocol.sticky_actions == 0.25
    assert [target.return_multiple for target in scores.summary] == [0.5, None]
    assert [target.target_return for target in scores.summary] == [20, 3]
    assert scores.random.scores == tuple(evaluation.random.scores)
    for i, target in enumerate(scores.summary):
        assert target.score.points == summarize(evaluation.scores(i))
        assert target.score.normalized_as_in_the_paper == target.score.points.normalized(2, 30)
        assert target.score.human_normalized == target.score.points.normalized(1.7, 30.5)
        assert (target.mean_return, target.std_return) == (evaluation.returns(i).mean(), evaluation.returns(i).std())
    for run, checkpoint, results in zip(scores.runs, evaluation.checkpoints, evaluation.results, strict=True):
        assert run.run == str(checkpoint)
        for target_scores, result in zip(run.evaluations, results, strict=True):
            assert target_scores.target_return == result.target_return
            assert target_scores.mean_score == np.mean(target_scores.scores)
            assert target_scores.std_score == np.std(target_scores.scores)
            for name in ("scores", "returns", "lengths", "emulator_seeds"):
                assert np.array_equal(getattr(target_scores, name), getattr(result, name)), name
            reported = dataclasses.asdict(target_scores.reported())
            assert reported.items() <= dataclasses.asdict(target_scores).items()
            names = {"return_multiple", "target_return", "scores", "mean_score", "std_score", "return_percentile"}
            assert set(reported) == names


def test_json_round_trip_keeps_every_value(evaluation: Evaluation, tmp_path: Path) -> None:
    scores = EvaluationScores.from_evaluation(evaluation)
    (tmp_path / "scores.json").write_text(json.dumps(scores.to_json()))
    assert read_scores(tmp_path / "scores.json") == scores
    assert scores.to_json()["format_version"] == 2


def test_unknown_games_and_behavior_cloning_round_trip(evaluation: Evaluation) -> None:
    """Carnival is in neither table of published scores; behavior cloning has no target return."""
    datasets = tuple(dataclasses.replace(dataset, game="Carnival") for dataset in evaluation.datasets)
    cloning = dataclasses.replace(
        evaluation, datasets=datasets, config=ModelConfig(conditioning="none"), return_multiples=(None, None)
    )
    scores = EvaluationScores.from_evaluation(cloning)
    assert (scores.paper, scores.human, scores.summary[0].target_return) == (None, None, None)
    assert scores.to_json()["method"] == "bc"
    assert set(scores.to_json()["summary"][0]["score"]) == {"points"}
    assert EvaluationScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores


def test_version_1_is_read() -> None:
    """Version 2 has the values of version 1, under American keys. Models of that time had no cache.

    The models of files that do not name a method are Decision Transformers if they have target returns.
    """
    written = VERSION_1.read_text()
    for british, american in (("normalised", "normalized"), ("behaviour", "behavior")):
        written = written.replace(british, american)
    expected = {"format_version": 2, "method": "dt", **json.loads(written)}
    expected["protocol"]["cache"] = "off"
    assert json.loads(json.dumps(read_scores(VERSION_1).to_json())) == expected
    for target in (*expected["summary"], *(each for run in expected["runs"] for each in run["evaluations"])):
        target["target_return"] = None
    del expected["method"]
    assert EvaluationScores.from_json(expected).method == "bc"


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 3},
        {"runs": [{"evaluations": [{"scores": []}]}]},
        {"runs": None},
        {"summary": [{}]},
        {"sampling": {"temperature": -1}},
        {"protocol": {"unknown": 1}},
        {"datasets": [[]]},
        {"human": 3},
        {"paper": {"normalized": {}}},
        {"paper": {"normalized": 1}},
        {"method": "cloning"},
        {"method": ["cql"]},
    ],
)
def test_malformed_scores_are_refused_in_one_sentence(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(json.loads(VERSION_1.read_text()) | changes))
    with pytest.raises(InputError, match=r"scores\.json holds no scores .*; write it with scripts/evaluate\.py"):
        read_scores(path)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '"text"', "{}"])
def test_a_file_without_scores_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(InputError, match="holds no scores"):
        read_scores(tmp_path / "scores.json")
    with pytest.raises(InputError, match="holds no scores"):
        read_scores(tmp_path / "absent.json")
