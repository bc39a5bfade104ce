"""The scores of a sweep beside published ones, each with the data that the method was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atari_dt.experiments.data_origin import describe_origin
from atari_dt.experiments.group_labels import group_labels
from atari_dt.experiments.results import (
    RunGroup,
    any_outside_dqn_replay,
    describe_time_limits,
    format_number,
    format_score,
    format_target,
    format_update,
)
from atari_dt.games.catalogue import Game, find_game
from atari_dt.games.published_scores import PUBLISHED_SCORES, PublishedScore

HEADER = (
    *("game", "method", "source", "training data", "seeds"),
    *("final score", "updates", "best score", "updates of the best"),
)


def find_published(groups: Iterable[RunGroup]) -> list[PublishedScore]:
    """Return the published scores of the games and methods of a sweep."""
    tried = {(group.game.rom, group.config.model.label) for group in groups}
    return [score for score in PUBLISHED_SCORES if (score.game, score.method) in tried]


def published_rows(groups: Sequence[RunGroup]) -> list[list[str]]:
    """Return a table of final and best scores in points, with a header, by game and method.

    The rows of a method are those of the sweep, one for each group and target return, and then the published ones.
    Games and methods without published scores are left out.

    Args:
        groups: Groups, sorted by game and method.
    """
    labels = dict(zip((group.names for group in groups), group_labels(groups), strict=True))
    published = find_published(groups)
    rows = [[*HEADER]]
    for game in dict.fromkeys(group.game for group in groups):
        of_game = [group for group in groups if group.game == game]
        for method in dict.fromkeys(group.config.model.label for group in of_game):
            scores = [score for score in published if (score.game, score.method) == (game.rom, method)]
            if scores:
                for group in of_game:
                    if group.config.model.label == method:
                        rows += _rows_of_group(group, labels[group.names])
                rows += [row_of_published(game, score) for score in scores]
    return rows


def _rows_of_group(group: RunGroup, label: str) -> list[list[str]]:
    """Return a row for each target return of a group."""
    rows = []
    for i in range(group.num_targets):
        target = format_target(group, i)
        rows.append(
            [
                group.game.name,
                label + (f", target return {target}" if target else ""),
                "this sweep",
                _describe_data(group),
                str(len(group.results)),
                format_score(group.summary(i)),
                format_update(group.final_update),
                *("", ""),
            ]
        )
        if group.num_checkpoints > 1:
            best = group.best(i)
            rows[-1][-2:] = [format_score(best.summary), format_update(best.update)]
    return rows


def row_of_published(game: Game, score: PublishedScore) -> list[str]:
    """Return the row of a published score, with the columns of `HEADER`."""
    final = format_number(score.final)
    if score.std is not None:
        final += f" ± {score.std:.1f}"
    if score.percent is not None:
        final += f" (from {score.percent:.1f}%)"
    return [
        *(game.name, score.method, score.publication.name, score.publication.data, format_update(score.seeds)),
        *(final, format_update(score.updates)),
        "" if score.best is None else format_number(score.best),
        format_update(score.best_updates),
    ]


def explain_published(groups: Sequence[RunGroup]) -> str:
    """Return the caption of `published_rows`: what its columns mean, and how far rows are comparable."""
    converted = dict.fromkeys(find_game(score.game) for score in find_published(groups) if score.percent is not None)
    if any_outside_dqn_replay(groups):
        note = "Scores of this sweep were obtained with other data and are NOT comparable with the published ones."
    else:
        note = "Scores are comparable only as far as training data, updates and evaluation are the same."
    text = (
        "Scores in points, each of a method trained on the data in its row. Final score: mean after the last update, "
        "± standard deviation of the seeds' means. Best score: largest mean of the seeds among the evaluated "
        "checkpoints, picked by these same scores; empty where only one was evaluated. "
        f"Other empty cells are unknown. {note}"
    )
    if converted:
        widths = [
            f"{(game.paper.gamer - game.paper.random) / 1000:.2g} points in {game.name}"
            for game in converted
            if game.paper
        ]
        text += (
            " Points with a percentage behind them were computed from that gamer-normalized score, the only one "
            f"published, with the random and gamer scores of the paper; 0.1% is {', '.join(widths)}."
        )
    return text + describe_time_limits(groups)


def describe_publications(groups: Iterable[RunGroup]) -> list[str]:
    """Return a sentence or more about each publication in `published_rows`."""
    publications = dict.fromkeys(score.publication for score in find_published(groups))
    return [f"{each.name}: {each.source}. {each.details}" for each in publications]


def _describe_data(group: RunGroup) -> str:
    """Return the steps and the players of a group's datasets."""
    percent = group.config.training.top_percent
    part = "" if percent == 100 else f"the best {percent:g}% of "
    phrases = (
        f"{part}{result.dataset.steps:,} steps {describe_origin(result.data_source, result.dataset.sticky_actions)}"
        for result in group.results
    )
    return "; ".join(dict.fromkeys(phrases))
