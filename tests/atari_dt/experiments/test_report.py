"""Tables, figures and pages of sweeps: hand-made results against sums by hand and against what the paper prints."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from atari_dt.config import TrainingConfig
from atari_dt.experiments.ablation import ablation_rows, ablation_runs
from atari_dt.experiments.benchmark import benchmark_preset, benchmark_runs, benchmark_stores, score_rows, table_1
from atari_dt.experiments.report import write_report
from atari_dt.experiments.results import group_labels, read_groups
from atari_dt.experiments.run import RunConfig
from atari_dt.experiments.sweep import COMMANDS
from atari_dt.games.catalogue import find_game
from replay_data import InputError
from replay_data.testing import write_random_store

OWN = {"kind": "dopamine", "run": 1, "recording": {"agent": "q_learning", "seed": 7}, "selection": {"kind": "even"}}
REASON = "no <b>luck</b> | at *all*: ![x](http://y/z) in __init__.py"


def finish(
    out: Path,
    name: str,
    config: RunConfig,
    targets: Sequence[tuple[float | None, float | None, Sequence[float]]],
    game: str = "Breakout",
    source: Mapping[str, Any] = OWN,
    number: int = 0,
) -> None:
    """Write what a run would have: of each target its multiple, its number and the scores."""
    (out / name / "training").mkdir(parents=True)
    result = {
        "data_digest": "x" * 64,
        "data_source": source,
        "dataset": {
            "game": game,
            "steps": 1000,
            "episodes": 10,
            "mean_return": 2.0,
            "max_return": 6.0,
            "mean_score": 2.5,
            "max_score": 16.0,
        },
        "targets": [
            {"return_multiple": multiple, "target_return": target, "scores": scores}
            for multiple, target, scores in targets
        ],
        "random_scores": [1, 2],
        "curve": [
            {"update": 5, "validation_loss": 9.0, "validation_accuracy": 0.1},
            {"update": 10, "validation_loss": 0.1 * number, "validation_accuracy": 0.2},
        ],
    }
    costs = {
        "seconds_per_update": number + 1,
        "evaluation_steps_per_s": 100 * number,
        "dtype": "float32",
        "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": "abacus", "cores": 2, "gpu": None},
    }
    (out / name / "experiment.json").write_text(json.dumps(config.to_json()))
    (out / name / "result.json").write_text(json.dumps(result))
    (out / name / "costs.json").write_text(json.dumps(costs))
    (out / name / "training" / "metrics.jsonl").write_text('{"update": 10, "loss": 1.5}\n')


def test_an_ablations_table_is_of_the_seeds_of_each_length(tmp_path: Path) -> None:
    """The paper's random player has 2 points, its gamer 30."""
    runs = ablation_runs(RunConfig(tmp_path), [1, 30], [5, 6])
    scores = {"K1-seed5": [1, 3], "K1-seed6": [5, 7], "K30-seed5": [10, 10], "K30-seed6": [20, 20]}
    for number, (name, config) in enumerate(runs.items()):
        finish(tmp_path, name, config, [(1, 6, [99]), (2, 12, scores[name])], number=number)
    rows = ablation_rows(read_groups(tmp_path, runs, {tmp_path: "x" * 64})[::-1])[1:]
    percent = [f"{100 * (mean - 2) / 28:.1f}" for mean in (4, 15)]
    short = [[*row[:4], *row[5:]] for row in rows]
    assert short[0] == ["1", "2", "4.0 ± 2.0", "4.0", percent[0], "0.050 ± 0.050", "1.5", "50"]
    assert short[1] == ["30", "2", "15.0 ± 5.0", "15.0", percent[1], "0.250 ± 0.050", "3.5", "250"]


@pytest.fixture
def benchmark(tmp_path: Path) -> tuple[Path, dict[str, RunConfig]]:
    """Two games, one seed of each in a store of its own; what would score the paper's means does."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_random_store(data / "breakout", [40] * 8)
    for seed in (1, 2):
        write_random_store(data / "Qbert" / str(seed), [40] * 8, seed=seed, game="Qbert")
    games = [find_game("breakout"), find_game("qbert")]
    stores = benchmark_stores(data, games, (1, 2))
    bases = {game.name: RunConfig(Path(), *benchmark_preset("quick", game)) for game in games}
    runs = benchmark_runs(bases, stores, (25,))
    for name, config in runs.items():
        game, method, which = name.split("-")
        off = -1 if which == "seed1" else 1  # a standard deviation of 1 point
        means = {"Breakout": (76.9, 40.9), "Qbert": (2215.8, 2464.1)}[game]
        number, multiple = (90.0, 1.0) if game == "Breakout" else (2500.0, 5.0)
        if method == "DT":
            played: list[tuple[float | None, float | None, list[float]]] = [
                (multiple, 6 * multiple, [10.0 + off]),
                (None, number, [means[0] + off]),
                (0.5, 3.0, [0.0]),
                (None, 55.0, [5.0]),
            ]
        else:
            played = [(None, None, [means[1] + off if method == "BC" else 30.0 + off])]
        if (game, method) != ("Qbert", "25BC"):
            finish(out, name, config, played, game)
        else:
            (out / name).mkdir(parents=True)
            (out / name / "experiment.json").write_text(json.dumps(config.to_json()))
            if off == 1:
                (out / name / "failure.json").write_text(
                    '{"reason": "no <b>luck</b> | at *all*: ![x](http://y/z) in __init__.py"}'
                )
    return out, runs


def test_a_benchmarks_runs_are_the_papers(benchmark: tuple[Path, dict[str, RunConfig]], tmp_path: Path) -> None:
    _, runs = benchmark
    assert len(runs) == 2 * 3 * 2
    for name, config in runs.items():
        game, method, seed = name.split("-")
        assert config.model.conditioning == ("return" if method == "DT" else "none")
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


def test_a_benchmarks_data_is_found_or_named(tmp_path: Path) -> None:
    game = [find_game("Breakout")]
    with pytest.raises(InputError, match=r"there is no data of Breakout in .*; make it with scripts/build_dataset\.py"):
        benchmark_stores(tmp_path, game, [1])
    write_random_store(tmp_path / "Breakout" / "1", [5])
    assert set(benchmark_stores(tmp_path, game, [1])) == {("Breakout", 1)}
    with pytest.raises(InputError, match="no data of Breakout"):
        benchmark_stores(tmp_path, game, [1, 2])
    write_random_store(tmp_path / "Pong", [5])
    (tmp_path / "Pong").rename(tmp_path / "old")
    (tmp_path / "Breakout" / "1").rename(tmp_path / "Pong")
    with pytest.raises(InputError, match="holds data of Breakout, not of Pong"):
        benchmark_stores(tmp_path, [find_game("Pong")], [1])
    with pytest.raises(InputError, match="is a store itself"):
        benchmark_stores(tmp_path / "Pong", game, [1])
    bases = {"Breakout": RunConfig(tmp_path, *benchmark_preset("quick", game[0]))}
    store = write_random_store(tmp_path / "short", [40] * 8)
    with pytest.raises(InputError, match="below 100, and no two the same"):
        benchmark_runs(bases, {("Breakout", 1): store}, (10, 10))
    with pytest.raises(InputError, match="a batch of 32 contexts is larger than the dataset of 31 steps"):
        benchmark_runs(bases, {("Breakout", 1): write_random_store(tmp_path / "few", [1] * 33)}, ())


def test_table_1_has_the_papers_shape(benchmark: tuple[Path, dict[str, RunConfig]]) -> None:
    """Scores that average to the paper's points give its percentages, which it rounded: 15.44 and 17.31 for Qbert."""
    groups = read_groups(*benchmark)
    header, breakout, qbert = table_1(groups)
    assert header[1:5] == ["DT, paper's number", "DT, paper's multiple", "BC", "25%BC"]
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
    assert [row[1:6] for row in rows if "data" in row[1] and row[0] == "Qbert"] == [
        ["data, mean", "", "", "", "2.5"],
        ["data, best", "", "", "", "16.0"],
    ]


class Page(HTMLParser):
    """What a browser would show, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def test_the_report_is_one_file_with_everything(benchmark: tuple[Path, dict[str, RunConfig]]) -> None:
    out, runs = benchmark
    (out / COMMANDS).write_text("python scripts/reproduce_benchmark.py --games 'a<b>*c*'\n```\n<script>\n")
    text = write_report(out)
    assert "the others are NOT, but of the data below, and not comparable" in text
    content = (out / "report.html").read_text()
    page = Page(content)
    groups = sorted(read_groups(out, runs), key=lambda group: group.game.name)
    for row in table_1(groups) + score_rows(groups):
        assert row in page.rows
    assert ["Qbert-25BC-seed2", f"failed: {REASON}", "", "", "", ""] in page.rows
    assert ["Qbert-25BC-seed1", "not finished", "", "", "", ""] in page.rows
    assert ["Qbert-BC-seed2", "finished", "10", "1", "0", "abacus, 1 thread(s), float32"] in page.rows
    assert ["context_length", "10", "all"] in page.rows
    assert "10 of 12 runs are finished, 1 failed, 1 are not finished." in content
    assert "recorded with this project, seed 7" in content
    assert "--games 'a&lt;b&gt;*c*'" in content
    assert not {"script", "link", "iframe", "b", "strong"} & set(page.tags)

    assert len(page.fetched) == 2
    for image, name in zip(page.fetched, ("benchmark", "curves"), strict=True):
        assert image.startswith("data:image/png;base64,")
        drawn = base64.b64decode(image.split(",")[1])
        assert drawn == (out / "figures" / f"{name}.png").read_bytes()
        pixels = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        assert pixels.std() > 5
    markdown = (out / "report.md").read_text()
    assert "![Scores of each method](figures/benchmark.png)" in markdown
    assert f"| {' | '.join(table_1(groups)[1])} |" in markdown

    before = (out / "report.html").read_bytes()
    write_report(out)
    assert (out / "report.html").read_bytes() == before


def test_runs_are_pooled_over_seeds_and_nothing_else(tmp_path: Path) -> None:
    base = RunConfig(tmp_path / "breakout")
    short = dataclasses.replace(base, model=dataclasses.replace(base.model, context_length=1))
    cloning = dataclasses.replace(base, model=dataclasses.replace(base.model, conditioning="none"))
    drawn = [dataclasses.replace(each, data=tmp_path / "breakout" / "123") for each in (base, cloning)]
    other = dataclasses.replace(base.training, seed=231)
    runs = {
        "a": base,
        "the same": base,
        "seed": dataclasses.replace(base, training=other),
        "other data": dataclasses.replace(base, training=other, data=tmp_path / "else"),
        "K": short,
        "BC": cloning,
        "a draw": drawn[1],
        "another": dataclasses.replace(drawn[1], data=tmp_path / "breakout" / "231", training=other),
    }
    for number, (name, config) in enumerate(runs.items()):
        finish(tmp_path, name, config, [(1, 6 + number, [float(number)])])
    groups = read_groups(tmp_path, runs)
    names = [group.names for group in groups]
    assert names == [("a", "seed"), ("other data",), ("K",), ("BC",), ("a draw", "another")]
    assert [label.split(",")[:2] for label in group_labels(groups[:1] + groups[2:4])] == [
        ["DT", " K = 30"],
        ["DT", " K = 1"],
        ["BC"],
    ]
    assert [row[2] for row in score_rows(groups)[1:6]] == ["7 (1×)", "9 (1×)", "10 (1×)", "11 (1×)", "12.5 (1×)"]
    text = write_report(tmp_path)
    assert "| the same | finished, the same as another run |" in (tmp_path / "report.md").read_text()
    assert "published" not in text  # which of the settings should stand in table 1?
    assert f"data = {tmp_path.name}/else" in text


def test_games_outside_the_paper_have_the_usual_constants(tmp_path: Path) -> None:
    """Asterix: 210 points of a random player, 8503.3 of a human one."""
    config = RunConfig(tmp_path)
    finish(tmp_path, "a", config, [(1, 6, [1000.0])], "Asterix", {"kind": "scripted", "seed": 3})
    groups = read_groups(tmp_path, {"a": config})
    assert len(table_1(groups)) == 1
    assert score_rows(groups)[1][-1] == f"{100 * 790 / 8293.3:.1f}"
    assert score_rows(groups)[1][5] in write_report(tmp_path)
    assert "of scripted players, recorded with this project, seed 3" in (tmp_path / "report.md").read_text()


def test_damaged_results_are_named(tmp_path: Path) -> None:
    config = RunConfig(tmp_path)
    finish(tmp_path, "a", config, [(1, 6, [1.0])])
    whole = {name: json.loads((tmp_path / "a" / name).read_text()) for name in ("result.json", "costs.json")}
    (tmp_path / "a" / "training" / "metrics.jsonl").write_text('{"update": 1')
    write_report(tmp_path)
    empty: list[Any] = [{}, [], ""]
    damages = [(name, damage) for name in whole for damage in empty]
    changes: list[dict[str, Any]] = [{"targets": []}, {"data_source": {}}, {"random_scores": [float("nan")]}]
    damages += [("result.json", whole["result.json"] | change) for change in changes]
    for name, damage in damages:
        (tmp_path / "a" / name).write_text(json.dumps(damage))
        with pytest.raises(InputError, match=f"{name} cannot be read; remove"):
            write_report(tmp_path)
        (tmp_path / "a" / name).write_text(json.dumps(whole[name]))


def test_results_of_the_dqn_replay_dataset_are_not_said_to_be_others(tmp_path: Path) -> None:
    config = RunConfig(tmp_path)
    source = {"kind": "rl_unplugged", "run": 1, "selection": {"kind": "all"}}
    cloning = dataclasses.replace(config, model=dataclasses.replace(config.model, conditioning="none"))
    finish(tmp_path, "a", config, [(1, 6, [1.0])], source=source)
    finish(tmp_path, "b", cloning, [(None, None, [1.0])], source=source)
    assert "NOT" not in write_report(tmp_path)
    assert "(the experience of the DQN-replay dataset)" in (tmp_path / "report.md").read_text()


def test_a_report_needs_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no runs; give the --out of a sweep"):
        write_report(tmp_path)
