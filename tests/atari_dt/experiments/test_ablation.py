"""The ablation of the context length: its runs, and its tables and figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments import ablation_times
from atari_dt.experiments.ablation import Budget, ablation_runs, plan_ablation
from atari_dt.experiments.ablation_report import ablation_rows
from atari_dt.experiments.ablation_times import UpdateTime, UpdateTimes, measure_update_times
from atari_dt.experiments.report import make_report
from atari_dt.experiments.results import read_groups
from atari_dt.experiments.run_config import RunConfig
from atari_dt.hardware import set_up_compute
from atari_dt.training.learner import Learner
from atari_dt.training.training_run import Hardware
from replay_data import InputError, TrajectoryStore
from replay_data.testing import write_random_store
from tests.atari_dt.experiments.finished_runs import DIGEST, finish_run

MODEL = ModelConfig(context_length=20)

BASE = RunConfig(
    Path("data"),
    MODEL,
    TrainingConfig(batch_size=8, max_updates=700, warmup_tokens=8 * 20 * 70, checkpoint_every=200, log_every=30),
)
"""The reference of the tests: 700 updates with K = 20, of which 70 warm up, with a checkpoint every 200."""

LENGTHS = (1, 7, 20, 50)
SECONDS = {1: 0.02, 7: 0.035, 20: 0.1, 50: 0.26}
ALL: tuple[Budget, ...] = ("updates", "states", "seconds")


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    return write_random_store(tmp_path / "store", [9, 9])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The context lengths of each measurement, which finds `SECONDS` on a machine that is slower every time."""
    measurements: list[list[int]] = []

    def measure(store: TrajectoryStore, base: RunConfig, lengths: list[int], *_: Any) -> dict[int, float]:
        measurements.append(lengths)
        return {length: len(measurements) * SECONDS[length] for length in lengths}

    monkeypatch.setattr(ablation_times, "measure_update_times", measure)
    return measurements


def write(out: Path, files: dict[str, str]) -> None:
    out.mkdir(exist_ok=True)
    for name, content in files.items():
        (out / name).write_text(content)


def closest_updates(cost: float, budget: float) -> int:
    """Return the number of updates of a cost each, at least one, whose sum is closest to a budget."""
    return min(range(1, 50_000), key=lambda updates: abs(updates * cost - budget))


@pytest.mark.parametrize(
    ("budget", "cost"), [("updates", lambda length: 1), ("states", float), ("seconds", SECONDS.__getitem__)]
)
def test_runs_of_a_budget_cost_the_same(
    budget: Budget,
    cost: Callable[[int], float],
    store: TrajectoryStore,
    measured: list[list[int]],
    tmp_path: Path,
) -> None:
    runs, _ = plan_ablation(store, BASE, LENGTHS, [5], [budget], tmp_path)
    assert [run.model.context_length for run in runs.values() if isinstance(run.model, ModelConfig)] == list(LENGTHS)
    for length, (name, run) in zip(LENGTHS, runs.items(), strict=True):
        training = run.training
        updates = closest_updates(cost(length), 700 * cost(20))
        assert training.max_updates == updates <= training.epochs
        assert name == (f"K{length}-seed5" if updates == 700 else f"K{length}-updates{updates}-seed5")
        # The cosine ends at the last update, and the first tenth of the run warms up.
        assert training.final_tokens == updates * 8 * length
        assert training.warmup_tokens == pytest.approx(0.1 * training.final_tokens, abs=1)
        for interval, count in ((training.checkpoint_every, 4), (training.log_every, 24)):
            lines = {update for update in range(1, updates + 1) if update % interval == 0 or update == updates}
            assert len(lines) <= count
            assert len(lines) == count or updates < 700
        unchanged = dataclasses.replace(
            BASE.training,
            **{name: getattr(training, name) for name in ("max_updates", "epochs", "final_tokens", "warmup_tokens")},
            **{name: getattr(training, name) for name in ("checkpoint_every", "log_every", "seed")},
        )
        assert training == unchanged


def test_a_resumed_ablation_has_the_same_runs(
    store: TrajectoryStore, measured: list[list[int]], tmp_path: Path
) -> None:
    """Times are measured once, on whatever machine. New context lengths are measured together with the reference."""
    out = tmp_path / "out"
    first, files = plan_ablation(store, BASE, [1, 7], [5], ALL, out)
    assert not out.exists()
    write(out, files)
    assert plan_ablation(store, BASE, [7, 1], [5], ALL, out)[0] == first
    assert measured == [[1, 7, 20]]
    grown, files = plan_ablation(store, BASE, [1, 50], [5, 6], ["seconds"], out)
    assert measured == [[1, 7, 20], [20, 50]]
    names = ["K1-updates3500-seed5", "K1-updates3500-seed6", "K50-updates269-seed5", "K50-updates269-seed6"]
    assert list(grown) == names
    assert grown["K1-updates3500-seed5"] == first["K1-updates3500-seed5"]
    of_budget = json.loads(files["ablation.json"])["runs"]
    assert of_budget["updates"] == ["K1-seed5", "K7-seed5"]
    assert of_budget["seconds"] == ["K1-updates3500-seed5", "K7-updates2000-seed5", *names[1:]]
    write(out, files)
    times = UpdateTimes.from_json(json.loads(files["update_times.json"]))
    assert times.times == (
        *(UpdateTime(length, SECONDS[length], SECONDS[20]) for length in (1, 7, 20)),
        UpdateTime(50, 2 * SECONDS[50], 2 * SECONDS[20]),
    )
    assert UpdateTimes.from_json(times.to_json()) == times


def test_what_a_resumed_ablation_cannot_keep_is_refused(
    store: TrajectoryStore, measured: list[list[int]], tmp_path: Path
) -> None:
    write(tmp_path, plan_ablation(store, BASE, [1], [5], ALL, tmp_path)[1])

    def refuse(base: RunConfig, message: str) -> None:
        with pytest.raises(InputError, match=message):
            plan_ablation(store, base, [1], [5], ["seconds"], tmp_path)

    training = dataclasses.replace(BASE.training, max_updates=900)
    other = dataclasses.replace(BASE, training=training)
    refuse(other, r"have K = 20 and 700 updates as their reference, not K = 20 and 900 updates; use the same, or")
    wider = dataclasses.replace(BASE, model=dataclasses.replace(MODEL, embed_dim=256))
    refuse(wider, r"update_times\.json was measured with other settings: embed_dim \(was 128, is 256\); use those, or")
    times = json.loads((tmp_path / "update_times.json").read_text())
    times["times"][0]["seconds"] = 0.0
    (tmp_path / "update_times.json").write_text(json.dumps(times))
    refuse(
        BASE,
        r"update_times\.json cannot be read \(ValueError: seconds is 0\.0, but must be positive\); restore",
    )
    (tmp_path / "update_times.json").unlink()
    refuse(BASE, r"lacks its update_times\.json; restore the file, or choose another `out`")
    (tmp_path / "ablation.json").write_text('{"context_length": 20, "max_updates": 700, "runs": {"hours": []}}')
    refuse(BASE, r"ablation\.json cannot be read \(ValueError: there is no budget 'hours'\); remove the file")


def test_context_lengths_take_turns_and_the_first_update_of_a_turn_does_not_count(
    store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update takes 0.1 s per step of a context, with a slow first one, on a machine that is at times busy."""
    clock, updates = SimpleNamespace(now=0.0), list[int]()

    class TimedLearner(Learner):
        def update(self, batch: Any, update: int, learning_rate: float, weight: float = 1.0) -> Tensor:
            assert torch.get_num_threads() == 2
            length = batch.actions.shape[1]
            turn = sum(index == 0 for index in updates) - (update > 0)
            slowdown = 3 if turn in (2, 3, 6) else 1  # a whole turn of each length, and one more of length 2
            clock.now += 9.0 if update == 0 else 0.1 * length * slowdown
            updates.append(update)
            return torch.zeros(())

    monkeypatch.setattr(ablation_times, "Learner", TimedLearner)
    monkeypatch.setattr(ablation_times, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    threads = torch.get_num_threads()
    base = RunConfig(tmp_path, ModelConfig(9, 1, 1, 8), TrainingConfig(batch_size=2), threads=2)
    seconds = measure_update_times(store, base, [2, 3], set_up_compute("cpu", "fp32", "off"), show_progress=False)
    assert seconds == pytest.approx({2: 0.2, 3: 0.3})
    assert torch.get_num_threads() == threads
    assert [updates[index + 1] for index, update in enumerate(updates) if update == 0] == [1] * 10


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


def test_the_report_has_a_table_for_each_budget(store: TrajectoryStore, tmp_path: Path) -> None:
    """Made of files alone. Runs that budgets share count in each, with the seeds that the budget has."""
    times = tuple(UpdateTime(length, SECONDS[length], SECONDS[20]) for length in (1, 20))
    update_times = UpdateTimes(MODEL, 8, 1, "float32", Hardware("abacus", 2, None), times)
    write(tmp_path, {"update_times.json": json.dumps(update_times.to_json())})
    runs: dict[str, RunConfig] = {}
    for budget, seeds in zip(ALL, ([5, 6], [5], [6]), strict=True):
        more, files = plan_ablation(store, BASE, [1, 20], seeds, [budget], tmp_path)
        write(tmp_path, files)
        runs |= more
    assert list(runs) == [
        *("K1-seed5", "K1-seed6", "K20-seed5", "K20-seed6"),
        *("K1-updates14000-seed5", "K1-updates3500-seed6"),
    ]
    for index, (name, config) in enumerate(runs.items()):
        finish_run(tmp_path, name, config, [(1, 6, [10.0 * index])], updates=config.training.max_updates)
        costs = json.loads((tmp_path / name / "costs.json").read_text())
        (tmp_path / name / "costs.json").write_text(json.dumps({**costs, "training_seconds": 60.0 + 30 * index}))
    report = make_report(tmp_path)
    columns = ["K", "seeds", "updates", "states", "minutes", "score"]
    tables = {budget: report.rows[f"context-length-at-equal-{budget}-dt-in-breakout"] for budget in ALL}
    assert {budget: [row[:6] for row in table] for budget, table in tables.items()} == {
        "updates": [
            columns,
            ["1", "2", "700", f"{700 * 8:,}", "1.2", "5.0 ± 5.0"],
            ["20", "2", "700", f"{700 * 8 * 20:,}", "2.2", "25.0 ± 5.0"],
        ],
        "states": [
            columns,
            ["1", "1", "14,000", f"{14_000 * 8:,}", "3.0", "40.0"],
            ["20", "1", "700", f"{700 * 8 * 20:,}", "2.0", "20.0"],
        ],
        "seconds": [
            columns,
            ["1", "1", "3,500", f"{3500 * 8:,}", "3.5", "50.0"],
            ["20", "1", "700", f"{700 * 8 * 20:,}", "2.5", "30.0"],
        ],
    }
    labels = {row[1] for row in report.rows["scores"] if row[1].startswith("DT")}
    assert labels == {
        f"DT, K = {length}, max_updates = {updates}" for length, updates in ((1, 700), (1, 3500), (1, 14000), (20, 700))
    }
    assert report.figures["context-length-Breakout-DT"]().startswith(b"\x89PNG")
