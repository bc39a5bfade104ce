"""The files of a run that other commands read: ``config.json`` and ``metrics.jsonl``."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.training import MetricsLine, TrainingRun, read_metrics, read_training_run
from atari_dt.training.training_run import Hardware, Segment
from replay_data import InputError
from tests.conftest import DATA

VERSION_1 = DATA / "version_1" / "run"

RUN = TrainingRun(
    data="/data/breakout",
    data_digest="0123abcd",
    dtype="bfloat16",
    device="cuda:0",
    processes=2,
    model=ModelConfig(context_length=4, conditioning="none"),
    training=TrainingConfig(batch_size=8, betas=(0.5, 0.75)),
    versions={"python": "3.11.7", "torch": "2.13.0"},
    hardware=Hardware(cpu="AMD EPYC", cores=2, gpu="NVIDIA H100"),
)


def test_a_training_run_survives_its_json() -> None:
    earlier = Segment(100, "float32", "cpu", 1, False, {"torch": "2.6.0"}, Hardware("Apple M1", 8, None))
    for run in (RUN, dataclasses.replace(RUN, compiled=True, history=(earlier,))):
        content = json.loads(json.dumps(run.to_json()))
        assert content["format_version"] == 2
        assert TrainingRun.from_json(content) == run


def test_segments_end_with_the_last_update_that_a_checkpoint_holds() -> None:
    first, second = (
        Segment(end, RUN.dtype, RUN.device, processes, RUN.compiled, RUN.versions, RUN.hardware)
        for end, processes in ((100, 8), (200, 4))
    )
    run = dataclasses.replace(RUN, history=(first, second))
    for num_updates, expected in (
        (0, []),
        (50, [(50, 8)]),
        (100, [(100, 8)]),
        (150, [(100, 8), (150, 4)]),
        (200, [(100, 8), (200, 4)]),
        (300, [(100, 8), (200, 4), (300, RUN.processes)]),
    ):
        assert [(segment.last_update, segment.processes) for segment in run.segments(num_updates)] == expected


def test_a_config_of_version_1_is_read() -> None:
    run = read_training_run(VERSION_1)
    assert run.data_digest == "75177a95f5f028ce4423a6c1111fa72289671495c71a396dd98ac2f995d8f3dd"
    assert (run.data, run.dtype, run.device, run.processes) == ("/home/user/store", "float32", "cpu", 1)
    assert run.model == ModelConfig(context_length=2, num_layers=1, num_heads=2, embed_dim=16)
    assert run.training == TrainingConfig(
        max_updates=3, batch_size=4, precision="fp32", device="cpu", validation_fraction=0.2, top_percent=90.0
    )
    assert run.versions["ale-py"] == "0.12.1"
    assert run.hardware == Hardware(cpu="AMD EPYC", cores=2, gpu=None)
    assert (run.compiled, run.history) == (False, ())


def test_settings_that_an_old_config_does_not_name_have_their_defaults(tmp_path: Path) -> None:
    content = json.loads((VERSION_1 / "config.json").read_text())
    del content["model"]["timestep_encoding"], content["training"]["compile"], content["training"]["top_percent"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    run, complete = read_training_run(tmp_path), read_training_run(VERSION_1)
    assert run == dataclasses.replace(complete, training=dataclasses.replace(complete.training, top_percent=100.0))


def test_only_settings_of_the_experiment_must_be_equal() -> None:
    moved = dataclasses.replace(
        RUN,
        data="/elsewhere",
        device="cpu",
        dtype="float32",
        processes=1,
        compiled=True,
        training=dataclasses.replace(RUN.training, device="cpu", precision="fp32", compile="on"),
        versions={},
        hardware=Hardware("another", 64, None),
    )
    assert moved.settings() == RUN.settings()
    for change in (
        {"data_digest": "4567"},
        {"model": ModelConfig(context_length=4)},
        {"training": TrainingConfig(batch_size=8)},
    ):
        assert dataclasses.replace(RUN, **change).settings() != RUN.settings()


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 3},
        {"model": {"context_length": 0}},
        {"model": {"context_length": "many"}},
        {"training": {"no_such_setting": 1}},
        {"training": None},
        {"hardware": {"cpu": "AMD EPYC"}},
        {"processes": None},
        {"versions": []},
        {"dtype": "int8"},
        {"compiled": "yes"},
        {"history": 7},
        {"history": [{"last_update": 3}]},
    ],
)
def test_a_malformed_config_is_an_input_error(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RUN.to_json() | change))
    with pytest.raises(InputError, match=r"is not a training run: its config.json cannot be read \("):
        read_training_run(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"format_version": 2'])
def test_a_file_that_is_no_config_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"is not a training run: its config.json cannot be read \("):
        read_training_run(tmp_path)


def test_metrics_of_version_1_are_read(tmp_path: Path) -> None:
    (line,) = read_metrics(VERSION_1)
    assert (line.update, line.tokens, line.validation_accuracy) == (3, 24, 0.1666666716337204)
    assert line.to_json() == json.loads((VERSION_1 / "metrics.jsonl").read_text())
    early = {name: value for name, value in line.to_json().items() if name not in ("mfu", "validation_loss")}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(early) + "\n")
    assert read_metrics(tmp_path) == [dataclasses.replace(line, mfu=None, validation_loss=None)]


def test_a_metrics_line_survives_its_json() -> None:
    line = MetricsLine(1, 2, 0.5, 1.25, 0.25, 3.0, 100.0, mfu=0.5, seconds=7.5)
    assert "validation_loss" not in line.to_json()
    assert MetricsLine.from_json(json.loads(json.dumps(line.to_json()))) == line


@pytest.mark.parametrize("damage", ['{"update": 4', "[]\n", "4\n", '{"update": 4}\n', '{"update": null}\n'])
def test_malformed_metrics_are_an_input_error(tmp_path: Path, damage: str) -> None:
    shutil.copy(VERSION_1 / "metrics.jsonl", tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(damage)
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be read \("):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be read \(FileNotFoundError"):
        read_metrics(tmp_path / "nowhere")
