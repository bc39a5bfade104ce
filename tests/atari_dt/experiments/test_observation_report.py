"""Reports of sweeps whose runs observe different things."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.group_labels import group_labels
from atari_dt.experiments.report import write_report
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import RunConfig, read_run_config
from atari_dt.recipes import apply_recipe
from tests.atari_dt.experiments.finished_runs import finish_run


def test_reports_tell_observations_apart(tmp_path: Path) -> None:
    """Groups that observe different things are different methods, also if all have the settings of a recipe."""
    settings: dict[str, dict[str, Any]] = {
        "frames": {},
        "ram": {"observation": "ram"},
        "some": {"observation": "variables", "variables": ("ball_x", "player_x")},
        "others": {"observation": "variables", "variables": ("ball_y",)},
    }
    for name, changes in settings.items():
        for length in (1, 5) if name == "ram" else (5,):
            model, training = apply_recipe("fast", ModelConfig(context_length=length, **changes), TrainingConfig())
            finish_run(tmp_path, f"{name}-K{length}", RunConfig(Path("data"), model, training), [(1.0, 6.0, [3, 4])])
    assert read_run_config(tmp_path / "some-K5").model.variables == ("ball_x", "player_x")
    text = write_report(tmp_path)
    names = sorted(path.parent.name for path in tmp_path.glob("*/experiment.json"))
    groups = read_groups(tmp_path, {name: read_run_config(tmp_path / name) for name in names})
    assert sorted(group_labels(groups)) == [
        "DT",
        "DT on RAM, K = 1",
        "DT on RAM, K = 5",
        "DT on variables, variables = ball_x player_x",
        "DT on variables, variables = ball_y",
    ]
    report = (tmp_path / "report.md").read_text()
    assert "Context length: DT on RAM in Breakout" in report
    assert "On RAM: the model observes the 128 bytes of the emulator's RAM instead of frames." in report
    assert "observation = ram (paper: frames)" in report
    assert "DT on RAM" in text
    cloning = dataclasses.replace(groups[0].config.training, top_percent=10.0)
    config = dataclasses.replace(
        groups[0].config, model=ModelConfig(conditioning="none", observation="ram"), training=cloning
    )
    assert dataclasses.replace(groups[0], config=config).method == "10%BC on RAM"
