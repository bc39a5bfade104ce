"""Reports of sweeps over methods and games: what training cost, and which method is better over the games."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from atari_dt.config import MethodName, ModelConfig
from atari_dt.experiments import method_comparison
from atari_dt.experiments.benchmark import score_rows
from atari_dt.experiments.method_comparison import (
    MethodComparison,
    add_comparison,
    comparison_figure,
    explain_improvement,
    improvement_rows,
)
from atari_dt.experiments.report import make_report
from atari_dt.experiments.results import RunGroup, read_groups
from atari_dt.experiments.run_config import RunConfig
from atari_dt.method_config import default_config
from atari_dt.rendering.html import ReportDocument
from tests.atari_dt.experiments.finished_runs import finish_run

Sweep = Mapping[str, Mapping[MethodName, Sequence[float]]]
"""Mean score of each run, in points, by game and method."""

PAPER_GAMES: Sweep = {
    "Breakout": {"dt": [10, 30, 20], "bc": [20, 5, 5], "cql": [2, 2]},
    "Pong": {"dt": [-20, -10], "bc": [-10, -21], "cql": [-21, -21]},
}


def finish_sweep(out: Path, sweep: Sweep) -> list[RunGroup]:
    """Write a run of two episodes for each score, with a second target return for DT, and return the groups."""
    runs = {}
    for game, methods in sweep.items():
        for method, scores in methods.items():
            for seed, score in enumerate(scores):
                name = f"{game}-{method}-seed{seed}"
                config = RunConfig(out / game, default_config(method))
                runs[name] = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))
                episodes = [score - 1.0, score + 1.0]
                targets = [(1.0, 6.0, [99.0]), (None, 90.0, episodes)] if method == "dt" else [(None, None, episodes)]
                finish_run(out, name, runs[name], targets, game, updates=10)
    return sorted(read_groups(out, runs), key=lambda group: (group.game.name, *group.order))


def test_the_first_method_is_compared_with_each_other_one(tmp_path: Path) -> None:
    """Of 9 pairs of runs in Breakout, DT wins 7 against BC and draws one; in Pong it wins 2 of 4 and draws one."""
    comparison = MethodComparison.from_groups(finish_sweep(tmp_path, PAPER_GAMES))
    assert (comparison.methods, comparison.games) == (("DT", "BC", "CQL"), ("Breakout", "Pong"))
    assert comparison.left_out == ()
    assert comparison.targets == ("90 for DT in Breakout", "90 for DT in Pong")
    normalized = [100 * (np.array(scores) - 2) / 28 for scores in ([10, 30, 20], [20, 5, 5], [2, 2])]
    for of_method, expected in zip(comparison.scores, normalized, strict=True):
        assert of_method[0] == pytest.approx(expected)
    header, bc, cql = improvement_rows(comparison)
    assert header == ["method", "runs", "P(DT > method)", "95% interval"]
    assert bc[:3] == ["BC", "5", f"{(7.5 / 9 + 2.5 / 4) / 2:.2f}"]
    assert cql == ["CQL", "4", "1.00", "1.00 to 1.00"]
    assert "a run of DT (5 runs)" in explain_improvement(comparison)


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    sweep: Sweep = {
        **PAPER_GAMES,
        "Qbert": {"dt": [500, 600], "bc": [400, 500], "rem": [100]},
        "Seaquest": {"dt": [100, 200], "bc": [100, 200], "cql": [100]},
        "Turmoil": {"dt": [1, 2], "bc": [3, 4], "cql": [5, 6]},
    }
    groups = finish_sweep(tmp_path, sweep)
    comparison = MethodComparison.from_groups(groups)
    assert (comparison.methods, comparison.games) == (("DT", "BC", "CQL"), ("Breakout", "Pong"))
    expected = (
        "REM (a single run per game), Qbert (no runs of CQL), Seaquest (a single run of CQL), Turmoil (no random and "
        "human scores to normalize with)"
    )
    assert ", ".join(comparison.left_out) == expected
    report = ReportDocument()
    add_comparison(report, groups)
    assert report.rows == {"methods-over-games": improvement_rows(comparison)}
    assert f"Left out of this comparison: {expected}." in "\n".join(report.tables)


def test_runs_of_several_settings_are_not_one_method(tmp_path: Path) -> None:
    groups = finish_sweep(tmp_path, PAPER_GAMES)
    short = dataclasses.replace(groups[0], config=RunConfig(tmp_path, ModelConfig(context_length=1)))
    assert groups[0].method == short.method == "DT"
    comparison = MethodComparison.from_groups([short, *groups])
    assert (comparison.games, comparison.left_out) == (("Pong",), ("Breakout (runs of several settings of DT)",))


@pytest.mark.parametrize(
    "sweep",
    [
        {"Breakout": {"dt": [1, 2, 3]}, "Pong": {"dt": [1, 2, 3]}},  # a single method
        {"Breakout": {"dt": [1], "bc": [2]}, "Pong": {"dt": [1], "bc": [2]}},  # single runs
    ],
)
def test_there_is_nothing_to_compare_without_methods_and_runs(tmp_path: Path, sweep: Sweep) -> None:
    finish_sweep(tmp_path, sweep)
    report = make_report(tmp_path)
    assert "methods-over-games" not in report.rows
    assert "profile" not in report.figures


def test_without_a_common_game_only_the_reasons_are_said(tmp_path: Path) -> None:
    report = ReportDocument()
    add_comparison(report, finish_sweep(tmp_path, {"Breakout": {"dt": [1, 2]}, "Pong": {"bc": [1, 2]}}))
    report.write(tmp_path)
    assert (tmp_path / "report.md").read_text() == (
        "## Methods over games\n\nLeft out of this comparison: Breakout (no runs of BC), Pong (no runs of DT).\n"
    )


def test_profiles_and_probabilities_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        figures.append(figure)
        return b""

    monkeypatch.setattr(method_comparison, "to_png", keep)
    comparison = MethodComparison.from_groups(finish_sweep(tmp_path, {"Breakout": PAPER_GAMES["Breakout"]}))
    comparison_figure(comparison)
    left, right = figures[0].axes
    points = [np.asarray(line.get_xydata())[0] for line in left.lines if line.get_marker() == "o"]
    assert points[0] == pytest.approx([7.5 / 9, 1])
    assert points[1] == pytest.approx([1, 2])
    assert [label.get_text() for label in left.get_yticklabels()] == ["BC", "CQL"]
    scores = {"DT": [10, 30, 20], "BC": [20, 5, 5], "CQL": [2, 2]}
    assert [line.get_label() for line in right.lines] == list(scores)
    for line, points_of_runs in zip(right.lines, scores.values(), strict=True):
        for threshold, fraction in np.asarray(line.get_xydata())[::40]:
            above = [100 * (score - 2) / 28 > threshold for score in points_of_runs]
            assert fraction == pytest.approx(np.mean(above))


def test_costs_are_means_over_the_seeds(tmp_path: Path) -> None:
    """A run of 2,000 updates of 3 GFLOP and one of 4,000 make 9 TFLOP on average; the second CQL run is older."""
    base = RunConfig(tmp_path)
    cql = dataclasses.replace(base, model=default_config("cql"))
    seed = dataclasses.replace(base.training, seed=1)
    runs = {"a": base, "b": dataclasses.replace(base, training=seed), "c": cql}
    runs["d"] = dataclasses.replace(cql, training=seed)
    for name, updates, seconds, flops in (
        *(("a", 2000, 90.0, 3_000_000_000), ("b", 4000, 210.0, 3_000_000_000)),
        *(("c", 2000, 90.0, 3_000_000_000), ("d", 2000, None, None)),
    ):
        conditioned = runs[name].model.conditioned
        finish_run(
            *(tmp_path, name, runs[name], [(1.0, 6.0, [5.0]) if conditioned else (None, None, [5.0])]),
            updates=updates,
            earlier=[(1000, [[4.0 if name == "a" else 6.0]])] if conditioned else [],
            training_seconds=seconds,
            flops_per_update=flops,
        )
    groups = sorted(read_groups(tmp_path, runs), key=lambda group: group.order)
    header, *rows = score_rows(groups)
    assert header[-5:] == ["updates", "best score", "updates of the best", "minutes of training", "TFLOP of training"]
    cells = {row[1]: row[-5:] for row in rows}
    assert cells["DT"] == ["3,000", "5.0 ± 1.0", "1,000", "2.5", "9"]
    assert cells["CQL"] == ["2,000", "", "", "", ""]
    assert {len(row) for row in rows} == {len(header)}
    assert "TFLOP of training" not in score_rows(groups[1:])[0]
    report = make_report(tmp_path)
    assert report.rows["scores"] == [header, *rows]
    assert "TFLOP of training: 10^12 floating-point operations" in "\n".join(report.tables)
