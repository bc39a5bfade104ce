"""The result of a comparison of ways to act: its file, tables and figure, against scores made by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import atari_dt.rendering.figures
from atari_dt.config import ModelConfig
from atari_dt.experiments.acting_results import (
    ActingComparison,
    ComparedRun,
    ComparisonSettings,
    RunEpisodes,
    VariantResult,
)
from atari_dt.experiments.acting_study import ActingStudy, read_study
from atari_dt.experiments.acting_variants import ActingVariant, plan_variants
from atari_dt.experiments.study import StudyReader
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.rendering.study_file import Session
from atari_dt.training.training_run import Hardware
from replay_data import InputError
from tests.atari_dt.models import DATASET

MODEL = ModelConfig(2, 1, 2, 16)
PLAN = plan_variants([CheckpointConfig(MODEL, 4, 100, DATASET)], (0.0,), (2.0, 0.5))
DEFAULT_SCORES = ((4.0, 8.0, 8.0, 12.0), (10.0, 14.0, 14.0, 18.0))
SHIFTS = {"default": 0.0, "temperature-0": -3.0, "target-2x": 5.0, "target-0.5x": -4.0, "frames": 0.0}
VARIANTS = [variant for variant in PLAN.variants if variant.name in SHIFTS]


def played(variant: ActingVariant) -> VariantResult:
    """Return four episodes of two runs, whose scores differ from the default's by a constant; one is truncated."""
    target = 40 * (variant.return_multiple or 0.0)
    runs = [
        RunEpisodes(
            target_return=target + index,
            scores=tuple(score + SHIFTS[variant.name] for score in scores),
            returns=tuple(score / 2 + SHIFTS[variant.name] for score in scores),
            lengths=(10, 20, 30, 60 + 40 * (variant.name == "temperature-0")),
        )
        for index, scores in enumerate(DEFAULT_SCORES)
    ]
    return VariantResult(variant, 0, 1.25, tuple(runs))


RUNS = tuple(ComparedRun(f"runs/seed{i}", f"{i}f", i, 800, "ab", 40.0 + i, 10.0) for i in (0, 1))
COMPARISON = ActingComparison(
    settings=ComparisonSettings("Breakout", True, "dt", RUNS, 4, 100, 0, "cd"),
    sessions=(
        Session("python scripts/compare_acting.py a b", "2026-01-31", Hardware("A CPU", 2, None), {"torch": "2"}),
    ),
    left_out=PLAN.left_out,
    results=tuple(map(played, VARIANTS)),
)
STUDY = ActingStudy(COMPARISON)


def test_a_file_keeps_every_value() -> None:
    reader: StudyReader = read_study
    content = json.loads(json.dumps(COMPARISON.to_json()))
    assert (content["type"], content["format_version"]) == ("acting", 1)
    assert reader(content) == STUDY


def test_tables_have_the_default_in_its_place_and_differences_from_it() -> None:
    tables = STUDY.tables()
    assert list(tables) == ["sampling", "target", "protocol", "left-out", "settings"]
    # Mean of each seed 8 and 14, so 11 ± 3; the middle half of 4 8 8 10 12 14 14 18 is 8 10 12 14.
    header, default, argmax = tables["sampling"]
    assert header == [
        *("sampling", "score", "IQM", "95% interval", "difference", "95% interval", "steps", "truncated"),
        "random policy",
    ]
    assert default[:3] == ["temperature 1 (default)", "11.0 ± 3.0", "11.0"]
    assert default[4:] == ["", "", "30", "0 of 8", "1.2"]
    assert argmax[:3] == ["temperature 0 (argmax)", "8.0 ± 3.0", "8.0"]
    assert argmax[4:] == ["-3.0", "-3.0 to -3.0", "40", "2 of 8", "1.2"]  # a constant difference is certain
    assert [row[:3] for row in tables["target"]] == [
        ["target return", "return", "score"],
        ["20.5 (0.5×)", "1.5 ± 1.5", "7.0 ± 3.0"],
        ["40.5 (1×), default", "5.5 ± 1.5", "11.0 ± 3.0"],
        ["80.5 (2×)", "10.5 ± 1.5", "16.0 ± 3.0"],
    ]
    assert [row[0] for row in tables["protocol"]] == ["protocol", "dopamine (default)", "bilinear frames"]
    assert tables["protocol"][2][4:6] == ["+0.0", "0.0 to 0.0"]
    reasons = dict(tables["left-out"][1:])
    assert reasons["integer returns-to-go"] == "target return and rewards are integers anyway"
    settings = [" ".join(row) for row in tables["settings"]]
    assert "run runs/seed1, training seed 1, 800 updates, largest return of its data 41" in settings
    assert "played on 2026-01-31 python scripts/compare_acting.py a b (A CPU, 2 cores)" in settings


def test_the_figure_shows_returns_and_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        drawn.append(figure)
        return b"png"

    monkeypatch.setattr(atari_dt.rendering.figures, "to_png", keep)
    assert STUDY.figures() == {"": b"png"}
    targets, differences = drawn[0].axes
    (line,) = (line for line in targets.lines if line.get_label() == "IQM, 95% interval, seeds")
    assert np.array_equal(line.get_xdata(), [20.5, 40.5, 80.5])
    assert np.array_equal(line.get_ydata(), [1.5, 5.5, 10.5])
    assert [bar.get_width() for bar in differences.patches] == [-3, 0]  # type: ignore[attr-defined]
    assert [label.get_text() for label in differences.get_yticklabels()] == [
        "temperature 0 (argmax)",
        "bilinear frames",
    ]

    only_sampling = ActingStudy(dataclasses.replace(COMPARISON, results=COMPARISON.results[:2]))
    assert only_sampling.figures() == {"": b"png"}
    assert len(drawn[1].axes) == 1
    assert list(only_sampling.tables()) == ["sampling", "left-out", "settings"]
    assert ActingStudy(dataclasses.replace(COMPARISON, results=COMPARISON.results[:1])).figures() == {}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("type",), "heads", "type is 'heads', not 'acting'"),
        (("format_version",), 2, "format version 2 is newer"),
        (("results",), [], "no results of the default"),
        (("settings", "runs"), [], "no results of the default"),
        (("settings", "episodes"), 5, "default has other numbers of runs or episodes"),
        (("settings", "game"), "../x", "game"),
        (("results", 1, "session"), 1, "temperature-0 was played in a session that is missing"),
        (("results", 1, "variant", "name"), "default", "two results of the same variant"),
        (("results", 1, "variant", "question"), "why", "question is 'why', not one of"),
        (("results", 1, "variant", "protocol", "frames"), "wide", "frames is 'wide', not one of"),
        (("results", 1, "variant", "sampling", "temperature"), -1, "`temperature` must be 0"),
        (
            ("results", 1, "runs", 0, "target_return"),
            None,
            "its method and its episodes differ in whether they",
        ),
        (("settings", "method"), "bc", "its method and its episodes differ in whether they"),
        (("results", 1, "runs", 0, "scores"), [1.0, 2.0], "temperature-0 has other numbers"),
        (("results", 1, "runs", 0, "scores", 1), "high", "an item of scores is 'high', not of type float"),
    ],
)
def test_damaged_files_are_refused(path: tuple[str | int, ...], value: object, message: str) -> None:
    content: Any = json.loads(json.dumps(COMPARISON.to_json()))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((InputError, ValueError, KeyError, TypeError), match=message):
        read_study(content)
