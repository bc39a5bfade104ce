"""rerun.py: what it refuses, and what it says of a difference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from atari_dt.experiments import rerun
from atari_dt.experiments.archive import ArchivedRun
from atari_dt.experiments.run_result import RunCosts, RunResult
from tests.conftest import DATA
from tests.scripts.commands import Refuse, call

ARCHIVE = DATA / "sweep_archive.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/no.json DT --data {store} --out {tmp}/new", "{tmp}/no.json cannot be read"),
        (f"{ARCHIVE} DT --data {{store}} --out {{tmp}}/new", "has no run DT; choose one of BC-seed0, DT-seed0"),
        (f"{ARCHIVE} DT-seed0 --data {{store}} --out {{tmp}}/new", "{store} is not the data of DT-seed0: its SHA-256"),
        (f"{ARCHIVE} DT-seed0 --data {{tmp}}/no --out {{tmp}}/new", "no trajectory store at {tmp}/no"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("rerun.py", options, message)


@pytest.mark.parametrize(("change", "status"), [(0.0, 0), (1e-9, 1)])
def test_the_exit_status_says_whether_the_result_is_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: float,
    status: int,
) -> None:
    def change_first_loss(run: ArchivedRun, _: Path, __: Path) -> tuple[RunResult, RunCosts]:
        assert run.result is not None
        assert run.costs is not None
        first, *others = run.result.curve
        first = dataclasses.replace(first, validation_loss=first.validation_loss + change)
        return dataclasses.replace(run.result, curve=(first, *others)), run.costs

    monkeypatch.setattr(rerun, "rerun", change_first_loss)
    assert call(monkeypatch, "rerun.py", ARCHIVE, "DT-seed0", "--data", tmp_path) == status
    output = capsys.readouterr()
    assert ("DT-seed0: the same" in output.out) == (status == 0)
    assert ("error: DT-seed0 differs from its archive in 1 of 4 rows" in output.err) == (status == 1)
