"""The paper's benchmark (Chen et al. 2021, table 1): its runs, tables and figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from atari_dt.config import Conditioning, ModelConfig, TrainingConfig, preset
from atari_dt.evaluation.scores import ScoreSummary, gamer_normalised, summarise
from atari_dt.experiments.report import png
from atari_dt.experiments.results import Group, constants, interval, mean_and_spread, normalised
from atari_dt.experiments.run import EvaluationConfig, RunConfig, limited
from atari_dt.games import Game
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
        InputError: if one is not there, or of another game.
    """
    stores = {}
    for game in games:
        names = (game.name.lower(), game.name)
        common = next((data / name for name in names if (data / name).is_dir()), data / names[0])
        for seed in seeds:
            own = common / str(seed)
            if not own.is_dir() and not (common / "metadata.json").is_file():
                raise InputError(
                    f"there is no data of {game.name} in {data}; make it with scripts/build_dataset.py --out {common}, "
                    f"or a draw for each seed with --out {own} and so on"
                )
            store = TrajectoryStore.open(own if own.is_dir() else common)
            if store.game != game.name:
                raise InputError(f"{store.path} holds data of {store.game}, not of {game.name}")
            stores[game.name, seed] = store
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
        InputError: if a percentage is out of range.
    """
    methods: dict[str, tuple[Conditioning, float]] = {"DT": ("return", 100.0), "BC": ("none", 100.0)}
    methods |= {f"{percent:g}BC": ("none", percent) for percent in top_percents}
    runs = {}
    for (game, seed), store in stores.items():
        base = bases[game]
        for name, (conditioning, percent) in methods.items():
            training = dataclasses.replace(base.training, seed=seed, top_percent=percent)
            runs[f"{game}-{name}-seed{seed}"] = dataclasses.replace(
                base,
                data=store.path.resolve(),
                model=dataclasses.replace(base.model, conditioning=conditioning),
                training=limited(training, base.model.context_length),
            )
    return runs


def table_1(groups: Sequence[Group]) -> list[list[str]]:
    """Gamer-normalised scores in the shape of the paper's table 1, under a header, the published columns on the right.

    Mean ± standard deviation of the seeds' means. Of the Decision Transformer's target returns, this shows the paper's
    number and the paper's multiple of the largest return.
    """
    methods = [method for method in dict.fromkeys(group.method for group in groups) if not method.startswith("DT")]
    published = ("DT", "CQL", "QR-DQN", "REM", "BC")
    rows = [
        ["game", "DT, paper's number", "DT, paper's multiple", *methods, *(f"published {name}" for name in published)]
    ]
    for game in dict.fromkeys(group.game for group in groups):
        of_game = {group.method: group for group in groups if group.game == game}
        number, multiple = (game.paper.target_return, game.paper.return_multiple) if game.paper else (None, 1.0)
        cells = [game.name, "", ""]
        if (transformer := of_game.get("DT")) is not None:
            for i, target in enumerate(transformer.results[0]["targets"]):
                value = mean_and_spread(normalised(game, transformer.summary(i)))
                if target["return_multiple"] == multiple:
                    cells[2] = value
                elif target["return_multiple"] is None and target["target_return"] == number:
                    cells[1] = value
        for method in methods:
            cells.append(mean_and_spread(normalised(game, of_game[method].summary())) if method in of_game else "")
        for name in published:
            mean, spread = game.paper.normalised[name] if game.paper else (None, None)
            cells.append("" if mean is None else f"{mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}"))
        rows.append(cells)
    return rows


def score_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Scores in points of every method and target return of every game, under a header, with what they compare to.

    Mean ± standard deviation of the seeds' means; the interquartile mean over all episodes with its 95% interval; and
    the gamer-normalised mean.
    """
    lengths = {group.context_length for group in groups}
    header = ["game", "method", "target return", "seeds", "episodes", "score", "IQM", "95% interval", "gamer %"]
    rows = [header]
    for game in dict.fromkeys(group.game for group in groups):
        of_game = [group for group in groups if group.game == game]

        def add(name: str, target: str, summary: ScoreSummary, seeds: str, game: Game = game) -> None:
            percent = normalised(game, summary)
            rows.append(
                [
                    *(game.name, name, target, seeds, str(summary.episodes), mean_and_spread(summary)),
                    *(f"{summary.interquartile_mean:.1f}", interval(summary)),
                    "" if percent is None else f"{percent.mean:.1f}",
                ]
            )

        for group in of_game:
            name = group.method if len(lengths) == 1 else f"{group.method}, K = {group.context_length}"
            for i, target in enumerate(group.results[0]["targets"]):
                asked, multiple = target["target_return"], target["return_multiple"]
                times = "" if multiple is None else f" ({multiple:g}×)"
                shown = "" if asked is None else f"{asked:g}{times}"
                add(name, shown, group.summary(i), str(len(group.results)))
        add("random player", "", summarise([of_game[0].random_scores]), "")
        dataset, pair = of_game[0].results[0]["dataset"], constants(game)
        for name, score in (("data, mean", dataset["mean_score"]), ("data, best", dataset["max_score"])):
            if score is not None:
                percent = "" if pair is None else f"{gamer_normalised(score, *pair):.1f}"
                rows.append([game.name, name, "", "", "", f"{score:.1f}", "", "", percent])
    return rows


def benchmark_figure(groups: Sequence[Group]) -> bytes:
    """Draw the scores of each game's methods; return a PNG file.

    A point is a seed's mean, a bar the 95% interval of the interquartile mean over all episodes.
    """
    games = list(dict.fromkeys(group.game for group in groups))
    figure = Figure(figsize=(max(5, 4.2 * len(games)), 4), layout="constrained")
    for axes, game in zip(figure.subplots(1, len(games), squeeze=False)[0], games, strict=True):
        of_game = [group for group in groups if group.game == game]
        labels: list[str] = []
        for group in of_game:
            for i, target in enumerate(group.results[0]["targets"]):
                place, summary = len(labels), group.summary(i)
                asked = target["target_return"]
                labels.append(group.method + ("" if asked is None else f"\nasked for {asked:g}"))
                color = "tab:gray" if asked is None else "tab:blue"
                if summary.interval is not None:
                    axes.plot([place, place], summary.interval, color=color, linewidth=6, alpha=0.35)
                axes.plot(place, summary.interquartile_mean, "_", color=color, markersize=18, markeredgewidth=2)
                means = [scores.mean() for scores in group.scores(i)]
                axes.plot([place] * len(means), means, "o", color=color, markersize=4)
        dataset = of_game[0].results[0]["dataset"]
        for value, name, color in (
            (of_game[0].random_scores.mean(), "random player", "tab:red"),
            (dataset["mean_score"], "mean of the data", "tab:green"),
        ):
            if value is not None:
                axes.axhline(value, color=color, linestyle=":", label=f"{name} ({value:.1f})")
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set(ylabel="score (points)", title=game.name)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)
