"""The files of a run: what is written is read again, and so are the files of format version 1."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig, read_run_config
from atari_dt.experiments.run_result import (
    CheckpointResult,
    CurvePoint,
    RunCosts,
    RunFailure,
    RunResult,
    TargetResult,
    read_costs,
    read_failure,
    read_result,
)
from atari_dt.method_config import VALUE_TRAINING, CQLConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.training.training_run import Hardware
from replay_data import InputError
from replay_data.store_metadata import StoreSource
from tests.conftest import DATA

VERSION_1 = DATA / "version_1" / "sweep" / "K2-seed1"

CONFIG = RunConfig(
    data=Path("/home/user/store"),
    model=ModelConfig(context_length=2, num_layers=1, num_heads=2, embed_dim=16),
    training=TrainingConfig(
        max_updates=3,
        batch_size=4,
        warmup_tokens=682,
        final_tokens=24,
        precision="fp32",
        device="cpu",
        seed=1,
        validation_fraction=0.05,
    ),
    evaluation=EvaluationConfig(episodes=2, max_steps=20),
)

DIGEST = "75177a95f5f028ce4423a6c1111fa72289671495c71a396dd98ac2f995d8f3dd"

RESULT = RunResult(
    config=CONFIG,
    data_digest=DIGEST,
    dataset=DatasetInfo(
        game="Breakout",
        action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT"),
        reward_clipping=True,
        sticky_actions=0.25,
        max_return=5.0,
        mean_return=3.0,
        steps=22,
        episodes=5,
        max_score=21.0,
        mean_score=11.4,
        digest=DIGEST,
    ),
    data_source=StoreSource(
        "scripted",
        selection={"method": "all"},
        details={
            "seed": 7,
            "skills": "(i + 1/2) * golden ratio mod 1 for episode i",
            "max_frames": 108000,
            "ale_py": "0.12.1",
        },
    ),
    curve=(CurvePoint(3, 1.3929046392440796, 0.1666666716337204),),
    targets=(TargetResult(1.0, 5.0, scores=(0.0, 0.0), returns=(0.0, 0.0), lengths=(20, 20)),),
    random_scores=(0.0, 0.0),
)

COSTS = RunCosts(
    seconds_per_update=0.01053611700001511,
    evaluation_steps_per_s=87.0584804677841,
    dtype="float32",
    versions={
        "python": "3.11.7",
        "atari-dt": "0.1.0",
        "torch": "2.13.0+cpu",
        "numpy": "2.4.6",
        "ale-py": "0.12.1",
    },
    hardware=Hardware(cpu="AMD EPYC", cores=2, gpu=None),
)


def test_files_of_format_version_1_are_read() -> None:
    assert read_run_config(VERSION_1) == CONFIG
    assert read_result(VERSION_1) == RESULT
    assert read_costs(VERSION_1) == COSTS
    assert read_failure(VERSION_1) is None
    (group,) = read_groups(VERSION_1.parent, {VERSION_1.name: CONFIG}, {CONFIG.data: DIGEST})
    assert (group.results, group.costs) == ((RESULT,), (COSTS,))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    costs = dataclasses.replace(COSTS, training_seconds=31.5, flops_per_update=3_600_000_000_000)
    for name, content in (("experiment", CONFIG), ("result", RESULT), ("costs", costs)):
        assert content.to_json()["format_version"] == 2
        (tmp_path / f"{name}.json").write_text(json.dumps(content.to_json()))
    assert read_run_config(tmp_path) == CONFIG
    assert read_result(tmp_path) == RESULT
    assert read_costs(tmp_path) == costs


def test_results_of_several_checkpoints_are_read_again(tmp_path: Path) -> None:
    target = TargetResult(None, None, scores=(1.0, 2.0), returns=(1.0, 2.0), lengths=(20, 9))
    config = dataclasses.replace(CONFIG, model=CQLConfig(alpha=1.0), training=VALUE_TRAINING)
    earlier = (CheckpointResult(3, (target,)), CheckpointResult(7, (target,)))
    result = dataclasses.replace(RESULT, config=config, targets=(target,), updates=9, earlier=earlier)
    content = result.to_json()
    assert content["config"]["model"]["method"] == "cql"
    assert "method" not in RESULT.to_json()["config"]["model"]
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert read_result(tmp_path) == result
    for damage in (
        {"updates": 7},
        {"updates": None},
        {"earlier": content["earlier"][::-1]},
        {"earlier": [{"update": 3, "targets": []}]},
        {"earlier": [{"update": 3, "targets": 2 * content["targets"]}]},
        {"earlier": [{"update": -3, "targets": content["targets"]}]},
        {"earlier": {"update": 3}},
    ):
        (tmp_path / "result.json").write_text(json.dumps(content | damage))
        with pytest.raises(InputError, match=r"result\.json cannot be read"):
            read_result(tmp_path)


def test_a_failure_counts_only_without_a_result(tmp_path: Path) -> None:
    assert read_failure(tmp_path) is None
    for content in (RunFailure("the disk is full").to_json(), {"reason": "the disk is full"}):  # version 2 and 1
        (tmp_path / "failure.json").write_text(json.dumps(content))
        assert read_failure(tmp_path) == RunFailure("the disk is full")
    (tmp_path / "failure.json").write_text("[]")
    assert read_failure(tmp_path) == RunFailure("its failure.json cannot be read")
    (tmp_path / "result.json").touch()
    assert read_failure(tmp_path) is None


@pytest.mark.parametrize("damage", ['{"data": "x"', "[]", '{"data": "x"}', '{"format_version": 3}'])
def test_a_damaged_config_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "experiment.json").write_text(damage)
    with pytest.raises(InputError, match=r"is not a run: its experiment\.json cannot be read"):
        read_run_config(tmp_path)
