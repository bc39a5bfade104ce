"""An archived run is done again: the same numbers, or those that differ by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments import run as run_module
from atari_dt.experiments.archive import ArchivedRun, read_archive
from atari_dt.experiments.archive_writer import write_archive
from atari_dt.experiments.launchers import LocalLauncher
from atari_dt.experiments.rerun import compare_results, explain_differences, rerun
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig, read_run_config
from atari_dt.experiments.run_result import RunResult
from atari_dt.experiments.sweep import run_sweep
from atari_dt.training import loop
from atari_dt.training.training_run import Hardware
from replay_data import InputError, TrajectoryStore
from tests.atari_dt.experiments.finished_runs import finish_run

TRAINING = TrainingConfig(
    max_updates=4, batch_size=2, checkpoint_every=2, keep_checkpoints=2, validation_fraction=0.3, device="cpu"
)
EVALUATION = EvaluationConfig(episodes=1, max_steps=10, evaluated_checkpoints=2)


@pytest.fixture(scope="module")
def _in_this_process() -> Iterator[None]:
    """Do runs without a process of their own, without figures and without the count of operations."""

    def do_run(_: LocalLauncher, directory: Path, __: RunConfig) -> int:
        run_module.execute_run(directory)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalLauncher, "run", do_run)
        for module in (run_module, loop):
            patch.setattr(module, "flops_per_window", lambda *_: 1)
        patch.setattr(run_module, "write_evaluation", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def archived(_in_this_process: None, readable_store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a sweep of one small run."""
    out = tmp_path_factory.mktemp("archived")
    config = RunConfig(readable_store.path, ModelConfig(2, 1, 1, 8), TRAINING, EVALUATION)
    assert run_sweep({"DT": config}, out / "sweep", jobs=1, show_progress=False) == {}
    write_archive([out / "sweep"], out / "sweep.json")
    return out / "sweep.json"


def test_a_rerun_gives_the_archived_numbers(archived: Path, readable_store: TrajectoryStore, tmp_path: Path) -> None:
    run = read_archive(archived).find_run("DT")
    assert run.result is not None
    result, costs = rerun(run, readable_store.path, tmp_path, show_progress=False)
    training = read_run_config(tmp_path / "DT").training
    assert (training.precision, training.device) == ("bf16" if costs.dtype == "bfloat16" else "fp32", "cpu")
    comparisons = compare_results(run.result, result)
    assert [each.name for each in comparisons] == [
        "validation loss, update 2",
        "validation loss, update 4",
        "score, update 2, target return 25 (1×)",
        "score, update 4, target return 25 (1×)",
        "score, random policy",
    ]
    assert all(each.same and each.archived == each.rerun for each in comparisons)
    assert comparisons[0].rerun == repr(result.curve[0].validation_loss)


def test_other_data_and_unfinished_runs_are_refused(
    archived: Path, store: TrajectoryStore, readable_store: TrajectoryStore, tmp_path: Path
) -> None:
    run = read_archive(archived).find_run("DT")
    with pytest.raises(InputError, match=f"is not the data of DT: its SHA-256 is {store.digest}, not "):
        rerun(run, store.path, tmp_path / "out")
    with pytest.raises(InputError, match="DT is not finished in the archive"):
        rerun(ArchivedRun("DT", run.config), readable_store.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def hand_made_run(out: Path) -> ArchivedRun:
    config = RunConfig(Path("data"))
    finish_run(out, "a", config, [(1, 6, [1.0, 3.0])], updates=10, earlier=[(5, [[2.0, 0.5]])])
    write_archive([out], out / "archive.json")
    return read_archive(out / "archive.json").find_run("a")


def test_every_difference_is_named(tmp_path: Path) -> None:
    run = hand_made_run(tmp_path)
    before = run.result
    assert before is not None
    first, last = before.curve
    (target,) = before.targets
    (earlier,) = before.earlier
    changes: list[tuple[RunResult, list[str]]] = [
        (before, []),
        (
            dataclasses.replace(before, curve=(first, dataclasses.replace(last, validation_loss=1e-17))),
            ["validation loss, update 10"],
        ),
        (dataclasses.replace(before, curve=(first,)), ["validation loss, update 10"]),
        (
            dataclasses.replace(before, targets=(dataclasses.replace(target, scores=(3.0, 1.0)),)),
            ["score, update 10, target return 6 (1×)"],
        ),
        (
            dataclasses.replace(before, targets=(dataclasses.replace(target, lengths=(20, 21)),)),
            ["score, update 10, target return 6 (1×)"],
        ),
        (
            dataclasses.replace(before, earlier=(dataclasses.replace(earlier, update=6),), random_scores=(1.0, 2.5)),
            ["score, update 5, target return 6 (1×)", "score, random policy"],
        ),
    ]
    for after, names in changes:
        assert [each.name for each in compare_results(before, after) if not each.same] == names
    older = dataclasses.replace(before, earlier=(), updates=None)
    assert [each.name for each in compare_results(older, before)][2] == "score, target return 6 (1×)"


def test_the_machine_explains_differences(tmp_path: Path) -> None:
    costs = hand_made_run(tmp_path).costs
    assert costs is not None
    assert explain_differences(costs, costs).startswith("hardware and versions have the same names")
    other = dataclasses.replace(costs, hardware=Hardware("slide rule", 1, None), versions={"torch": "3.0"})
    assert "CPU abacus then and slide rule now, torch 2.13.0 then and 3.0 now: on another" in explain_differences(
        costs, other
    )
