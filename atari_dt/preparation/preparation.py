"""Make the stores that a benchmark lacks: record or download each game's data, and select its episodes.

The raw data of a game (a recording or a download) is kept, so that it can be continued after an interruption and
selected from again. A store appears only when it is complete.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from atari_dt.environment.python_env import action_meanings
from atari_dt.experiments.benchmark import find_games_without_data, store_directory
from atari_dt.experiments.data_origin import describe_source, name_origin
from atari_dt.games.catalogue import Game
from atari_dt.preparation.options import DataOptions
from atari_dt.preparation.origins import RUN, Cost, DataOrigin, find_origin
from atari_dt.rendering.tables import align_columns
from replay_data import InputError
from replay_data.episode import FRAME_SHAPE
from replay_data.progress import ProgressBar
from replay_data.selection.build import build_store
from replay_data.selection.methods import Selection
from replay_data.sources import SOURCES
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.paths import check_free_space, check_writable
from replay_data.store_metadata import StoreSource, read_metadata

STORE_BYTES_PER_STEP = FRAME_SHAPE[0] * FRAME_SHAPE[1] + 25
"""A frame, and the numbers of a step (`replay_data.store_metadata.DTYPES`)."""

_PARAMETERS = {"`out` or `run`": "`raw_data`", "`out`": "`raw_data`", "`num_steps`": "`data_steps`"}
"""Parameters of a benchmark that decide those of recorder, download and selection, for error messages."""


@dataclass(frozen=True)
class Preparation:
    """The stores to make.

    Attributes:
        data: Directory of the stores.
        raw: Directory of the raw data.
        name: Name of the origin.
        origin: Where the data comes from.
        games: Games without a store.
        notes: A sentence for each store that exists: where its data is from.
    """

    data: Path
    raw: Path
    name: str
    origin: DataOrigin
    games: tuple[Game, ...]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """Return what will be made, with sizes and times, as text."""
        costs = [self.origin.cost(game) for game in self.games]
        steps, max_steps = self.origin.store_steps, self.origin.max_store_steps
        store_bytes = max_steps * STORE_BYTES_PER_STEP
        store_size = f"{steps:,} steps, {_format_bytes(store_bytes)}"
        if max_steps > steps:
            store_size = f"{steps:,} to {max_steps:,} steps, up to {_format_bytes(store_bytes)}"
        store_seconds = max_steps / self.origin.store_steps_per_s
        rows = [["game", self.origin.activity, "store", "time on 2 CPU cores"]]
        for game, cost in zip(self.games, costs, strict=True):
            rows.append(
                [
                    game.name,
                    f"{cost.num_steps:,} steps, up to about {_format_bytes(cost.num_bytes)}"
                    if cost.num_steps
                    else "done",
                    store_size,
                    _format_time(cost, store_seconds),
                ]
            )
        total = _total(costs)
        return (
            f"data to make, from {self.name}:\n{align_columns(rows)}\nin all up to about "
            f"{_format_bytes(total.num_bytes + store_bytes * len(costs))}, and "
            f"{_format_time(total, store_seconds * len(costs))} on 2 CPU cores; stores go to {self.data}, and what "
            f"they are made of is kept in {self.raw}{self.origin.remark}"
        )

    def make(self) -> None:
        """Make the stores; print a line about each.

        Raises:
            InputError: If the data of a game cannot be made, with the name of the game; or another command is making
                stores in the same directory.
            OSError: If a file cannot be written.
            KeyboardInterrupt: On Ctrl-C; another call continues.
        """
        created = [path for path in (self.raw, *self.raw.parents, self.data, *self.data.parents) if not path.exists()]
        try:
            for directory in (self.data, self.raw):
                directory.mkdir(parents=True, exist_ok=True)
                check_writable(directory / "data")  # before hours of recording
            with exclusive_lock(self.data, "making stores in"):
                self._make_all()
        except KeyboardInterrupt:
            is_kept = self.raw.is_dir() and any(self.raw.iterdir())
            kept = f"what was made so far is kept in {self.data} and {self.raw}; the same command continues"
            raise KeyboardInterrupt(kept if is_kept else "nothing was kept") from None
        finally:
            for path in created:
                with suppress(OSError):  # it holds files
                    path.rmdir()

    def _make_all(self) -> None:
        for game in self.games:
            with _name_game_in_errors(game):
                self.origin.connect(game)
        with ProgressBar(
            total=2 * len(self.games),
            desc=f"data from {self.name}",
            bar_format="{desc}: {n_fmt} of {total_fmt} stages done, {elapsed}{postfix}",
        ) as bar:
            for game in self.games:
                path = store_directory(self.data, game)
                if path.exists():  # another command has made it in the meantime
                    bar.update(2)
                    continue
                with _name_game_in_errors(game):
                    bar.set_postfix_str(f"{self.origin.activity} {game.name}")
                    selection = self.origin.make(game)
                    bar.update()
                    bar.set_postfix_str(f"selecting from {game.name}")
                    lines = self._build(game, selection, path)
                    bar.set_postfix_str("", refresh=False)
                    bar.update()
                ProgressBar.write("\n".join(lines), file=sys.stdout)

    def _build(self, game: Game, selection: Selection, path: Path) -> list[str]:
        """Make the store of a game; return what to print about it."""
        meanings = action_meanings(game)
        source = SOURCES[self.origin.source_format](self.raw, game.name, RUN, len(meanings))
        store = build_store(
            path,
            source,
            selection,
            game=game.name,
            action_meanings=meanings,
            store_source=StoreSource(self.origin.source_format, RUN),
        )
        size = f"{len(store):,} steps in {store.num_episodes:,} episodes"
        lines = [f"{path}: {size}, return {store.metadata.mean_return:.1f} on average"]
        if selection == Selection.of("all") and self.origin.max_store_steps > self.origin.store_steps:
            lines.append(
                f"note: {game.name}: the store has all episodes of the recording, not only {self.origin.store_steps:,} "
                "steps, because a part of it has too few whole episodes"
            )
        return [*lines, *(f"note: {game.name}: {note}" for note in source.notes)]


def plan_stores(data: Path, games: Sequence[Game], options: DataOptions, num_steps: int, device: str) -> Preparation:
    """Find the games that have no store, and check that their data can be made.

    Args:
        data: Directory of the stores.
        games: Distinct games of the benchmark.
        options: Where missing data comes from; ``data_from`` is not None.
        num_steps: Number of steps to record or download for each store.
        device: Device of the network of an agent that is recorded.

    Raises:
        InputError: If the data of a game cannot be made, naming the game; or the disk is too small.
    """
    assert options.data_from is not None
    raw = options.raw_data or data / "raw" / options.data_from
    origin = find_origin(options, num_steps, raw, device)
    missing = find_games_without_data(data, games)
    notes = []
    for game in games:
        path = store_directory(data, game)
        if (path / "metadata.json").is_file():
            metadata = read_metadata(path)
            contrast = (
                "" if name_origin(metadata.source) == options.data_from else f"not from {options.data_from}, but "
            )
            description = describe_source(metadata.source, metadata.sticky_actions)
            notes.append(f"{path} exists and is used as it is; its data is {contrast}{description}")
    for game in missing:
        with _name_game_in_errors(game):
            origin.check(game)
    raw_bytes = _total([origin.cost(game) for game in missing]).num_bytes
    store_bytes: float = len(missing) * origin.max_store_steps * STORE_BYTES_PER_STEP
    if raw.is_relative_to(data):
        raw_bytes, store_bytes = 0, raw_bytes + store_bytes
    check_free_space(raw / "data", raw_bytes)
    check_free_space(data / "data", store_bytes)
    return Preparation(data, raw, options.data_from, origin, tuple(missing), tuple(notes))


@contextmanager
def _name_game_in_errors(game: Game) -> Iterator[None]:
    """Put the name of a game before the InputErrors of the block, and name the benchmark's parameters in them."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for name, parameter in _PARAMETERS.items():
            message = message.replace(name, parameter)
        raise InputError(f"{game.name}: {message}") from error


def _total(costs: Sequence[Cost]) -> Cost:
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    return Cost(
        sum(cost.num_steps for cost in costs),
        sum(cost.num_bytes for cost in costs),
        sum(seconds) if len(seconds) == len(costs) else None,
    )


def _format_time(raw: Cost, store_seconds: float) -> str:
    """Format the time of raw data and stores."""
    if raw.seconds is None:
        return f"the download and {_format_seconds(store_seconds)}"
    return _format_seconds(raw.seconds + store_seconds)


def _format_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"


def _format_bytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
