"""Hand-made finished runs, whose scores a test knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import CheckpointResult, CurvePoint, RunCosts, RunResult, TargetResult
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.training.metrics import MetricsLine
from atari_dt.training.training_run import Hardware
from replay_data.recording import Recording
from replay_data.store_metadata import StoreSource

DIGEST = "x" * 64

RECORDED_HERE = StoreSource(
    "dopamine",
    run=1,
    selection={"method": "even"},
    recording=Recording("q_learning", "Breakout", 1000, 7, 0.25, 108_000, ("NOOP", "FIRE", "RIGHT", "LEFT"), "y" * 64),
)

REASON = "no <b>luck</b> | at *all*: ![x](http://y/z) in __init__.py"
"""Reason of a failed run that neither Markdown nor HTML may interpret."""


def finish_run(
    out: Path,
    name: str,
    config: RunConfig,
    targets: Sequence[tuple[float | None, float | None, Sequence[float]]],
    game: str = "Breakout",
    source: StoreSource = RECORDED_HERE,
    index: int = 0,
    return_percentile: int | None = None,
    updates: int | None = None,
    earlier: Sequence[tuple[int, Sequence[Sequence[float]]]] = (),
    td_loss: float | None = None,
    training_seconds: float | None = None,
    flops_per_update: int | None = None,
) -> None:
    """Write the files of a finished run.

    Args:
        out: Directory of the sweep.
        name: Name of the run.
        config: Config of the run.
        targets: Return multiple, target return and scores of each target return.
        game: Game of the dataset.
        source: Source of the dataset.
        index: Number that decides losses and costs, different for each run.
        return_percentile: Percentile of each target return.
        updates: Number of updates of the last checkpoint.
        earlier: Updates of each earlier checkpoint, and its scores under each target return.
        td_loss: Temporal-difference loss of the training, which is logged with a loss of 1.5.
        training_seconds: Time of all updates.
        flops_per_update: Floating-point operations of an update.
    """

    def target_result(multiple: float | None, target: float | None, scores: Sequence[float]) -> TargetResult:
        return TargetResult(multiple, target, tuple(scores), tuple(scores), (20,) * len(scores), return_percentile)

    dataset = DatasetInfo(
        game,
        ("NOOP", "FIRE", "RIGHT", "LEFT"),
        reward_clipping=True,
        sticky_actions=0.25,
        max_return=6.0,
        mean_return=2.0,
        steps=1000,
        episodes=10,
        max_score=16.0,
        mean_score=2.5,
        digest=DIGEST,
    )
    result = RunResult(
        config=config,
        data_digest=DIGEST,
        dataset=dataset,
        data_source=source,
        curve=(CurvePoint(5, 9.0, 0.1), CurvePoint(10, 0.1 * index, 0.2)),
        targets=tuple(target_result(*target) for target in targets),
        random_scores=(1.0, 2.0),
        updates=updates,
        earlier=tuple(
            CheckpointResult(
                update,
                tuple(target_result(*target[:2], scores) for target, scores in zip(targets, of_targets, strict=True)),
            )
            for update, of_targets in earlier
        ),
    )
    machine = ("float32", {"torch": "2.13.0"}, Hardware("abacus", 2, None))
    costs = RunCosts(index + 1.0, 100.0 * index, *machine, training_seconds, flops_per_update)
    directory = out / name
    (directory / "training").mkdir(parents=True)
    (directory / "experiment.json").write_text(json.dumps(config.to_json()))
    (directory / "result.json").write_text(json.dumps(result.to_json()))
    (directory / "costs.json").write_text(json.dumps(costs.to_json()))
    line = MetricsLine(
        10, 100, 6e-4, loss=1.5, action_accuracy=0.5, grad_norm=1.0, contexts_per_s=10.0, td_loss=td_loss
    )
    (directory / "training" / "metrics.jsonl").write_text(json.dumps(line.to_json()) + "\n")
