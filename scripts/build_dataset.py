"""Build a trajectory store from a recorded run: a Dopamine replay log, or RL Unplugged's episode shards."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path

import numpy as np

from atari_dt.command_line import format_command
from atari_dt.command_line import run as run_command
from replay_data.selection.methods import Selection, SelectionMethod
from replay_data.sources import SOURCES, SourceFormat
from replay_data.store_metadata import StoreSource


def main(
    source: SourceFormat,
    path: Path,
    out: Path,
    game: str = "Breakout",
    run: int = 1,
    selection: SelectionMethod = "corrected",
    num_steps: int | None = None,
    num_buffers: int | None = None,
    trajectories_per_buffer: int | None = None,
    seed: int | None = None,
    top_episode_percent: float | None = None,
    num_workers: int | None = None,
    verify: bool = False,
) -> None:
    """Select episodes of a recorded run and write a trajectory store.

    Args:
        source: Format of the run.
        path: Directory that holds {game}/{run}/replay_logs (dopamine; d4rl-atari's {game}/{run}/0 and so on are read
            too) or {game}/run_{run}-* (rl_unplugged), with the game spelled like Breakout or MsPacman.
        out: Directory of the store, to be created; 7 KB per step.
        game: Name of the game.
        run: Number of the run.
        selection: Selection method. original: the rows of the paper's draw exactly as the released code loads them,
            padding rows included (dopamine only). corrected: the same draw, of whole episodes without padding: draw a
            random buffer (or shard), read on from where its last visit ended until trajectories-per-buffer + 1
            terminated episodes have passed (within its first 100,000 rows), take the whole episodes among these rows,
            and repeat until there are num-steps steps. even: the first episodes of every buffer, an equal number of
            steps from each. top: the best episodes by return. all: all episodes.
        num_steps: Minimum number of steps (original, corrected, even); 500,000 by default. The last episode or visit is
            taken whole, so there may be more.
        num_buffers: Number of buffers or shards to select from, the last ones of the run; by default 50 for original
            and corrected, and all for the other methods.
        trajectories_per_buffer: Number of terminated episodes in a visit, minus one, as the paper counts (original,
            corrected); 10 by default, which means 11 episodes.
        seed: Seed of the draw (original, corrected); 123 by default.
        top_episode_percent: Percentage of the episodes, not of the steps (top); 10 by default.
        num_workers: Number of threads that read; by default one per core, at most 8. The store is the same for any
            number.
        verify: Read every file that is used to its end, where its checksum is. Without this, draws from long files stop
            reading when they have enough. Data from shards is always checked.
    """
    from atari_dt.environment.python_env import action_meanings
    from atari_dt.games.catalogue import find_game
    from replay_data.selection.build import build_store, format_ranges

    options = {
        "num_steps": num_steps,
        "num_buffers": num_buffers,
        "trajectories_per_buffer": trajectories_per_buffer,
        "seed": seed,
        "top_episode_percent": top_episode_percent,
    }
    catalogued = find_game(game)
    meanings = action_meanings(catalogued)
    recorded_run = SOURCES[source](path, catalogued.name, run, len(meanings))
    store = build_store(
        out,
        recorded_run,
        Selection.of(selection, **options),
        game=catalogued.name,
        action_meanings=meanings,
        store_source=StoreSource(source, run),
        num_workers=num_workers,
        verify=verify,
    )
    metadata = store.metadata
    shards = "buffers" if source == "dopamine" else "shards"
    used = format_ranges(metadata.source.episodes_per_shard)
    print(f"{out}: {len(store):,} steps in {store.num_episodes} episodes of {shards} {used}")
    print(f"return: {metadata.mean_return:.1f} on average, {metadata.max_return:g} at most")
    if recorded_run.missing:
        missing = format_ranges(recorded_run.missing)
        print(f"note:   of the run's {recorded_run.num_shards} {shards}, {missing} are not in {path}")
    for note in recorded_run.notes:
        print(f"note:   {note}")
    if num_uncertain := metadata.source.num_uncertain_ends:
        print(
            f"note:   number of uncertain episode ends: {num_uncertain}; only black frames show that a time limit may "
            "have truncated an episode there (docs/data.md)"
        )
    if unused := sorted(set(range(len(meanings))) - set(np.unique(store.actions).tolist())):
        print(f"note:   {', '.join(meanings[action] for action in unused)} never occurs; is this {catalogued.name}?")
    if not metadata.source.verified:
        print("note:   the frames' checksums are at the ends of the files, which were not read; --verify reads them")
    print(f"next:   {format_command('train.py', '--data', out, '--out', f'runs/{catalogued.name.lower()}')}")


if __name__ == "__main__":
    run_command(main)
