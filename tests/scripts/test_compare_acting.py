"""compare_acting.py: what it plays, how it resumes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atari_dt.experiments.acting_comparison
from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.results import Evaluation, EvaluationResult
from atari_dt.experiments.acting_results import ActingComparison
from atari_dt.experiments.acting_study import ActingStudy, read_study
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.policies.protocol import PROTOCOLS
from atari_dt.policies.sampling import Sampling
from tests.atari_dt.models import DATASET, small_model
from tests.scripts.commands import Refuse, call


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with a checkpoint each, as two training seeds leave them."""
    directory = tmp_path_factory.mktemp("acting")
    for name in ("seed0", "seed1"):
        small_model().save_pretrained(directory / name / "checkpoints" / "update-00000007")
    return directory / "seed0", directory / "seed1"


def read(path: Path) -> ActingComparison:
    return read_study(json.loads(path.read_text())).comparison


def test_the_models_play_as_the_evaluator_does(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "acting.json", tmp_path / "acting.png"
    small = ("--episodes", 2, "--max-steps", 9, "--seed", 3, "--device", "cpu", "--no-protocol-settings")
    options = (f"--out={out}", "--figure", figure, "--temperatures", "--return-multiples", 2, *small)
    assert call(monkeypatch, "compare_acting.py", runs[0], *options) == 0
    default, target = read(out).results
    model = DecisionTransformer.from_pretrained(runs[0] / "checkpoints" / "update-00000007")
    play = PlayConfig(episodes=2, max_steps=9, seed=3)
    for result, expected in zip((default, target), evaluate(model, [40, 80], play, show_progress=False), strict=True):
        (played,) = result.runs
        assert played.target_return == expected.target_return
        for name in ("scores", "returns", "lengths"):
            assert np.array_equal(getattr(played, name), getattr(expected, name))
    printed = capsys.readouterr().out
    assert "2 of 2: 2×" in printed
    assert "40 (1×), default" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in out.read_text()
    assert str(runs[0].parent) not in out.read_text()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[PlayConfig]:
    """Return a list to which the command adds how it plays, with made-up episodes; the fifth time is interrupted."""
    played: list[PlayConfig] = []

    def play_nothing(runs: Sequence[Path], play: PlayConfig, **options: Any) -> Evaluation:
        played.append(play)
        if len(played) == 5:
            raise KeyboardInterrupt
        targets = options["return_multiples"]
        numbers = np.arange(play.episodes, dtype=np.float64) + play.sampling.temperature + targets[0]
        result = EvaluationResult(40 * targets[0], numbers, numbers, np.full(play.episodes, 5), numbers.astype(int), ())
        return Evaluation(
            checkpoints=tuple(runs),
            datasets=(DATASET,) * len(runs),
            config=small_model().config,
            return_multiples=tuple(targets),
            return_percentiles=(None,),
            results=((result,),) * len(runs),
            random=result,
            protocol=play.protocol,
            sampling=play.sampling,
            seed=play.seed,
            environment=play.environment(DATASET),
        )

    monkeypatch.setattr(atari_dt.experiments.acting_comparison, "evaluate_runs", play_nothing)
    return played


def test_an_interrupted_comparison_continues_and_grows(
    runs: tuple[Path, Path],
    tmp_path: Path,
    played: list[PlayConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ActingStudy, "tables", lambda _: {})  # which take a second
    out = tmp_path / "acting.json"
    command = ("compare_acting.py", *runs, "--out", out, "--return-multiples", 0.5, "--episodes", 3, "--device", "cpu")
    assert call(monkeypatch, *command) == 130
    assert "acting.json has 4 of 11 ways to act; the same command continues" in capsys.readouterr().err
    assert len(read(out).results) == 4
    assert call(monkeypatch, *command) == 0
    del played[4]  # the one that was interrupted
    study = read(out)
    assert [result.variant.name for result in study.results] == [
        *("default", "temperature-0.5", "temperature-0", "target-0.5x", "sticky-actions", "frames", "noop-max"),
        *("second-reset", "window-timestep", "reward-units", "original"),
    ]
    assert [(result.variant.protocol, result.variant.sampling) for result in study.results] == [
        (play.protocol, play.sampling) for play in played
    ]
    assert [play.sampling for play in played[:3]] == [Sampling(), Sampling(0.5), Sampling(0.0)]
    assert played[-1].protocol == PROTOCOLS["original"]
    assert {(play.episodes, play.max_steps, play.seed) for play in played} == {(3, 27_000, 0)}
    assert [result.session for result in study.results] == [0] * 4 + [1] * 7
    assert len(study.sessions) == 2

    before, count = study.results, len(played)
    assert call(monkeypatch, *command) == 0
    assert read(out) == study
    assert call(monkeypatch, *command, "--temperatures", "0.25") == 0
    grown = read(out)
    assert grown.results[:-1] == before
    assert grown.results[-1].variant.name == "temperature-0.25"
    assert len(played) == count + 1
    temperatures = [result.variant.sampling.temperature for result in grown.of_question("sampling")]
    assert temperatures == [1, 0.5, 0.25, 0]

    for changed, message in [
        (("--episodes", 4), "has results of other settings: episodes (was 3, is 4)"),
        (("--seed", 1), "has results of other settings: seed (was 0, is 1)"),
    ]:
        assert call(monkeypatch, *command, *changed) == 1
        assert message in capsys.readouterr().err
    assert call(monkeypatch, "compare_acting.py", runs[1], "--out", out, "--device", "cpu") == 1
    assert "has results of other runs (acting0/seed0, acting0/seed1), or" in capsys.readouterr().err
    assert read(out) == grown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{run} --out {tmp}/no/x.json", "{tmp}/no/x.json cannot be written"),
        (
            "{run} --out {store}/metadata.json",
            "metadata.json is not a file of this command (KeyError: 'type'); choose",
        ),
        ("{run} {run} --out {tmp}/x.json", "two of these runs have the same weights; give each run once"),
        ("{run} --out {tmp}/x.json --figure {tmp}/x.pdf", "--figure must end in .png, not 'x.pdf'"),
        ("{run} --out {tmp}/x.json --temperatures -1", "--temperatures must be 0 (greedy) or more, not -1"),
        ("{run} --out {tmp}/x.json --episodes 0", "--episodes must be at least 1, not 0"),
        ("{store} --out {tmp}/x.json", "no run with a checkpoint at {store}"),
        ("--out {tmp}/x.json", "no run was given"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("compare_acting.py", options, message)
