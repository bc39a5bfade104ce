"""The benchmark of the paper: its runs, data and tables, against what the paper prints."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from atari_dt.config import TrainingConfig
from atari_dt.experiments.benchmark import (
    benchmark_runs,
    benchmark_stores,
    explain_target_columns,
    score_rows,
    table_1,
)
from atari_dt.experiments.benchmark_methods import parse_methods
from atari_dt.experiments.benchmark_preset import benchmark_preset
from atari_dt.experiments.results import format_number, read_groups
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig
from atari_dt.games.catalogue import find_game
from atari_dt.method_config import VALUE_TRAINING, CQLConfig, QRDQNConfig, REMConfig
from atari_dt.model.dataset_info import DatasetInfo
from replay_data import InputError, TrajectoryStore
from replay_data.store_metadata import StoreSource
from replay_data.store_writer import StoreWriter
from replay_data.testing import write_random_store
from tests.atari_dt.experiments.benchmark_bases import bases_of
from tests.atari_dt.experiments.finished_runs import finish_run
from tests.conftest import DATA

DT_AND_BC = parse_methods(["dt", "bc"])
NORMALIZED = 8
"""Column of the normalized mean in the table of scores."""


def test_the_runs_have_the_papers_settings(benchmark: tuple[Path, dict[str, RunConfig]], tmp_path: Path) -> None:
    _, runs = benchmark
    assert len(runs) == 2 * 3 * 2
    for name, config in runs.items():
        game, method, seed = name.split("-")
        assert config.model.method == ("dt" if method == "DT" else "bc")
        assert config.training.top_percent == (25 if method == "25BC" else 100)
        assert f"seed{config.training.seed}" == seed
        own = Path("Qbert") / seed.removeprefix("seed")
        assert config.data == tmp_path / "data" / (own if game == "Qbert" else "breakout")
        assert config.training.final_tokens == 2000 * 32 * 10
        assert config.training.epochs == 2000  # more than 2,000 updates can take
    pong = benchmark_preset("paper", find_game("Pong"))
    assert (pong[0].context_length, pong[1].batch_size, pong[1].epochs) == (50, 512, 5)
    assert dataclasses.replace(pong[1], batch_size=128) == TrainingConfig()
    assert (pong[2].target_returns, pong[2].return_multiples) == ((20,), (1,))
    assert (pong[2].protocol, pong[2].episodes) == ("original", 10)
    other = benchmark_preset("paper", find_game("Asterix"))[2]
    assert (other.target_returns, other.return_multiples) == ((), (1,))


def test_methods_are_named_once_each() -> None:
    methods = parse_methods(["rem", "top10bc", "qrdqn", "bc", "top2.5bc", "dt", "cql"])
    assert [method.label for method in methods] == ["REM", "10BC", "QRDQN", "BC", "2.5BC", "DT", "CQL"]
    assert [(method.name, method.top_percent) for method in methods[1:5]] == [
        ("bc", 10),
        ("qrdqn", 100),
        ("bc", 100),
        ("bc", 2.5),
    ]
    for names, message in {
        (): "`methods` must have at least one method",
        ("dt", "dqn"): "`methods` has 'dqn', which is not a method; choose from dt, bc, qrdqn, cql, rem and top10bc",
        ("top-1bc",): "`methods` has 'top-1bc', which is not a method",
        ("cql", "cql"): "`methods` has 'cql' twice",
        ("top10bc", "top10.0bc"): "`methods` has 'top10.0bc' twice",
        ("top100bc",): "`methods` has 'top100bc', which clones all of the steps; use bc",
        ("top0bc",): "`methods` has 'top0bc', whose percentage must be above 0 and below 100",
        ("top" + 400 * "9" + "bc",): "whose percentage must be above 0 and below 100",
    }.items():
        with pytest.raises(InputError, match=re.escape(message)):
            parse_methods(names)


def test_the_data_of_each_game_is_found_or_named(tmp_path: Path) -> None:
    game = [find_game("Breakout")]
    with pytest.raises(
        InputError, match=r"there is no data of Breakout in .*; make it there with scripts/build_dataset\.py"
    ):
        benchmark_stores(tmp_path, game, [1])
    write_random_store(tmp_path / "Breakout" / "1", [5])
    assert set(benchmark_stores(tmp_path, game, [1])) == {("Breakout", 1)}
    with pytest.raises(InputError, match="no data of Breakout"):
        benchmark_stores(tmp_path, game, [1, 2])
    (tmp_path / "Breakout" / "1").rename(tmp_path / "Pong")
    with pytest.raises(InputError, match="has data of Breakout, not of Pong"):
        benchmark_stores(tmp_path, [find_game("Pong")], [1])
    with pytest.raises(InputError, match="is a store itself"):
        benchmark_stores(tmp_path / "Pong", game, [1])
    bases = bases_of({"Breakout": RunConfig(tmp_path, *benchmark_preset("quick", game[0]))})
    with pytest.raises(InputError, match="a batch of 32 is larger than the dataset of 31 steps"):
        benchmark_runs(bases, {("Breakout", 1): write_random_store(tmp_path / "few", [1] * 33)}, DT_AND_BC)


def test_table_1_has_the_papers_shape(benchmark: tuple[Path, dict[str, RunConfig]]) -> None:
    """Mean scores as in the paper give its percentages; for Qbert it rounds 15.44 and 17.31."""
    groups = read_groups(*benchmark)
    header, breakout, qbert = table_1(groups)
    assert header[1:5] == ["DT, paper's target", "DT, paper's multiple", "BC", "25%BC"]
    assert header[5:] == [f"published {name}" for name in ("DT", "CQL", "QR-DQN", "REM", "BC")]
    assert breakout[:5] == ["Breakout", "267.5 ± 3.6", "28.6 ± 3.6", "138.9 ± 3.6", "100.0 ± 3.6"]
    assert breakout[5:] == ["267.5 ± 97.5", "211.1", "17.1", "8.9", "138.9 ± 61.7"]
    assert qbert[:5] == ["Qbert", "15.4 ± 0.0", "-1.2 ± 0.0", "17.3 ± 0.0", ""]

    rows = score_rows(groups)
    assert [row[1:7] for row in rows if row[:2] == ["Breakout", "DT"]] == [
        ["DT", "6 (1×)", "2", "2", "10.0 ± 1.0", "10.0"],
        ["DT", "90", "2", "2", "76.9 ± 1.0", "76.9"],
        ["DT", "3 (0.5×)", "2", "2", "0.0 ± 0.0", "0.0"],
        ["DT", "55", "2", "2", "5.0 ± 0.0", "5.0"],
    ]
    assert [row[1:6] for row in rows if "dataset" in row[1] and row[0] == "Qbert"] == [
        ["dataset mean", "", "", "", "2.5"],
        ["dataset best", "", "", "", "16.0"],
    ]


def test_value_methods_have_columns_and_best_scores(tmp_path: Path) -> None:
    """The paper's scores in points give its percentages. Only CQL has several checkpoints that both seeds share."""
    base = RunConfig(tmp_path, training=VALUE_TRAINING)
    other = dataclasses.replace(base.training, seed=1)
    cql, qrdqn, rem = (dataclasses.replace(base, model=each) for each in (CQLConfig(), QRDQNConfig(), REMConfig()))
    runs = {"a": cql, "b": dataclasses.replace(cql, training=other), "c": qrdqn, "d": rem}
    finish_run(tmp_path, "a", cql, [(None, None, [61.1])], updates=2900, earlier=[(1000, [[99]]), (2000, [[70.0]])])
    finish_run(tmp_path, "b", runs["b"], [(None, None, [61.1])], updates=3100, earlier=[(2000, [[66.0]])])
    finish_run(tmp_path, "c", qrdqn, [(None, None, [6.8])], updates=4000)
    finish_run(tmp_path, "d", rem, [(None, None, [4.5])])
    groups = sorted(read_groups(tmp_path, runs), key=lambda group: group.order)
    header, row = table_1(groups)
    columns = [*range(3, 6), *(header.index(f"published {name}") for name in ("CQL", "QR-DQN", "REM"))]
    assert [header[i] for i in columns[:3]] == ["CQL", "QR-DQN", "REM"]
    assert [row[i] for i in columns] == ["211.1 ± 0.0", "17.1", "8.9", "211.1", "17.1", "8.9"]
    header, *rows = score_rows(groups)
    assert header[NORMALIZED:] == ["normalized %", "updates", "best score", "updates of the best"]
    last_columns = [(cells[1], *cells[NORMALIZED + 1 :]) for cells in rows]
    assert last_columns[:3] == [
        ("CQL", "3,000", "68.0 ± 2.0", "2,000"),
        ("QR-DQN", "4,000", "", ""),
        ("REM", "", "", ""),
    ]
    assert {len(cells) for cells in rows} == {len(header)}
    assert score_rows(groups[1:])[0][NORMALIZED:] == ["normalized %", "updates"]


def write_losing_store(path: Path, game: str) -> TrajectoryStore:
    """Write a store of ten episodes with returns of -10, -9, …, -1."""
    with StoreWriter(
        path,
        game=game,
        action_meanings=("NOOP",),
        reward_clipping=True,
        sticky_actions=0.25,
        source=StoreSource("random"),
    ) as writer:
        for lost in range(1, 11):
            frames, actions = np.zeros((20, 84, 84), np.uint8), np.zeros(20, np.uint8)
            rewards = -(np.arange(20) < lost).astype(np.float32)
            writer.append(frames, actions, rewards, rewards, terminated=True)
    return TrajectoryStore.open(path)


def test_data_without_a_positive_return_is_played_at_its_largest_return(tmp_path: Path) -> None:
    stores = {(game, 1): write_losing_store(tmp_path / game, game) for game in ("Pong", "Qbert", "Skiing")}
    presets = {game: benchmark_preset("quick", find_game(game)) for game, _ in stores}
    evaluations = {
        game: presets[game][2].for_returns_of([DatasetInfo.from_store(store)]) for (game, _), store in stores.items()
    }
    for evaluation in evaluations.values():
        assert (evaluation.return_multiples, evaluation.return_percentiles) == ((), (100,))
    assert [evaluations[game].target_returns for game in ("Pong", "Qbert", "Skiing")] == [(20,), (2500,), ()]
    bases = bases_of({game: RunConfig(tmp_path, *presets[game][:2], evaluations[game]) for game in presets})
    runs = benchmark_runs(bases, stores, DT_AND_BC)
    assert runs["Skiing-DT-seed1"].evaluation == evaluations["Skiing"]
    assert RunConfig.from_json(json.loads(json.dumps(runs["Pong-DT-seed1"].to_json()))) == runs["Pong-DT-seed1"]
    assert evaluations["Pong"].explain_default(evaluations["Pong"]) is not None
    assert evaluations["Pong"].explain_default(presets["Pong"][2]) is None

    # The paper's multiple of Pong is 1, which is percentile 100.
    finish_run(
        tmp_path / "out", "Pong-DT-seed1", runs["Pong-DT-seed1"], [(None, -1, [17.0])], "Pong", return_percentile=100
    )
    (group,) = read_groups(tmp_path / "out", runs)
    assert table_1([group])[1][:3] == ["Pong", "", "105.6"]
    assert explain_target_columns([group]).endswith(
        "(1× in Pong). In Pong, that is percentile 100 of "
        "the returns, the largest one, which stands for 1× where no return is positive."
    )
    assert [row[2] for row in score_rows([group])[1:2]] == ["-1 (percentile 100)"]


def test_a_score_just_below_random_play_is_printed_without_a_sign(tmp_path: Path) -> None:
    """In Seaquest, 60 points are -0.02% of the way from 68 points to 42,055."""
    config = RunConfig(tmp_path, *benchmark_preset("quick", find_game("Seaquest")))
    finish_run(tmp_path, "a", config, [(None, 1450, [60.0, 60.0])], "Seaquest")
    groups = read_groups(tmp_path, {"a": config})
    assert table_1(groups)[1][:2] == ["Seaquest", "0.0"]
    assert score_rows(groups)[1][NORMALIZED] == "0.0"
    assert [format_number(value) for value in (-0.05, -0.0501, 0.04, -12.35)] == ["-0.1", "-0.1", "0.0", "-12.3"]


def test_errors_name_the_run_of_several_games(tmp_path: Path) -> None:
    stores = {(game, 1): write_losing_store(tmp_path / game, game) for game in ("Skiing", "Tennis")}
    base = RunConfig(tmp_path, *benchmark_preset("quick", find_game("Skiing")))
    tenth = dataclasses.replace(base, evaluation=EvaluationConfig((0.5,)))
    with pytest.raises(InputError, match=r"^Tennis-DT-seed1: the dataset's largest return is -1, so larger"):
        benchmark_runs(bases_of({"Skiing": base, "Tennis": tenth}), stores, DT_AND_BC)
    message = r"^Skiing-1BC-seed1: the best episode alone has 20 of 180 .*; raise the percentage in `methods` or use"
    with pytest.raises(InputError, match=message):
        benchmark_runs(bases_of({"Skiing": base, "Tennis": base}), stores, parse_methods(["top1bc"]))
    large = dataclasses.replace(base, training=dataclasses.replace(base.training, batch_size=1000))
    old = {("Skiing", 1): TrajectoryStore.open(DATA / "version_1" / "store")}
    few = dataclasses.replace(base, training=dataclasses.replace(base.training, batch_size=2))
    assert set(benchmark_runs(bases_of({"Skiing": few}), old, DT_AND_BC)) == {"Skiing-DT-seed1", "Skiing-BC-seed1"}
    with pytest.raises(InputError, match=r"^Skiing-CQL-seed1: .* does not tell terminated from truncated episodes"):
        benchmark_runs(bases_of({"Skiing": few}), old, parse_methods(["dt", "cql"]))
    with pytest.raises(InputError, match=r"^Tennis-DT-seed1: a batch of 1000 is larger than"):
        benchmark_runs(bases_of({"Skiing": base, "Tennis": large}), stores, DT_AND_BC)
