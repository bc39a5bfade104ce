"""The ablation of the context length: its runs and its table."""

from __future__ import annotations

from pathlib import Path

from atari_dt.experiments.ablation import ablation_runs
from atari_dt.experiments.ablation_report import ablation_rows
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import RunConfig
from tests.atari_dt.experiments.finished_runs import DIGEST, finish_run


def test_the_table_summarizes_the_seeds_of_each_context_length(tmp_path: Path) -> None:
    """In Breakout, the paper's random policy scores 2 points and its gamer 30."""
    runs = ablation_runs(RunConfig(tmp_path), [1, 30], [5, 6])
    scores = {"K1-seed5": [1, 3], "K1-seed6": [5, 7], "K30-seed5": [10, 10], "K30-seed6": [20, 20]}
    for index, (name, config) in enumerate(runs.items()):
        finish_run(tmp_path, name, config, [(1, 6, [99]), (2, 12, scores[name])], index=index)
    rows = ablation_rows(read_groups(tmp_path, runs, {tmp_path: DIGEST})[::-1])[1:]
    percent = [f"{100 * (mean - 2) / 28:.1f}" for mean in (4, 15)]
    without_interval = [[*row[:4], *row[5:]] for row in rows]
    assert without_interval[0] == ["1", "2", "4.0 ± 2.0", "4.0", percent[0], "0.050 ± 0.050", "1.5", "50"]
    assert without_interval[1] == ["30", "2", "15.0 ± 5.0", "15.0", percent[1], "0.250 ± 0.050", "3.5", "250"]
