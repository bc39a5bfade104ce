"""The report of a sweep with value-based methods: published scores, scores over updates, and losses by their unit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from atari_dt.config import ModelConfig
from atari_dt.experiments import curves
from atari_dt.experiments.published_table import HEADER, published_rows, row_of_published
from atari_dt.experiments.report import write_report
from atari_dt.experiments.results import RunGroup, read_groups
from atari_dt.experiments.run_config import RunConfig
from atari_dt.games.catalogue import find_game
from atari_dt.games.published_scores import PUBLISHED_SCORES
from atari_dt.method_config import VALUE_TRAINING, CQLConfig, MethodConfig, QRDQNConfig, REMConfig
from replay_data.store_metadata import StoreSource
from tests.atari_dt.experiments.finished_runs import finish_run

OWN = (
    "1,000 steps played by a Q-learning agent, recorded with this project, made with sticky actions of probability 0.25"
)
DQN_REPLAY = "500,000 steps (1%) of the DQN-replay dataset"
D4RL_ATARI = "d4rl-atari 1%: 500,000 steps of run 1 of the DQN-replay dataset"


def finish_sweep(out: Path) -> dict[str, RunConfig]:
    """Write a sweep of DT, CQL, REM and an older run of QR-DQN, which does not say how many updates it made.

    The best checkpoint of CQL, after 10,000 updates, is neither its last one nor the best one of its first seed.
    """

    def finish(
        name: str,
        model: MethodConfig,
        scores: dict[int | None, list[float]],
        seed: int = 0,
        td_loss: float | None = 0.25,
    ) -> None:
        training = dataclasses.replace(VALUE_TRAINING, seed=seed)
        runs[name] = RunConfig(out / "breakout", model, training)
        target = (1.0, 6.0) if model.conditioned else (None, None)
        *earlier, (updates, last) = scores.items()
        finish_run(
            *(out, name, runs[name], [(*target, last)]),
            updates=updates,
            earlier=[(update, [of_target]) for update, of_target in earlier if update is not None],
            td_loss=td_loss,
        )

    runs: dict[str, RunConfig] = {}
    finish("QRDQN-seed0", QRDQNConfig(), {None: [1.0]})
    finish("REM-seed0", REMConfig(), {20_000: [2.0]})
    finish("CQL-seed0", CQLConfig(), {5_000: [9.0], 10_000: [7.0], 20_000: [5.0]})
    finish("CQL-seed1", CQLConfig(), {5_000: [1.0], 10_000: [6.0], 20_000: [3.0]}, seed=1)
    finish("DT-seed0", ModelConfig(), {2_000: [7.0]}, td_loss=None)
    return runs


def sorted_groups(out: Path) -> list[RunGroup]:
    return sorted(read_groups(out, finish_sweep(out)), key=lambda group: group.order)


def test_final_and_best_scores_stand_beside_published_ones(tmp_path: Path) -> None:
    assert published_rows(sorted_groups(tmp_path)) == [
        [*HEADER],
        ["Breakout", "DT, target return 6 (1×)", "this sweep", OWN, "1", "7.0", "2,000", "", ""],
        ["Breakout", "DT", "Chen et al. 2021", DQN_REPLAY, "3", "76.9 ± 27.3", "", "", ""],
        ["Breakout", "DT", "d3rlpy-benchmarks", D4RL_ATARI, "10", "86.0 ± 16.8", "19,525", "96.5", "7,810"],
        ["Breakout", "CQL", "this sweep", OWN, "2", "4.0 ± 1.0", "20,000", "6.5 ± 0.5", "10,000"],
        ["Breakout", "CQL", "Chen et al. 2021", DQN_REPLAY, "", "61.1", "", "", ""],
        ["Breakout", "CQL", "d3rlpy-benchmarks", D4RL_ATARI, "10", "22.0 ± 2.1", "12,500,000", "66.6", "2,500,000"],
        ["Breakout", "QR-DQN", "this sweep", OWN, "1", "1.0", "", "", ""],
        ["Breakout", "QR-DQN", "Chen et al. 2021", DQN_REPLAY, "", "6.8 (from 17.1%)", "", "", ""],
        ["Breakout", "QR-DQN", "d3rlpy-benchmarks", D4RL_ATARI, "10", "1.2 ± 0.4", "12,500,000", "7.3", "1,125,000"],
        ["Breakout", "REM", "this sweep", OWN, "1", "2.0", "20,000", "", ""],
        ["Breakout", "REM", "Chen et al. 2021", DQN_REPLAY, "", "4.5 (from 8.9%)", "", "", ""],
    ]


def test_a_report_says_what_is_not_comparable(tmp_path: Path) -> None:
    finish_sweep(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text().replace("\\", "")
    assert "obtained with other data and are NOT comparable with the published ones" in text
    assert "0.1% is 0.028 points in Breakout" in text
    assert (
        "Losses of different kinds are not comparable: cross-entropy (nats), quantile TD loss, Huber TD loss." in text
    )
    assert "- d3rlpy-benchmarks: github.com/takuseno/d3rlpy-benchmarks at commit 1771c9b" in text
    assert "CQL: conservative Q-learning. QR-DQN: quantile-regression DQN. REM: random ensemble mixture." in text
    assert "![Scores over updates](figures/scores.png)" in text
    assert (tmp_path / "figures" / "scores.png").stat().st_size > 1000
    assert "| alpha | 4.0 | all CQL |" in text
    assert "| num_quantiles | 200 | all CQL, QR-DQN |" in text
    assert "| discount | 0.99 | all CQL, QR-DQN, REM |" in text
    assert "| top_percent | 100.0 | all |" in text
    deviations = "protocol = dopamine (paper: original), episodes = 16 (paper: 10)"
    assert f"- Breakout, CQL, QR-DQN, REM: {deviations}\n" in text


def test_data_of_the_dqn_replay_dataset_need_not_be_incomparable(tmp_path: Path) -> None:
    config = RunConfig(tmp_path, CQLConfig(), VALUE_TRAINING)
    finish_run(tmp_path, "a", config, [(None, None, [5.0])], source=StoreSource("rl_unplugged", run=1), updates=9)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "NOT" not in text
    assert "comparable only as far as training data, updates and evaluation are the same" in text


def test_games_without_published_scores_have_no_such_table(tmp_path: Path) -> None:
    config = RunConfig(tmp_path, CQLConfig(), VALUE_TRAINING)
    finish_run(tmp_path, "a", config, [(None, None, [5.0])], "Asterix", updates=9)
    groups = read_groups(tmp_path, {"a": config})
    assert groups[0].game == find_game("Asterix")
    assert published_rows(groups) == [[*HEADER]]


def test_the_docs_have_all_published_scores() -> None:
    lines = (Path(__file__).parents[3] / "docs" / "results.md").read_text().splitlines()
    table = lines[lines.index(f"| {' | '.join(HEADER)} |") + 2 :]
    rows = [f"| {' | '.join(row_of_published(find_game(score.game), score))} |" for score in PUBLISHED_SCORES]
    assert sorted(table[: len(rows)]) == sorted(rows)
    assert table[len(rows)] == ""


def points_of(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list to which `curves` adds each figure that it draws."""
    figures: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        figures.append(figure)
        return b""

    monkeypatch.setattr(curves, "to_png", keep)
    return figures


def test_losses_of_different_units_do_not_share_axes(tmp_path: Path, drawn: list[Figure]) -> None:
    """Every run logs a loss of 1.5, and those of value-based methods a TD loss of 0.25, which is drawn."""
    curves.loss_figure(tmp_path, sorted_groups(tmp_path))
    panels = {}
    for axes in drawn[0].axes:
        panels[axes.get_ylabel()] = [[y for _, y in points] for line in axes.lines if (points := points_of(line))]
    td_loss, validation = [0.25], [9.0, 0.0]
    assert panels == {
        "training cross-entropy (nats)": [[1.5]],
        "validation cross-entropy (nats)": [validation],
        "training quantile TD loss": [td_loss] * 3,
        "validation quantile TD loss": [validation] * 3,
        "training Huber TD loss": [td_loss],
        "validation Huber TD loss": [validation],
    }


def test_scores_are_drawn_over_updates(tmp_path: Path, drawn: list[Figure]) -> None:
    groups = sorted_groups(tmp_path)
    assert curves.has_score_curves(groups)
    assert not curves.has_score_curves([group for group in groups if group.method != "CQL"])
    curves.score_figure(groups)
    (axes,) = drawn[0].axes
    assert [points_of(line) for line in axes.lines if line.get_marker() == "o"] == [
        [(2_000, 7.0)],
        [(5_000, 9.0), (10_000, 7.0), (20_000, 5.0)],
        [(5_000, 1.0), (10_000, 6.0), (20_000, 3.0)],
        [(20_000, 2.0)],
    ]
    assert {line.get_label(): points_of(line) for line in axes.lines if line.get_marker() == "_"} == {
        "DT, target 6 (1×)": [(2_000, 7.0)],
        "CQL": [(5_000, 5.0), (10_000, 6.5), (20_000, 4.0)],
        "REM": [(20_000, 2.0)],
    }
    assert axes.get_xscale() == "log"
    curves.score_figure([group for group in groups if group.method in ("CQL", "REM")])
    assert drawn[1].axes[0].get_xscale() == "linear"


def test_a_method_has_the_same_color_in_every_game(tmp_path: Path, drawn: list[Figure]) -> None:
    cloning, transformer = ModelConfig(conditioning="none"), ModelConfig()
    runs = {}
    for game, models in (("Breakout", [transformer, cloning]), ("Pong", [cloning]), ("Qbert", [cloning, transformer])):
        for model in models:
            name = f"{game}-{model.conditioning}"
            config = runs[name] = RunConfig(tmp_path / game.lower(), model)
            targets = [(None, None, [2.0])] if model.conditioning == "none" else [(1, 6, [3.0])]
            finish_run(tmp_path, name, config, targets, game, updates=9)
    curves.score_figure(read_groups(tmp_path, runs))
    colors = {
        axes.get_title(): {line.get_label(): line.get_color() for line in axes.lines if line.get_marker() == "_"}
        for axes in drawn[0].axes
    }
    assert list(colors) == ["Breakout", "Pong", "Qbert"]
    assert colors["Breakout"] == colors["Qbert"]
    assert len(set(colors["Breakout"].values())) == 2
    assert colors["Pong"]["BC"] == colors["Breakout"]["BC"]
