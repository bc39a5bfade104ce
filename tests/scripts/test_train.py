"""train.py: under torchrun, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.atari_dt.training.processes import free_port, join, join_group, redirect_output, run_script, start
from tests.scripts.commands import (
    SCRIPTS,
    Refuse,
    assert_failed_write_leaves_nothing,
    call,
)


def _launch(arguments: list[str], output: Path) -> None:
    """Do what the command ``torchrun`` does, in this child process."""
    from torch.distributed.run import main

    redirect_output(output)
    main(arguments)


def test_torchrun_trains_in_two_processes_and_each_thing_is_said_once(run: Path, tmp_path: Path) -> None:
    launcher = ["--standalone", "--nproc-per-node", "2", str(SCRIPTS / "train.py")]
    options = f"--data {run.parent / 'store'} --out {tmp_path / 'run'} --batch-size 4 --max-updates 2 --num-layers 1"
    output = tmp_path / "printed"
    assert join([start(_launch, [*launcher, *options.split()], output)]) == [0], output.with_suffix(".err").read_text()
    printed = output.with_suffix(".out").read_text()
    assert printed == f"trained; next: python scripts/evaluate.py {tmp_path / 'run'}\n"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["processes"] == 2


def test_two_processes_refuse_their_options_once(run: Path, tmp_path: Path) -> None:
    port, outputs = free_port(), [tmp_path / "rank0", tmp_path / "rank1"]
    options = f"--data {run.parent / 'store'} --out {run} --batch-size 4".split()
    processes = [
        start(run_script, "train.py", options, output, partial(join_group, rank, port))
        for rank, output in enumerate(outputs)
    ]
    assert join(processes) == [1, 1]
    errors = "".join(output.with_suffix(".err").read_text() for output in outputs)
    assert errors.count(f"error: {run} exists already") == errors.count("error: ") == 1


def test_an_option_of_the_wrong_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train.py", "--data", "a", "--out", "b", "--batch-size", "many") == 2
    assert "batch-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data {tmp}/nowhere --out {tmp}/new", "no trajectory store at {tmp}/nowhere"),
        ("--data {run} --out {tmp}/new", "{run} is not a trajectory store"),
        ("--data {store} --out {tmp}/new --context-length 0", "--context-length must be at least 1, not 0"),
        ("--data {store} --out {tmp}/new", "a batch of 128 is larger than the dataset of 11 steps"),
        ("--data {store} --out {tmp}/new --batch-size 4 --device tpu", "no device 'tpu'"),
        ("--data {store} --out {tmp}/new --batch-size 4 --seed -1", "--seed must be between 0"),
        ("--data {store} --out {tmp}/new --batch-size 4 --learning-rate 1e38", "no longer finite at update"),
        ("--data {store} --out {run} --batch-size 4", "{run} exists already"),
        (
            "--data {store} --out {tmp}/new --batch-size 4 --validation-fraction 1",
            "--validation-fraction must be at least 0 and less than 1, not 1.0",
        ),
        ("--data {pong} --out {tmp}/new", "a batch of 512 is larger than the dataset of 4 steps"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("train.py", options, message)


def test_a_failed_write_leaves_nothing(run: Path, tmp_path: Path) -> None:
    assert_failed_write_leaves_nothing("train.py", "--data {store} --out {tmp}/new --batch-size 4", run, tmp_path)
