"""The benchmark of the paper (Chen et al. 2021, table 1): its runs, tables and figure."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from atari_dt.config import MethodName, ModelConfig
from atari_dt.evaluation.statistics import ScoreSummary, normalize_score, summarize
from atari_dt.experiments.benchmark_methods import BenchmarkMethod
from atari_dt.experiments.group_labels import group_labels
from atari_dt.experiments.results import (
    RunGroup,
    format_interval,
    format_number,
    format_score,
    format_target,
    format_update,
    normalization_scores,
    normalized_summary,
)
from atari_dt.experiments.run_config import RunConfig, schedule_for_max_updates
from atari_dt.games.catalogue import Game
from atari_dt.method_config import MethodConfig
from atari_dt.methods.registry import find_method
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.rendering.figures import game_panels, to_png
from atari_dt.training.windows import training_windows
from replay_data import InputError, TrajectoryStore


def benchmark_stores(data: Path, games: Sequence[Game], seeds: Sequence[int]) -> dict[tuple[str, int], TrajectoryStore]:
    """Open the trajectory store of each game and seed.

    The store of a game is ``data/GAME``, such as ``data/breakout`` or ``data/Breakout``. Where each seed has a dataset
    of its own, as in the paper, it is ``data/GAME/SEED``.

    Raises:
        InputError: If a store does not exist, has another game, or has unclipped rewards where the paper has the game.
    """
    _check_no_store(data)
    stores: dict[tuple[str, int], TrajectoryStore] = {}
    for game in games:
        common = store_directory(data, game)
        own = [common / str(seed) for seed in seeds]
        paths = own if any(path.is_dir() for path in own) else [common] * len(own)
        for path in paths:
            if not (path / "metadata.json").is_file():
                advice = "" if common.exists() else ", or let `data_from` make it"
                raise InputError(
                    f"there is no data of {game.name} in {path}; make it there with scripts/build_dataset.py{advice}"
                )
        opened = {path: TrajectoryStore.open(path) for path in paths}
        for store in opened.values():
            if store.game != game.name:
                raise InputError(
                    f"{store.path} has data of {store.game}, not of {game.name}; move it to a directory of that name"
                )
            if game.paper and not store.metadata.reward_clipping:
                raise InputError(
                    f"{store.path} has unclipped rewards, but the paper's target returns count clipped ones; build the "
                    "store again with clipped rewards"
                )
        stores |= {(game.name, seed): opened[path] for seed, path in zip(seeds, paths, strict=True)}
    return stores


def find_games_without_data(data: Path, games: Sequence[Game]) -> list[Game]:
    """Return the games that have nothing in their place below ``data``.

    Raises:
        InputError: If ``data`` is a store itself.
    """
    _check_no_store(data)
    return [game for game in games if not os.path.lexists(store_directory(data, game))]


def _check_no_store(data: Path) -> None:
    if (data / "metadata.json").is_file():
        raise InputError(f"{data} is a store itself; choose the directory that contains it under its game's name")


def store_directory(data: Path, game: Game) -> Path:
    """Return the directory of a game below ``data``, ``data/breakout`` or ``data/Breakout``; it may not exist."""
    names = (game.name.lower(), game.name)
    return next((data / name for name in names if (data / name).is_dir()), data / names[0])


def benchmark_runs(
    bases: Mapping[tuple[str, MethodName], RunConfig],
    stores: Mapping[tuple[str, int], TrajectoryStore],
    methods: Sequence[BenchmarkMethod],
) -> dict[str, RunConfig]:
    """Return the runs of every game, method and seed, by name, such as ``Breakout-10BC-seed123``.

    Args:
        bases: Settings that the runs of each game and learning method share, by the names of game and method.
        stores: Trajectory store of each game and seed.
        methods: Methods, all distinct.

    Raises:
        InputError: With the name of the run, if too few steps are left for a batch, or the data has no such target
            returns, or does not say how episodes ended and the method needs to know.
    """
    runs = {}
    for (game, seed), store in stores.items():
        dataset = DatasetInfo.from_store(store)
        for method in methods:
            base, name = bases[game, method.name], f"{game}-{method.label}-seed{seed}"
            with _name_in_errors(name, base.model):
                training = dataclasses.replace(base.training, seed=seed, top_percent=method.top_percent)
                training_windows(store, base.model, training)  # fail before hours of training
                if base.model.conditioned:
                    base.evaluation.check_targets(dataset)
                window_length = find_method(base.model).window_length(base.model)
                runs[name] = dataclasses.replace(
                    base,
                    data=store.path.resolve(),
                    training=schedule_for_max_updates(training, window_length),
                )
    return runs


@contextmanager
def _name_in_errors(name: str, config: MethodConfig) -> Iterator[None]:
    """Put the name of a run before the InputErrors of the block, which do not say which game or seed they mean.

    Their advice is about settings of a single run. It is turned into the settings of the benchmark that decide them.
    """
    try:
        yield
    except InputError as error:
        message = str(error).replace("raise `top_percent`", "raise the percentage in `methods`")
        if not isinstance(config, ModelConfig):
            message = message.replace("`batch_size`", "`value_training.batch_size`")
        raise InputError(f"{name}: {message}") from error


def table_1(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Return a table like the paper's table 1, with a header and the published scores in the last columns.

    Scores are gamer-normalized, in percent, of the last checkpoints: mean ± standard deviation of the seeds' means. The
    Decision Transformer has two columns: under the paper's target return, and under the paper's multiple of the
    dataset's largest return. Percentile 100 is the multiple 1.

    Args:
        groups: One group for each game and method, all of games that the paper has.
    """
    methods = [method for method in dict.fromkeys(group.method for group in groups) if method != "DT"]
    published = ("DT", "CQL", "QR-DQN", "REM", "BC")
    rows = [
        [
            *("game", "DT, paper's target", "DT, paper's multiple", *methods),
            *(f"published {name}" for name in published),
        ]
    ]
    for game in dict.fromkeys(group.game for group in groups):
        if (paper := game.paper) is None:
            continue
        by_method = {group.method: group for group in groups if group.game == game}
        cells = [game.name, "", ""]
        if (transformer := by_method.get("DT")) is not None:
            for i, target in enumerate(transformer.results[0].targets):
                score = format_score(normalized_summary(game, transformer.summary(i)))
                multiple = 1 if target.return_percentile == 100 else target.return_multiple
                if multiple == paper.return_multiple:
                    cells[2] = score
                elif multiple is None and target.target_return == paper.target_return:
                    cells[1] = score
        for method in methods:
            cells.append(
                format_score(normalized_summary(game, by_method[method].summary())) if method in by_method else ""
            )
        for name in published:
            mean, std = paper.normalized[name]
            cells.append(f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}"))
        rows.append(cells)
    return rows


def explain_target_columns(groups: Sequence[RunGroup]) -> str:
    """Return sentences about the target returns of the two columns of DT in `table_1`."""
    papers = {group.game.name: group.game.paper for group in groups if group.game.paper}
    numbers = ", ".join(f"{paper.target_return:g} in {name}" for name, paper in papers.items())
    multiples = ", ".join(f"{paper.return_multiple:g}× in {name}" for name, paper in papers.items())
    by_percentile = {
        group.game.name: None
        for group in groups
        if group.game.paper and group.game.paper.return_multiple == 1
        for target in group.results[0].targets
        if target.return_percentile == 100
    }
    text = (
        f"DT, paper's target: under the paper's target return ({numbers}). DT, paper's multiple: under the largest "
        f"return in the data, times the factor with which the paper chose its target returns ({multiples})."
    )
    if by_percentile:
        text += (
            f" In {', '.join(by_percentile)}, that is percentile 100 of the returns, the largest one, which stands for "
            "1× where no return is positive."
        )
    return text


def score_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Return a table of the scores of every group and target return, with a header, by game.

    Scores are in points, of the last checkpoints: mean ± standard deviation of the seeds' means, interquartile mean
    over all episodes with its 95% interval, the mean normalized with the game's `normalization_scores`, and the number
    of updates. Where several checkpoints were evaluated, the last columns are the score of the best one and its
    updates. Where costs are known (see `has_costs`), they follow: minutes of training and 10^12 floating-point
    operations (TFLOP) of training, means over the seeds. The last rows of a game are a random policy and the dataset
    (see `dataset_scores`).
    """
    any_best, any_costs = any(group.num_checkpoints > 1 for group in groups), has_costs(groups)
    rows = [
        [
            *("game", "method", "target return", "seeds", "episodes", "score", "IQM", "95% interval", "normalized %"),
            *("updates", *(("best score", "updates of the best") if any_best else ())),
            *(("minutes of training", "TFLOP of training") if any_costs else ()),
        ]
    ]
    labels = group_labels(groups)
    for game in dict.fromkeys(group.game for group in groups):
        labeled = [(group, label) for group, label in zip(groups, labels, strict=True) if group.game == game]

        def add(label: str, target: str, seeds: str, summary: ScoreSummary, *last: str, game: Game = game) -> None:
            normalized = normalized_summary(game, summary)
            cells = [
                *(game.name, label, target, seeds, str(summary.episodes), format_score(summary)),
                *(format_number(summary.interquartile_mean), format_interval(summary)),
                *("" if normalized is None else format_number(normalized.mean), *last),
            ]
            rows.append([*cells, *[""] * (len(rows[0]) - len(cells))])

        for group, label in labeled:
            for i in range(group.num_targets):
                last, best = group.score_curve(i)[-1], group.best(i)
                best_cells = (
                    [format_score(best.summary), format_update(best.update)] if group.num_checkpoints > 1 else []
                )
                best_cells += [""] * (2 * any_best - len(best_cells))
                costs = [_format_cost(group.training_minutes), _format_cost(group.training_tflop)] if any_costs else []
                add(
                    *(label, format_target(group, i), str(len(group.results)), last.summary),
                    *(format_update(last.update), *best_cells, *costs),
                )
        add("random policy", "", "", summarize([labeled[0][0].random_scores]))
        random_and_human = normalization_scores(game)
        for label, score in _label_dataset_scores([group for group, _ in labeled]):
            percent = "" if random_and_human is None else format_number(normalize_score(score, *random_and_human))
            cells = [game.name, label, "", "", "", format_number(score), "", "", percent]
            rows.append([*cells, *[""] * (len(rows[0]) - len(cells))])
    return rows


def _label_dataset_scores(groups: Sequence[RunGroup]) -> list[tuple[str, float]]:
    """Return labels and scores of the datasets of a game: the mean and the largest of each, where it knows them."""
    by_data: dict[str, tuple[float | None, float | None]] = {}
    for group in groups:
        by_data.setdefault(group.data_name, dataset_scores(group))
    return [
        (name if len(by_data) == 1 else f"{name}, {data}", score)
        for data, scores in by_data.items()
        for name, score in zip(("dataset mean", "dataset best"), scores, strict=True)
        if score is not None
    ]


def has_costs(groups: Sequence[RunGroup]) -> bool:
    """Return whether the minutes or the floating-point operations of the training of some group are known."""
    return any(group.training_minutes is not None or group.training_tflop is not None for group in groups)


def _format_cost(cost: float | None) -> str:
    """Format a cost with three significant digits, or all digits before the decimal point; empty if it is unknown."""
    if cost is None:
        return ""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def dataset_scores(group: RunGroup) -> tuple[float | None, float | None]:
    """Return the mean and the largest score of a group's datasets, in points; None where they have no raw rewards.

    Where each seed has a dataset of its own, these are the mean of the means, and the largest score of all.
    """
    means = [result.dataset.mean_score for result in group.results if result.dataset.mean_score is not None]
    largest = [result.dataset.max_score for result in group.results if result.dataset.max_score is not None]
    if len(means) < len(group.results) or not largest:
        return None, None
    return sum(means) / len(means), max(largest)


def benchmark_figure(groups: Sequence[RunGroup]) -> bytes:
    """Draw the scores of each method, with a panel for each game.

    A point is the mean of a seed. A dash is the interquartile mean over all episodes, a bar its 95% interval.

    Returns:
        Content of a PNG file.
    """
    games, labels = list(dict.fromkeys(group.game for group in groups)), group_labels(groups)
    num_columns = max(sum(group.num_targets for group in groups if group.game == game) for game in games)
    figure = Figure(layout="constrained")
    for axes, game in zip(game_panels(figure, len(games), 1 + 1.2 * num_columns), games, strict=True):
        labeled = [(group, label) for group, label in zip(groups, labels, strict=True) if group.game == game]
        ticks: list[str] = []
        for group, label in labeled:
            for i in range(group.num_targets):
                position, summary, target = len(ticks), group.summary(i), format_target(group, i)
                origin = target.replace(" (percentile", "\n(percentile")  # too long for one line
                ticks.append(label.replace(", ", ",\n") + (f"\ntarget {origin}" if target else ""))
                color = "tab:blue" if target else "tab:gray"
                if summary.interval is not None:
                    axes.plot([position, position], summary.interval, color=color, linewidth=6, alpha=0.35)
                axes.plot(position, summary.interquartile_mean, "_", color=color, markersize=18, markeredgewidth=2)
                seed_means = [scores.mean() for scores in group.scores(i)]
                axes.plot([position] * len(seed_means), seed_means, "o", color=color, markersize=4)
        random_score = labeled[0][0].random_scores.mean()
        axes.axhline(random_score, color="tab:red", linestyle=":", label=f"random policy ({random_score:.1f})")
        for name, score in _label_dataset_scores([group for group, _ in labeled]):
            if name.startswith("dataset mean"):
                axes.axhline(score, color="tab:green", linestyle=":", label=f"{name} ({score:.1f})")
        axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set(ylabel="score (points)", title=game.name)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)
