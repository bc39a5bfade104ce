"""The finished runs of a sweep, grouped over their training seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atari_dt.config import MethodName
from atari_dt.evaluation.results import format_origin
from atari_dt.evaluation.statistics import ScoreSummary, summarize
from atari_dt.experiments.benchmark_preset import PAPER_EVALUATION
from atari_dt.experiments.data_origin import describe_origins, describe_source, is_dqn_replay
from atari_dt.experiments.run_config import RunConfig
from atari_dt.experiments.run_result import RunCosts, RunResult, TargetResult, read_costs, read_result
from atari_dt.games.catalogue import Game, find_game
from atari_dt.method_config import METHOD_NAMES, SequenceConfig
from replay_data import InputError
from replay_data.observation import ObservationKind

METHOD_ORDER: tuple[MethodName, ...] = (
    *("dt", "hf_decision_transformer", "bc", "trajectory_transformer"),
    *("cql", "qrdqn", "rem"),
)
"""Order of the methods in tables and figures, before any others; that of the value-based ones is as in table 1 of Chen
et al. 2021."""

OBSERVED: dict[ObservationKind, str] = {"frames": "", "ram": " on RAM", "variables": " on variables"}
"""What names of methods say about observations."""


class CheckpointScores(NamedTuple):
    """Scores of a checkpoint of all seeds under one target return.

    Attributes:
        update: Number of updates made; None for the last checkpoint of older runs.
        summary: Statistics of the scores.
    """

    update: int | None
    summary: ScoreSummary


@dataclass(frozen=True)
class RunGroup:
    """Finished runs that differ only in their training seed, and perhaps in settings that decide only the rounding.

    Where each seed has a dataset of its own (``breakout/123``), they differ in their dataset too.

    Attributes:
        names: Names of the runs, ``[seeds]``.
        config: Config of the first run.
        results: Results of the runs, ``[seeds]``.
        costs: Costs of the runs, ``[seeds]``.
    """

    names: tuple[str, ...]
    config: RunConfig
    results: tuple[RunResult, ...]
    costs: tuple[RunCosts, ...]

    @property
    def game(self) -> Game:
        """The game of the dataset."""
        return find_game(self.results[0].dataset.game)

    @property
    def method(self) -> str:
        """Name of the method, such as ``DT``, ``10%BC``, ``CQL on the best 10%`` or ``DT on RAM``."""
        percent, label = self.config.training.top_percent, self.config.model.label
        if percent < 100:  # %BC is the paper's name
            label = f"{percent:g}%BC" if label == "BC" else f"{label} on the best {percent:g}%"
        return label + OBSERVED[self.config.model.observation]

    @property
    def data_name(self) -> str:
        """Last two parts of the path of the data; the last is "of each seed" where each seed has its own."""
        return "/".join(_data_pattern(self.config).parts[-2:])

    @property
    def order(self) -> tuple[float, ...]:
        """Key that sorts methods as in `METHOD_ORDER`, BC before %BC, and then by ascending context length."""
        method, percent = self.config.model.method, self.config.training.top_percent
        return (*METHOD_ORDER, *METHOD_NAMES).index(method), -percent, self.context_length or 0

    @property
    def context_length(self) -> int | None:
        """Context length K, in steps; None for methods that learn from transitions."""
        return self.config.model.context_length if isinstance(self.config.model, SequenceConfig) else None

    @property
    def num_targets(self) -> int:
        """Number of target returns; 1 for methods that have none."""
        return len(self.results[0].targets)

    @property
    def final_update(self) -> int | None:
        """Number of updates of the last checkpoint; None in older runs.

        Where each seed has a dataset of its own, runs may differ in it; this is then the mean, rounded.
        """
        updates = [result.updates for result in self.results if result.updates is not None]
        return round(np.mean(updates)) if len(updates) == len(self.results) else None

    @property
    def num_checkpoints(self) -> int:
        """Number of checkpoints that were evaluated in all seeds."""
        return len(self._score_curves[0])

    def scores(self, target_index: int = -1) -> list[npt.NDArray[np.float64]]:
        """Return the scores of the last checkpoints under a target return, in points, ``[seeds][episodes]``."""
        return _scores([result.targets for result in self.results], target_index)

    def summary(self, target_index: int = -1) -> ScoreSummary:
        """Return statistics of the scores of the last checkpoints under a target return."""
        return self._score_curves[target_index][-1].summary

    def best(self, target_index: int = -1) -> CheckpointScores:
        """Return the scores of the evaluated checkpoint with the largest mean; of equal ones, the earliest."""
        return max(self._score_curves[target_index], key=lambda scores: scores.summary.mean)

    def score_curve(self, target_index: int = -1) -> list[CheckpointScores]:
        """Return the scores of every checkpoint that was evaluated in all seeds, the last one of the run at the end."""
        return self._score_curves[target_index]

    @cached_property
    def _score_curves(self) -> list[list[CheckpointScores]]:
        earlier = [{checkpoint.update: checkpoint.targets for checkpoint in each.earlier} for each in self.results]
        checkpoints: list[tuple[int | None, Sequence[Sequence[TargetResult]]]] = [
            (update, [targets[update] for targets in earlier])
            for update in earlier[0]
            if all(update in targets for targets in earlier)
        ]
        checkpoints.append((self.final_update, [result.targets for result in self.results]))
        return [
            [CheckpointScores(update, summarize(_scores(targets, index))) for update, targets in checkpoints]
            for index in range(self.num_targets)
        ]

    @property
    def random_scores(self) -> npt.NDArray[np.float64]:
        """Scores of a uniform-random policy under the same protocol, in points, ``[episodes]``."""
        return np.array(self.results[0].random_scores, dtype=np.float64)

    @property
    def validation_losses(self) -> npt.NDArray[np.float64]:
        """Validation losses of the last checkpoints, ``[seeds]``; NaN where no episodes were held out.

        They are cross-entropies in nats, or temporal-difference losses of value-based methods.
        """
        return np.array([result.curve[-1].validation_loss if result.curve else np.nan for result in self.results])

    @property
    def seconds_per_update(self) -> float:
        """Median over the seeds of the time of an update, in seconds."""
        return float(np.median([costs.seconds_per_update for costs in self.costs]))

    @property
    def training_minutes(self) -> float | None:
        """Mean over the seeds of the time of all updates, in minutes; None in older runs."""
        return _mean_of_known([costs.training_seconds for costs in self.costs], 1 / 60)

    @property
    def training_tflop(self) -> float | None:
        """Mean over the seeds of the floating-point operations of all updates, in 10^12; None in older runs."""
        flops = [
            None
            if result.updates is None or costs.flops_per_update is None
            else result.updates * costs.flops_per_update
            for result, costs in zip(self.results, self.costs, strict=True)
        ]
        return _mean_of_known(flops, 1e-12)

    @property
    def evaluation_steps_per_s(self) -> float:
        """Median over the seeds of the speed of the evaluation, in steps per second."""
        return float(np.median([costs.evaluation_steps_per_s for costs in self.costs]))


def _mean_of_known(values: Sequence[float | None], factor: float) -> float | None:
    """Return the mean of numbers times a factor; None if one of them is unknown."""
    known = [value for value in values if value is not None]
    return factor * float(np.mean(known)) if len(known) == len(values) else None


def _scores(targets: Sequence[Sequence[TargetResult]], target_index: int) -> list[npt.NDArray[np.float64]]:
    """Return the scores ``[seeds][episodes]`` of results ``[seeds][targets]`` under a target return."""
    return [np.array(each[target_index].scores, dtype=np.float64) for each in targets]


def read_groups(out: Path, runs: Mapping[str, RunConfig], digests: Mapping[Path, str] | None = None) -> list[RunGroup]:
    """Read and group the finished runs of a sweep, in the order of ``runs``.

    Args:
        out: Directory of the sweep.
        runs: Configs by name.
        digests: Digests of the trajectory stores by path, to be compared with those that the runs were trained on.

    Raises:
        InputError: If a result cannot be read, or a run was trained on other data.
    """
    groups: dict[str, dict[int, str]] = {}
    results: dict[str, RunResult] = {}
    for name, config in runs.items():
        if not (out / name / "result.json").exists():
            continue
        result = results[name] = read_result(out / name)
        if digests is not None and result.data_digest != digests[config.data]:
            raise InputError(f"{out / name} was trained on other data; choose another `out`")
        seed = config.training.seed
        training = dataclasses.replace(config.training, seed=0, precision="auto", device="auto", compile="auto")
        shared = dataclasses.replace(config, data=Path(), training=training, threads=1)
        key = json.dumps([result.dataset.game, str(_data_pattern(config)), shared.to_json()])
        groups.setdefault(key, {}).setdefault(seed, name)  # the same run under another name is not another seed
    return [
        RunGroup(
            names=tuple(names.values()),
            config=runs[next(iter(names.values()))],
            results=tuple(results[name] for name in names.values()),
            costs=tuple(read_costs(out / name) for name in names.values()),
        )
        for names in groups.values()
    ]


def _data_pattern(config: RunConfig) -> Path:
    """Return the path of the data, with "of each seed" in place of a last part that is the seed."""
    return config.data.with_name("of each seed") if config.data.name == str(config.training.seed) else config.data


def normalization_scores(game: Game) -> tuple[float, float] | None:
    """Return the random and the human score that normalize a game's scores, in points.

    These are the paper's scores where the paper has the game, and otherwise those of the table of 57 games; None where
    neither has it.
    """
    return (game.paper.random, game.paper.gamer) if game.paper else game.random_and_human


def normalized_summary(game: Game, summary: ScoreSummary) -> ScoreSummary | None:
    """Return a summary in gamer-normalized percent, or None where the game's normalization scores are unknown."""
    random_and_human = normalization_scores(game)
    return None if random_and_human is None else summary.normalized(*random_and_human)


def format_number(value: float) -> str:
    """Format a number with one decimal place, and a small negative one as 0.0 instead of -0.0."""
    return f"{round(value, 1) + 0.0:.1f}"


def format_score(summary: ScoreSummary | None) -> str:
    """Format the mean and the standard deviation of the seeds' means, as the paper prints them."""
    if summary is None:
        return ""
    return format_number(summary.mean) + ("" if summary.std_of_seeds is None else f" ± {summary.std_of_seeds:.1f}")


def format_update(update: int | None) -> str:
    """Format a number of updates; empty where it is unknown."""
    return "" if update is None else f"{update:,}"


def format_interval(summary: ScoreSummary) -> str:
    """Format the 95% interval of the interquartile mean; empty where it is unknown."""
    return "" if summary.interval is None else " to ".join(map(format_number, summary.interval))


def format_target(group: RunGroup, target_index: int) -> str:
    """Format a target return and its origin, such as ``22 (1×)``; empty for methods without one.

    Where each seed has a dataset of its own, the number is the mean over the seeds.
    """
    returns = [result.targets[target_index].target_return for result in group.results]
    if returns[0] is None:
        return ""
    target = group.results[0].targets[target_index]
    mean = np.mean([target_return for target_return in returns if target_return is not None])
    return f"{mean:g}{format_origin(target.return_multiple, target.return_percentile)}"


def describe_datasets(groups: Iterable[RunGroup]) -> list[str]:
    """Return a sentence for each distinct dataset: game, sizes, origin, returns and digest."""
    sentences: dict[str, None] = {}
    for group in groups:
        for result in group.results:
            dataset = result.dataset
            sentence = (
                f"{dataset.game}: {dataset.steps:,} steps in {dataset.episodes:,} episodes "
                f"{describe_source(result.data_source, dataset.sticky_actions)}; mean return "
                f"{dataset.mean_return:.1f}, largest return {dataset.max_return:g}; SHA-256 {result.data_digest[:12]}…"
            )
            sentences[sentence] = None
    return list(sentences)


def name_data(groups: Iterable[RunGroup]) -> str:
    """Return a sentence that names the origin of the data of each game, for the caption of a table or figure."""
    return describe_origins(
        (result.dataset.game, result.data_source, result.dataset.sticky_actions)
        for group in groups
        for result in group.results
    )


def describe_time_limits(groups: Iterable[RunGroup]) -> str:
    """Return a sentence about episodes that a time limit shorter than the paper's ended, with a leading space.

    The sentence is empty if there are none.
    """
    counts: dict[tuple[str, int], list[int]] = {}
    for group in groups:
        limit = group.config.evaluation.max_steps
        lengths = [length for result in group.results for target in result.targets for length in target.lengths]
        if limit < PAPER_EVALUATION.max_steps:
            count = counts.setdefault((group.game.name, limit), [0, 0])
            count[0] += sum(length >= limit for length in lengths)
            count[1] += len(lengths)
    parts = [
        f"{truncated} of {total} episodes of {game} after {limit:,} steps"
        for (game, limit), (truncated, total) in counts.items()
        if truncated
    ]
    if not parts:
        return ""
    return (
        f" The evaluation truncated {', '.join(parts)}; the paper's limit is {PAPER_EVALUATION.max_steps:,}, so "
        "scores of truncated episodes are NOT comparable with the published ones."
    )


def any_outside_dqn_replay(groups: Sequence[RunGroup]) -> bool:
    """Return whether any run was trained on data that is not from the DQN-replay dataset."""
    return not all(is_dqn_replay(result.data_source) for group in groups for result in group.results)
