"""A hand-made benchmark that several tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atari_dt.experiments.benchmark import benchmark_runs, benchmark_stores
from atari_dt.experiments.benchmark_methods import parse_methods
from atari_dt.experiments.benchmark_preset import benchmark_preset
from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import RunFailure
from atari_dt.games.catalogue import find_game
from replay_data.testing import write_random_store
from tests.atari_dt.experiments.benchmark_bases import bases_of
from tests.atari_dt.experiments.finished_runs import REASON, finish_run


@pytest.fixture
def benchmark(tmp_path: Path) -> tuple[Path, dict[str, RunConfig]]:
    """Return the directory and the runs of a benchmark of two games and two seeds, most of them finished.

    The runs of DT and BC score the means that the paper reports, ± 1 point. Qbert has a dataset for each seed. Of its
    two runs of 25%BC, one has failed and one is not finished.
    """
    data, out = tmp_path / "data", tmp_path / "out"
    write_random_store(data / "breakout", [40] * 8)
    for seed in (1, 2):
        write_random_store(data / "Qbert" / str(seed), [40] * 8, seed=seed, game="Qbert")
    games = [find_game("breakout"), find_game("qbert")]
    stores = benchmark_stores(data, games, (1, 2))
    bases = bases_of({game.name: RunConfig(Path(), *benchmark_preset("quick", game)) for game in games})
    runs = benchmark_runs(bases, stores, parse_methods(["dt", "bc", "top25bc"]))
    for name, config in runs.items():
        game_name, method, seed_name = name.split("-")
        deviation = -1 if seed_name == "seed1" else 1  # gives a standard deviation of 1 point
        means = {"Breakout": (76.9, 40.9), "Qbert": (2215.8, 2464.1)}[game_name]
        target, multiple = (90.0, 1.0) if game_name == "Breakout" else (2500.0, 5.0)
        if method == "DT":
            targets: list[tuple[float | None, float | None, list[float]]] = [
                (multiple, 6 * multiple, [10.0 + deviation]),
                (None, target, [means[0] + deviation]),
                (0.5, 3.0, [0.0]),
                (None, 55.0, [5.0]),
            ]
        else:
            targets = [(None, None, [means[1] + deviation if method == "BC" else 30.0 + deviation])]
        if (game_name, method) != ("Qbert", "25BC"):
            finish_run(out, name, config, targets, game_name)
        else:
            (out / name).mkdir(parents=True)
            (out / name / "experiment.json").write_text(json.dumps(config.to_json()))
            if seed_name == "seed2":
                (out / name / "failure.json").write_text(json.dumps(RunFailure(REASON).to_json()))
    return out, runs
