"""Build a trajectory store from a recorded run, such as a Dopamine replay log, or from another store."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from atari_dt.command_line import format_command, unused_path
from atari_dt.command_line import run as run_command
from replay_data import InputError
from replay_data.selection.methods import Selection, SelectionMethod
from replay_data.sources import SOURCES, SourceFormat
from replay_data.store_metadata import StoreSource

if TYPE_CHECKING:
    from replay_data.trajectory_store import TrajectoryStore

_MAX_RANGES = 4  # of shards in a line


def main(
    source: Literal[SourceFormat, "store"],
    path: Path,
    out: Path,
    game: str | None = None,
    run: int | None = None,
    selection: SelectionMethod = "corrected",
    num_steps: int | None = None,
    num_buffers: int | None = None,
    trajectories_per_buffer: int | None = None,
    seed: int | None = None,
    top_episode_percent: float | None = None,
    min_return: float | None = None,
    max_return: float | None = None,
    num_workers: int | None = None,
    copy_frames: bool = False,
    verify: bool = False,
) -> None:
    """Select episodes of a recorded run or of a store, and write a trajectory store.

    Args:
        source: Format of the run; store selects again from a trajectory store.
        path: Directory to read. dopamine: the one that holds {game}/{run}/replay_logs; d4rl-atari's {game}/{run}/0 and
            so on are read too. rl_unplugged: the one that holds {game}/run_{run}-*. Both spell games like Breakout or
            MsPacman. jat: the one that holds atari-{game}, with the game in lower case. minari: the one of all Minari
            datasets, usually ~/.minari/datasets, or of one dataset. store: the store.
        out: Directory of the store, to be created; 7 KB per step, except where it links the frames of a store. It has
            the emulator's RAM if all buffers of a dopamine log, or the source store, have it.
        game: Name of the game; Breakout by default, and for a store the game that it holds.
        run: Number of the run, 1 by default; a store has none.
        selection: Selection method. original: the rows of the paper's draw exactly as the released code loads them,
            padding rows included (dopamine only). corrected: the same draw, of whole episodes without padding: draw a
            random buffer (or shard), read on from where its last visit ended until trajectories-per-buffer + 1
            terminated episodes have passed (within its first 100,000 rows), take the whole episodes among these rows,
            and repeat until there are num-steps steps. even: the first episodes of every buffer, an equal number of
            steps from each; of a store, episodes at nearly equal distances. top: the best episodes by return.
            return_range: the episodes with a return from min-return to max-return. all: all episodes. A return is the
            sum of the clipped rewards. jat, minari and store have even, top, return_range and all.
        num_steps: Minimum number of steps (original, corrected, even); 500,000 by default. The last episode or visit is
            taken whole, so there may be more.
        num_buffers: Number of buffers or shards to select from, the last ones of the run; by default 50 for original
            and corrected, and all for the other methods. A store has none.
        trajectories_per_buffer: Number of terminated episodes in a visit, minus one, as the paper counts (original,
            corrected); 10 by default, which means 11 episodes.
        seed: Seed of the draw (original, corrected); 123 by default.
        top_episode_percent: Percentage of the episodes, not of the steps (top); 10 by default.
        min_return: Smallest return to take (return_range); no limit by default.
        max_return: Largest return to take (return_range); no limit by default.
        num_workers: Number of threads that read; by default one per core, at most 8. The store is the same for any
            number. A store needs none.
        copy_frames: Copy the frames of the selected episodes (store only). Without this, the new store holds a hard
            link to the file with all frames of the old one, where the file system allows it, and nearly no bytes of its
            own.
        verify: Read every file that is used to its end, where its checksum is. Without this, draws from long files stop
            reading when they have enough, and the frames of a store are not compared with their checksum. Data from
            shards is always checked.
    """
    options = {
        "num_steps": num_steps,
        "num_buffers": num_buffers,
        "trajectories_per_buffer": trajectories_per_buffer,
        "seed": seed,
        "top_episode_percent": top_episode_percent,
        "min_return": min_return,
        "max_return": max_return,
    }
    chosen = Selection.of(selection, **options)
    unused = {"run": run, "num_workers": num_workers} if source == "store" else {"copy_frames": copy_frames or None}
    for name, value in unused.items():
        if value is not None:
            raise InputError(f"`{name}` has no effect on `source` {source}; leave it out")
    if source == "store":
        store = _select_from_store(path, out, game, chosen, copy_frames, verify)
    else:
        game, run = "Breakout" if game is None else game, 1 if run is None else run
        store = _build_from_run(source, path, out, game, run, chosen, num_workers, verify)
    meanings = store.metadata.action_meanings
    if unseen := sorted(set(range(len(meanings))) - set(np.unique(store.actions).tolist())):
        print(f"note:   {', '.join(meanings[action] for action in unseen)} never occurs; is this {store.game}?")
    if store.metadata.source.verified is False:
        print("note:   checksums of frames were not compared, which would take longer; --verify compares them")
    trained = unused_path(Path("runs", out.absolute().name))
    print(f"next:   {format_command('train.py', '--data', out, '--out', trained)}")


def _build_from_run(
    source: SourceFormat,
    path: Path,
    out: Path,
    game: str,
    run: int,
    selection: Selection,
    num_workers: int | None,
    verify: bool,
) -> "TrajectoryStore":
    """Build a store from a recorded run, and print what it holds."""
    from atari_dt.environment.python_env import action_meanings
    from atari_dt.games.catalogue import find_game
    from replay_data.selection.build import build_store

    catalogued = find_game(game)
    meanings = action_meanings(catalogued)
    recorded_run = SOURCES[source](path, catalogued.name, run, len(meanings))
    store = build_store(
        out,
        recorded_run,
        selection,
        game=catalogued.name,
        action_meanings=meanings,
        store_source=StoreSource(source, run),
        num_workers=num_workers,
        verify=verify,
    )
    shards = "buffers" if source == "dopamine" else "shards"
    _print_summary(
        store,
        "" if recorded_run.num_shards == 1 else _name_shards(store.metadata.source.episodes_per_shard, shards),
    )
    if recorded_run.missing:
        print(
            f"note:   {path} lacks {_name_shards(recorded_run.missing, shards)} of the run's {recorded_run.num_shards}"
        )
    for note in recorded_run.notes:
        print(f"note:   {note}")
    if num_uncertain := store.metadata.source.num_uncertain_ends:
        print(
            f"note:   number of uncertain episode ends: {num_uncertain}; only black frames show that a time limit may "
            "have truncated an episode there (docs/data.md)"
        )
    return store


def _select_from_store(
    path: Path, out: Path, game: str | None, selection: Selection, copy_frames: bool, verify: bool
) -> "TrajectoryStore":
    """Build a store from another store, and print what it holds and the bytes that it takes."""
    from atari_dt.games.catalogue import find_game
    from replay_data.selection.stores import select_from_store

    name = None if game is None else find_game(game).name
    store = select_from_store(out, path, selection, game=name, copy_frames=copy_frames, verify=verify)
    _print_summary(store, str(path))
    linked = store.metadata.source.details["frames"] == "linked"
    sizes = {file.name: file.stat().st_size for file in out.iterdir()}
    shared = sizes.pop("frames.npy") if linked else 0
    frames = f"the frames ({shared / 1e6:,.1f} MB) are a link to those of {path}" if linked else "the frames are copied"
    print(f"disk:   {sum(sizes.values()) / 1e6:,.1f} MB; {frames}")
    return store


def _name_shards(indices: Collection[int], noun: str) -> str:
    """Return shards as text, such as ``buffers 0-3, 7``, or their number if they are scattered."""
    from replay_data.selection.build import format_ranges

    ranges = format_ranges(indices)
    return f"{len(indices)} {noun}" if ranges.count(",") >= _MAX_RANGES else f"{noun} {ranges}"


def _print_summary(store: "TrajectoryStore", origin: str) -> None:
    metadata = store.metadata
    episodes = f"{store.num_episodes} episodes{origin and f' of {origin}'}"
    print(f"{store.path}: {len(store):,} steps in {episodes}{', with RAM' if store.ram is not None else ''}")
    print(f"return: {metadata.mean_return:.1f} on average, {metadata.max_return:g} at most")


if __name__ == "__main__":
    run_command(main)
