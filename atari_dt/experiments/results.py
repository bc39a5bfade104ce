"""What the finished runs of a sweep found, gathered over their training seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.evaluation.statistics import ScoreSummary, summarize
from atari_dt.experiments.run import RunConfig, read_result
from atari_dt.games.catalogue import Game, find_game
from replay_data import InputError
from replay_data.store_metadata import StoreSource


@dataclass(frozen=True)
class RunGroup:
    """Finished runs that differ in their training seed only, and in their data where each seed has a draw of its own
    (``breakout/123``).

    Attributes:
        names: of the runs.
        config: of the first run.
        results: of each run, what `read_result` returns.
    """

    names: tuple[str, ...]
    config: RunConfig
    results: tuple[dict[str, Any], ...]

    @property
    def game(self) -> Game:
        """What was played."""
        return find_game(self.results[0]["dataset"]["game"])

    @property
    def method(self) -> str:
        """``DT``, ``BC``, ``10%BC``, or ``DT on the best 10%``."""
        percent, conditioned = self.config.training.top_percent, self.config.model.conditioning == "return"
        if percent == 100:
            return "DT" if conditioned else "BC"
        return f"DT on the best {percent:g}%" if conditioned else f"{percent:g}%BC"

    @property
    def context_length(self) -> int:
        """K."""
        return self.config.model.context_length

    def scores(self, target: int = -1) -> list[npt.NDArray[np.float64]]:
        """Points under a target return, ``[seeds][episodes]``."""
        return [np.array(result["targets"][target]["scores"], dtype=np.float64) for result in self.results]

    def summary(self, target: int = -1) -> ScoreSummary:
        """Statistics of the scores under a target return."""
        return self._summaries[target]

    @cached_property
    def _summaries(self) -> list[ScoreSummary]:
        return [summarize(self.scores(target)) for target in range(len(self.results[0]["targets"]))]

    @property
    def random_scores(self) -> npt.NDArray[np.float64]:
        """Points of a random player under the same conditions, ``[episodes]``."""
        return np.array(self.results[0]["random_scores"], dtype=np.float64)

    @property
    def validation_losses(self) -> npt.NDArray[np.float64]:
        """Of the last checkpoints, in nats, ``[seeds]``; NaN where nothing was held out."""
        return np.array(
            [result["curve"][-1]["validation_loss"] if result["curve"] else np.nan for result in self.results]
        )

    def cost(self, name: str) -> float:
        """Median over the seeds of one of the numbers in ``costs.json``."""
        return float(np.median([result["costs"][name] for result in self.results]))


def read_groups(out: Path, runs: Mapping[str, RunConfig], digests: Mapping[Path, str] | None = None) -> list[RunGroup]:
    """Gather the finished runs of a sweep, in the order of ``runs``.

    Args:
        out: directory of the sweep.
        runs: by name.
        digests: of each run's data, to be compared with that of the data it was trained on.

    Raises:
        InputError: if a result cannot be read, or is of other data.
    """
    found: dict[str, dict[int, tuple[str, dict[str, Any]]]] = {}
    for name, config in runs.items():
        if not (out / name / "result.json").exists():
            continue
        result = read_result(out / name)
        if digests is not None and result["data_digest"] != digests[config.data]:
            raise InputError(f"{out / name} was trained on other data; choose another --out")
        seed, data = config.training.seed, config.data
        alike = dataclasses.replace(config, data=Path(), training=dataclasses.replace(config.training, seed=0))
        drawn = data.with_name("of each seed") if data.name == str(seed) else data
        members = found.setdefault(json.dumps([result["dataset"]["game"], str(drawn), alike.to_json()]), {})
        members.setdefault(seed, (name, result))  # the same run under another name is no other seed
    groups = []
    for members in found.values():
        names, results = zip(*members.values(), strict=True)
        groups.append(RunGroup(names, runs[names[0]], results))
    return groups


def group_labels(groups: Sequence[RunGroup]) -> list[str]:
    """A name for each group: its method and, where one of its game has several, the settings that differ."""
    settings = []
    for group in groups:
        fields = {name: value for name, value in group.config.flat().items() if name not in ("data", *_OF_SCHEDULE)}
        settings.append({**fields, "data": "/".join(group.config.data.parts[-2:])})
    names = []
    for group, its in zip(groups, settings, strict=True):
        rivals = [
            other
            for rival, other in zip(groups, settings, strict=True)
            if (rival.game, rival.method) == (group.game, group.method)
        ]
        differ = [name for name in its if any(other[name] != its[name] for other in rivals)]
        shown = [f"{'K' if name == 'context_length' else name} = {its[name]}" for name in differ]
        names.append(", ".join([group.method, *shown]))
    return names


_OF_SCHEDULE = ("seed", "warmup_tokens", "final_tokens", "epochs")
"""Settings that follow from others, or of which a group has several."""


def normalization_scores(game: Game) -> tuple[float, float] | None:
    """Points of a random player and of a human one: the paper's where it has the game, else those of the 57 games."""
    return (game.paper.random, game.paper.gamer) if game.paper else game.random_and_human


def mean_and_spread(summary: ScoreSummary | None) -> str:
    """Mean over the seeds and, as the paper prints it, the standard deviation of their means."""
    if summary is None:
        return ""
    return f"{summary.mean:.1f}" + ("" if summary.std_of_seeds is None else f" ± {summary.std_of_seeds:.1f}")


def format_interval(summary: ScoreSummary) -> str:
    """The 95% interval of the interquartile mean, where there is one."""
    return "" if summary.interval is None else f"{summary.interval[0]:.1f} to {summary.interval[1]:.1f}"


def target_name(group: RunGroup, target: int) -> str:
    """A target return and the multiple that it is, such as ``22 (1×)``; the mean where each seed has its own data."""
    targets = [result["targets"][target] for result in group.results]
    if targets[0]["target_return"] is None:
        return ""
    multiple = targets[0]["return_multiple"]
    number = np.mean([each["target_return"] for each in targets])
    return f"{number:g}" + ("" if multiple is None else f" ({multiple:g}×)")


def normalized_summary(game: Game, summary: ScoreSummary) -> ScoreSummary | None:
    """A summary as gamer-normalized percentages, where the game's constants are known."""
    pair = normalization_scores(game)
    return None if pair is None else summary.normalized(*pair)


def describe_datasets(groups: Iterable[RunGroup]) -> list[str]:
    """A sentence for each dataset, in which nobody can mistake it for another."""
    sentences = []
    for group in groups:
        for result in group.results:
            source, dataset = StoreSource.from_json(result["data_source"]), result["dataset"]
            sentence = (
                f"{dataset['game']}: {dataset['steps']:,} steps in {dataset['episodes']:,} episodes "
                f"{_played_by(source)}; returns of "
                f"{dataset['mean_return']:.1f} on average and {dataset['max_return']:g} at most; "
                f"SHA-256 {result['data_digest'][:12]}…"
            )
            if sentence not in sentences:
                sentences.append(sentence)
    return sentences


def recorded_here(groups: Sequence[RunGroup]) -> bool:
    """Return whether some of the data is not from the DQN-replay dataset."""
    sources = [StoreSource.from_json(result["data_source"]) for group in groups for result in group.results]
    return any(source.format not in ("dopamine", "rl_unplugged") or source.recording for source in sources)


def _played_by(source: StoreSource) -> str:
    """Describe who played the episodes of a store, and which of them were selected."""
    if source.format == "scripted":
        who = f"scripted players, recorded with this project, seed {source.details.get('seed')}"
    elif source.recording is not None:
        agent = "a learning player" if source.recording.agent == "q_learning" else "scripted players"
        who = f"{agent}, recorded with this project, seed {source.recording.seed}"
    elif source.format == "rl_unplugged":
        who = f"RL Unplugged, run {source.run} (the experience of the DQN-replay dataset)"
    elif source.format == "dopamine":
        who = f"a log in the format of the DQN-replay dataset, run {source.run}"
    else:
        who = f"a source called {source.format!r}"
    return f"of {who}" + (f" (selection: {source.selection['method']})" if "method" in source.selection else "")
