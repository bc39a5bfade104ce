"""The paper's benchmark (Chen et al. 2021, table 1): its runs, tables and figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from atari_dt.config import Conditioning, ModelConfig, TrainingConfig
from atari_dt.evaluation.statistics import ScoreSummary, gamer_normalized, summarize
from atari_dt.experiments.results import (
    RunGroup,
    format_interval,
    group_labels,
    mean_and_spread,
    normalization_scores,
    normalized_summary,
    target_name,
)
from atari_dt.experiments.run import EvaluationConfig, RunConfig, schedule_for_max_updates
from atari_dt.games.catalogue import Game
from atari_dt.games.presets import preset
from atari_dt.rendering.figures import to_png
from atari_dt.training.loop import training_windows
from replay_data import InputError, TrajectoryStore

BenchmarkPreset = Literal["paper", "quick"]


def benchmark_preset(name: BenchmarkPreset, game: Game) -> tuple[ModelConfig, TrainingConfig, EvaluationConfig]:
    """Network, training and evaluation of a game.

    Args:
        name: ``paper`` (appendix A: 5 epochs, 6 layers, K = 30 or 50) or ``quick``, for a CPU: 2,000 updates of small
            batches, half the layers, K = 10; the evaluation is the same.
        game: what is played. Its target returns are the paper's number, and the multiple of the data's largest return
            that the number was of the paper's data; of other games than the paper's, the largest return.
    """
    if game.paper is None:
        targets = EvaluationConfig(protocol="original", episodes=10)
    else:
        numbers, multiples = (game.paper.target_return,), (game.paper.return_multiple,)
        targets = EvaluationConfig(multiples, numbers, protocol="original", episodes=10)
    if name == "paper":
        return *preset(game.name), targets
    training = TrainingConfig(batch_size=32, max_updates=2000, checkpoint_every=500, validation_fraction=0.05)
    return ModelConfig(context_length=10, num_layers=3, dropout=0.0), training, targets


def benchmark_stores(data: Path, games: Sequence[Game], seeds: Sequence[int]) -> dict[tuple[str, int], TrajectoryStore]:
    """Open the data of each game and seed: ``data/GAME/SEED`` where each seed has a draw of its own, as in the paper,
    else ``data/GAME``; such as ``data/breakout`` or ``data/Breakout``.

    Raises:
        InputError: if one is not there, is of another game, or has rewards that are not clipped.
    """
    if (data / "metadata.json").is_file():
        raise InputError(f"{data} is a store itself; give the directory that holds it under its game's name")
    stores: dict[tuple[str, int], TrajectoryStore] = {}
    for game in games:
        names = (game.name.lower(), game.name)
        common = next((data / name for name in names if (data / name).is_dir()), data / names[0])
        own = [common / str(seed) for seed in seeds]
        paths = own if any(path.is_dir() for path in own) else [common] * len(own)
        for path in paths:
            if not (path / "metadata.json").is_file():
                raise InputError(
                    f"there is no data of {game.name} in {path}; make it with scripts/build_dataset.py --out {path}"
                )
        opened = {path: TrajectoryStore.open(path) for path in paths}
        for store in opened.values():
            if store.game != game.name:
                raise InputError(f"{store.path} holds data of {store.game}, not of {game.name}")
            if game.paper and not store.metadata.reward_clipping:
                raise InputError(f"{store.path} holds unclipped rewards; the paper's target returns count clipped ones")
        stores |= {(game.name, seed): opened[path] for seed, path in zip(seeds, paths, strict=True)}
    return stores


def benchmark_runs(
    bases: Mapping[str, RunConfig],
    stores: Mapping[tuple[str, int], TrajectoryStore],
    top_percents: Sequence[float],
) -> dict[str, RunConfig]:
    """The runs of every game, method and seed, by name.

    Args:
        bases: of each game, what its runs have in common.
        stores: data of each game and seed.
        top_percents: of the steps, for %BC; none leaves it out.

    Raises:
        InputError: if a percentage is out of range or there twice, or too few steps are left for a batch.
    """
    if len(set(top_percents)) < len(top_percents) or 100 in top_percents:
        raise InputError(
            "top_percents must be below 100, and no two the same; cloning all of the steps is BC, which is there anyway"
        )
    methods: dict[str, tuple[Conditioning, float]] = {"DT": ("return", 100.0), "BC": ("none", 100.0)}
    methods |= {f"{percent:g}BC": ("none", percent) for percent in top_percents}
    runs = {}
    for (game, seed), store in stores.items():
        base = bases[game]
        for name, (conditioning, percent) in methods.items():
            training = dataclasses.replace(base.training, seed=seed, top_percent=percent)
            training_windows(store, base.model, training)  # before hours of training
            runs[f"{game}-{name}-seed{seed}"] = dataclasses.replace(
                base,
                data=store.path.resolve(),
                model=dataclasses.replace(base.model, conditioning=conditioning),
                training=schedule_for_max_updates(training, base.model.context_length),
            )
    return runs


def table_1(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Gamer-normalized scores in the shape of the paper's table 1, under a header, the published columns on the right.

    Mean ± standard deviation of the seeds' means. Of the Decision Transformer's target returns, this shows the paper's
    number and the paper's multiple of the largest return.

    Args:
        groups: of the paper's games, one for each game and method.
    """
    methods = [method for method in dict.fromkeys(group.method for group in groups) if not method.startswith("DT")]
    published = ("DT", "CQL", "QR-DQN", "REM", "BC")
    rows = [
        ["game", "DT, paper's number", "DT, paper's multiple", *methods, *(f"published {name}" for name in published)]
    ]
    for game in dict.fromkeys(group.game for group in groups):
        if (paper := game.paper) is None:
            continue
        of_game = {group.method: group for group in groups if group.game == game}
        cells = [game.name, "", ""]
        if (transformer := of_game.get("DT")) is not None:
            for i, target in enumerate(transformer.results[0]["targets"]):
                value = mean_and_spread(normalized_summary(game, transformer.summary(i)))
                if target["return_multiple"] == paper.return_multiple:
                    cells[2] = value
                elif target["return_multiple"] is None and target["target_return"] == paper.target_return:
                    cells[1] = value
        for method in methods:
            cells.append(
                mean_and_spread(normalized_summary(game, of_game[method].summary())) if method in of_game else ""
            )
        for name in published:
            mean, spread = paper.normalized[name]
            cells.append(f"{mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}"))
        rows.append(cells)
    return rows


def score_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Scores in points of every group and target return of every game, under a header, with what they compare to.

    Mean ± standard deviation of the seeds' means; the interquartile mean over all episodes with its 95% interval; and
    the mean normalized with the game's `normalization_scores`. Where each seed has its own data, what is said of the data is the
    mean over the seeds, but the best is that of all.
    """
    rows = [["game", "method", "target return", "seeds", "episodes", "score", "IQM", "95% interval", "normalized %"]]
    named = list(zip(groups, group_labels(groups), strict=True))
    for game in dict.fromkeys(group.game for group in groups):
        of_game = [(group, name) for group, name in named if group.game == game]

        def add(name: str, target: str, summary: ScoreSummary, seeds: str, game: Game = game) -> None:
            percent = normalized_summary(game, summary)
            rows.append(
                [
                    *(game.name, name, target, seeds, str(summary.episodes), mean_and_spread(summary)),
                    *(f"{summary.interquartile_mean:.1f}", format_interval(summary)),
                    "" if percent is None else f"{percent.mean:.1f}",
                ]
            )

        for group, name in of_game:
            for i in range(len(group.results[0]["targets"])):
                add(name, target_name(group, i), group.summary(i), str(len(group.results)))
        add("random player", "", summarize([of_game[0][0].random_scores]), "")
        pair = normalization_scores(game)
        for name, score in zip(("data, mean", "data, best"), data_scores(of_game[0][0]), strict=True):
            if score is not None:
                percent = "" if pair is None else f"{gamer_normalized(score, *pair):.1f}"
                rows.append([game.name, name, "", "", "", f"{score:.1f}", "", "", percent])
    return rows


def data_scores(group: RunGroup) -> tuple[float | None, float | None]:
    """Mean score of the data, averaged over the seeds' draws, and the largest; None where it has no raw rewards."""
    means, largest = ([result["dataset"][name] for result in group.results] for name in ("mean_score", "max_score"))
    return (None, None) if None in means else (sum(means) / len(means), max(largest))


def benchmark_figure(groups: Sequence[RunGroup]) -> bytes:
    """Draw the scores of each game's methods; return a PNG file.

    A point is a seed's mean, a bar the 95% interval of the interquartile mean over all episodes.
    """
    games, names = list(dict.fromkeys(group.game for group in groups)), group_labels(groups)
    bars = max(sum(len(group.results[0]["targets"]) for group in groups if group.game == game) for game in games)
    figure = Figure(figsize=((1 + 1.2 * bars) * len(games), 4), layout="constrained")
    for axes, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        of_game = [(group, name) for group, name in zip(groups, names, strict=True) if group.game == game]
        ticks: list[str] = []
        for group, name in of_game:
            for i in range(len(group.results[0]["targets"])):
                place, summary, asked = len(ticks), group.summary(i), target_name(group, i)
                ticks.append(name.replace(", ", ",\n") + (f"\nasked for {asked}" if asked else ""))
                color = "tab:blue" if asked else "tab:gray"
                if summary.interval is not None:
                    axes.plot([place, place], summary.interval, color=color, linewidth=6, alpha=0.35)
                axes.plot(place, summary.interquartile_mean, "_", color=color, markersize=18, markeredgewidth=2)
                means = [scores.mean() for scores in group.scores(i)]
                axes.plot([place] * len(means), means, "o", color=color, markersize=4)
        for value, name, color in (
            (of_game[0][0].random_scores.mean(), "random player", "tab:red"),
            (data_scores(of_game[0][0])[0], "mean of the data", "tab:green"),
        ):
            if value is not None:
                axes.axhline(value, color=color, linestyle=":", label=f"{name} ({value:.1f})")
        axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set(ylabel="score (points)", title=game.name)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
