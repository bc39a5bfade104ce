"""The report of a sweep: its tables, figures and pages, made from the files that finished runs leave."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from atari_dt.config import ModelConfig
from atari_dt.experiments.benchmark import score_rows, table_1
from atari_dt.experiments.benchmark_preset import benchmark_preset, describe_evaluation_deviations
from atari_dt.experiments.group_labels import group_labels
from atari_dt.experiments.report import COMMANDS_FILE, write_report
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import RunConfig
from atari_dt.games.catalogue import find_game
from atari_dt.games.presets import default_settings
from atari_dt.recipes import apply_recipe
from replay_data import InputError
from replay_data.store_metadata import StoreSource
from tests.atari_dt.experiments.finished_runs import REASON, finish_run

STICKY = "made with sticky actions of probability 0.25"


class Page(HTMLParser):
    """The table cells that a browser shows, and the addresses that it fetches."""

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


def test_the_report_is_a_single_file_with_everything(benchmark: tuple[Path, dict[str, RunConfig]]) -> None:
    out, runs = benchmark
    (out / COMMANDS_FILE).write_text("python scripts/reproduce_benchmark.py --games 'a<b>*c*'\n```\n<script>\n")
    text = write_report(out)
    assert "The other columns were obtained with the data listed below and are NOT comparable" in text
    content = (out / "report.html").read_text()
    page = Page(content)
    numbers, multiples = "90 in Breakout, 2500 in Qbert", "1× in Breakout, 5× in Qbert"
    assert f"under the paper's target return ({numbers})" in text
    assert f"the factor with which the paper chose its target returns ({multiples})" in text
    assert "percentile 100" not in text
    groups = sorted(read_groups(out, runs), key=lambda group: group.game.name)
    for row in table_1(groups) + score_rows(groups):
        assert row in page.rows
    assert ["Qbert-25BC-seed2", f"failed: {REASON}", "", "", "", ""] in page.rows
    assert ["Qbert-25BC-seed1", "not finished", "", "", "", ""] in page.rows
    assert ["Qbert-BC-seed2", "finished", "10", "1", "0", "abacus, 1 thread, float32"] in page.rows
    assert ["context_length", "10", "all"] in page.rows
    assert "10 of 12 runs finished, 1 failed, 1 not finished." in content
    assert f"played by a Q-learning agent, recorded with this project, {STICKY}, seed 7 (selection: even)" in content
    assert "--games 'a&lt;b&gt;*c*'" in content
    assert (
        "<li>Breakout: context_length = 10 (paper: 30), num_layers = 3 (paper: 6), dropout = 0.0 (paper: 0.1), "
        "max_updates = 2000 (paper: none), batch_size = 32 (paper: 128), final_tokens = 640000 (paper: none), "
        "validation_fraction = 0.05 (paper: 0.0)</li>"
    ) in content
    assert not {"script", "link", "iframe", "b", "strong"} & set(page.tags)

    assert len(page.fetched) == 3
    for image, name in zip(page.fetched, ("benchmark", "profile", "curves"), strict=True):
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


def test_groups_pool_seeds_and_nothing_else(tmp_path: Path) -> None:
    base = RunConfig(tmp_path / "breakout")
    short = dataclasses.replace(base, model=ModelConfig(context_length=1))
    cloning = dataclasses.replace(base, model=ModelConfig(conditioning="none"))
    drawn = [dataclasses.replace(each, data=tmp_path / "breakout" / "123") for each in (base, cloning)]
    other = dataclasses.replace(base.training, seed=231)
    fast_model, fast_training = apply_recipe("fast", base.model, base.training)
    value_based = [apply_recipe(recipe, *default_settings("cql")) for recipe in ("paper", "fast")]
    runs = {
        "a": base,
        "the same": base,
        "seed": dataclasses.replace(base, training=other),
        "other data": dataclasses.replace(base, training=other, data=tmp_path / "else"),
        "K": short,
        "BC": cloning,
        "a draw": drawn[1],
        "another": dataclasses.replace(drawn[1], data=tmp_path / "breakout" / "231", training=other),
        "fast": dataclasses.replace(base, model=fast_model, training=dataclasses.replace(fast_training, seed=231)),
        "CQL": dataclasses.replace(base, model=value_based[0][0], training=value_based[0][1]),
        "fast CQL": dataclasses.replace(base, model=value_based[1][0], training=value_based[1][1]),
    }
    for index, (name, config) in enumerate(runs.items()):
        finish_run(tmp_path, name, config, [(1, 6 + index, [float(index)])])
    groups = read_groups(tmp_path, runs)
    names = [group.names for group in groups]
    alone = [(name,) for name in ("fast", "CQL", "fast CQL")]
    assert names == [("a", "seed"), ("other data",), ("K",), ("BC",), ("a draw", "another"), *alone]
    assert [label.split(",")[:2] for label in group_labels(groups[:1] + groups[2:4])] == [
        ["DT", " K = 30"],
        ["DT", " K = 1"],
        ["BC"],
    ]
    assert group_labels([groups[0], groups[5]]) == ["DT, recipe = paper", "DT, recipe = fast"]
    assert group_labels(groups[6:]) == ["CQL, recipe = paper", "CQL, recipe = fast"]
    assert [row[2] for row in score_rows(groups)[1:6]] == ["7 (1×)", "9 (1×)", "10 (1×)", "11 (1×)", "12.5 (1×)"]
    place = tmp_path.name
    assert [row[1] for row in score_rows(groups) if row[1].startswith("dataset mean")] == [
        f"dataset mean, {place}/breakout",
        f"dataset mean, {place}/else",
        "dataset mean, breakout/of each seed",
    ]
    text = write_report(tmp_path)
    assert "| the same | finished, the same as another run |" in (tmp_path / "report.md").read_text()
    assert "published" not in text  # table 1 has room for only one of the groups
    assert f"data = {tmp_path.name}/else" in text


def test_seeds_of_another_arithmetic_are_pooled(tmp_path: Path) -> None:
    base = RunConfig(tmp_path / "breakout")
    training = dataclasses.replace(base.training, seed=231, precision="fp32", device="cpu", compile="off")
    runs = {"a": base, "on a CPU": dataclasses.replace(base, training=training, threads=2)}
    for name, config in runs.items():
        finish_run(tmp_path, name, config, [(1, 6, [1.0])])
    groups = read_groups(tmp_path, runs)
    assert [group.names for group in groups] == [("a", "on a CPU")]


def test_games_outside_the_paper_use_the_scores_of_the_table_of_57_games(tmp_path: Path) -> None:
    """In Asterix, the random policy scores 210 points and the human player 8503.3."""
    config = RunConfig(tmp_path)
    source = StoreSource("scripted", details={"seed": 3})
    finish_run(tmp_path, "a", config, [(1, 6, [1000.0])], "Asterix", source)
    groups = read_groups(tmp_path, {"a": config})
    assert len(table_1(groups)) == 1
    assert score_rows(groups)[1][8] == f"{100 * 790 / 8293.3:.1f}"
    assert score_rows(groups)[1][5] in write_report(tmp_path)
    assert (
        f"played by scripted players, recorded with this project, {STICKY}, seed 3"
        in (tmp_path / "report.md").read_text()
    )


def test_damaged_results_are_named(tmp_path: Path) -> None:
    config = RunConfig(tmp_path)
    finish_run(tmp_path, "a", config, [(1, 6, [1.0])])
    intact = {name: json.loads((tmp_path / "a" / name).read_text()) for name in ("result.json", "costs.json")}
    (tmp_path / "a" / "training" / "metrics.jsonl").write_text('{"update": 1')
    write_report(tmp_path)  # draws no training loss
    empty: list[Any] = [{}, [], ""]
    damages = [(name, damage) for name in intact for damage in empty]
    damages += [(name, content | {"format_version": 3}) for name, content in intact.items()]
    changes: list[dict[str, Any]] = [
        {"targets": []},
        {"data_source": []},
        {"data_source": {"format": 1}},
        {"random_scores": [float("nan")]},
        {"dataset": intact["result.json"]["dataset"] | {"steps": None}},
    ]
    damages += [("result.json", intact["result.json"] | change) for change in changes]
    for name, damage in damages:
        (tmp_path / "a" / name).write_text(json.dumps(damage))
        with pytest.raises(InputError, match=rf"{name} cannot be read \(.*\); remove .*/a/result.json"):
            write_report(tmp_path)
        (tmp_path / "a" / name).write_text(json.dumps(intact[name]))


def test_data_of_the_dqn_replay_dataset_is_called_comparable(tmp_path: Path) -> None:
    config = RunConfig(tmp_path)
    source = StoreSource("rl_unplugged", run=1, selection={"method": "all"})
    cloning = dataclasses.replace(config, model=ModelConfig(conditioning="none"))
    finish_run(tmp_path, "a", config, [(1, 6, [1.0])], source=source)
    finish_run(tmp_path, "b", cloning, [(None, None, [1.0])], source=source)
    text = write_report(tmp_path)
    assert "NOT" not in text
    assert "(the experience of the DQN-replay dataset)" in (tmp_path / "report.md").read_text()

    caption = f"Training data of Breakout: from RL Unplugged (the experience of the DQN-replay dataset), {STICKY}."
    assert text.count(caption) == 2  # of table 1 and of the table of scores
    blocks = (tmp_path / "report.md").read_text().replace("\\", "").split("\n\n")
    assert sum(caption in block for block in blocks) == 4  # and of the figures of scores and learning curves


def test_a_shorter_evaluation_is_said_in_captions_and_settings(tmp_path: Path) -> None:
    """The hand-made episodes have 20 steps."""
    model, training, evaluation = benchmark_preset("paper", find_game("Pong"))
    paper = RunConfig(tmp_path, model, training, evaluation)
    reports = {}
    for max_steps in (27_000, 21, 20):
        short = dataclasses.replace(evaluation, max_steps=max_steps, episodes=10 if max_steps == 27_000 else 2)
        config = dataclasses.replace(paper, evaluation=short)
        cloning = dataclasses.replace(config, model=dataclasses.replace(model, conditioning="none"))
        out = tmp_path / str(max_steps)
        finish_run(out, "a", config, [(None, 20, [1.0, 2.0])], "Pong")
        finish_run(out, "b", cloning, [(None, None, [1.0])], "Pong")
        reports[max_steps] = write_report(out)
        settings = (out / "report.md").read_text().replace("\\", "").partition("differ from the paper's:")[2]
        changed = f"Pong: episodes = 2 (paper: 10), max_steps = {max_steps} (paper: 27000)\n"
        assert settings.strip().startswith("- Pong: none" if max_steps == 27_000 else f"- {changed}")
    truncated = "The evaluation truncated 3 of 3 episodes of Pong after 20 steps; the paper's limit is 27,000"
    assert reports[20].count(truncated) == 2  # in the captions of table 1 and of the scores
    assert "truncated" not in reports[21] + reports[27_000]


@pytest.mark.parametrize(
    ("game", "changes", "described"),
    [
        ("Pong", {"return_multiples": (), "return_percentiles": (100,), "evaluation_seed": 3}, ""),
        ("Asterix", {"return_multiples": (0.5,)}, ""),
        ("Asterix", {"protocol": "dopamine"}, "protocol = dopamine (paper: original)"),
        (
            "Qbert",
            {"return_multiples": (), "return_percentiles": (100,)},
            "return_multiples = none (paper: 5), return_percentiles = 100 (paper: none)",
        ),
        ("Breakout", {"target_returns": (90, 45.5)}, "target_returns = 90 45.5 (paper: 90)"),
    ],
)
def test_changed_evaluations_are_described(game: str, changes: dict[str, Any], described: str) -> None:
    evaluation = dataclasses.replace(benchmark_preset("paper", find_game(game))[2], **changes)
    assert describe_evaluation_deviations(find_game(game), evaluation) == described


def test_a_report_needs_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no runs; choose the directory of a sweep"):
        write_report(tmp_path)
