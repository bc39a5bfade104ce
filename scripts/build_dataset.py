"""Make a trajectory store from a recorded run: a Dopamine replay log, or RL Unplugged's episode shards."""

import shlex
from pathlib import Path
from typing import Literal

import numpy as np

from atari_dt.command_line import run as run_command
from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import find_game
from replay_data.selection.build import build_store
from replay_data.selection.episodes import Selection, SelectionMethod, format_ranges
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.rl_unplugged import RLUnpluggedRun
from replay_data.store_metadata import StoreSource


def main(
    source: Literal["dopamine", "rl_unplugged"],
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
        source: How the run was recorded.
        path: Directory that holds {game}/{run}/replay_logs (dopamine) or {game}/run_{run}-* (rl_unplugged), the game
            spelled like Breakout or MsPacman.
        out: Directory of the store, to be created; 7 KB a step.
        game: The game.
        run: Which of the recorded runs.
        selection: original: the paper's draw of a log to the letter, quirks included. corrected: the same draw of whole
            episodes: random buffers (or shards), a visit's episodes from each, until there are enough steps. even: the
            first episodes of every buffer or shard. top: the best episodes by return. all: all of them.
        num_steps: Steps that are enough (original, corrected, even), 500,000 unless given. A visit that was begun is
            finished, so there may be more.
        num_buffers: Only the last so many of the run's buffers (of 0 to 49) or shards; the draws take the last 50
            unless this is given, the others all.
        trajectories_per_buffer: Episodes of a visit (original, corrected) but one, as the paper counts: 10, unless
            given, are 11.
        seed: Of the draw (original, corrected), 123 unless given.
        top_episode_percent: Per cent of all episodes (top), 10 unless given.
        num_workers: Threads that read; by default one per core, at most 8. The store is the same for any number.
        verify: Read every file that is used to its end, where the checksum is. Without this, draws from long files stop
            reading where they have enough; what was read from shards is always checked.
    """
    options = {
        "num_steps": num_steps,
        "num_buffers": num_buffers,
        "trajectories_per_buffer": trajectories_per_buffer,
        "seed": seed,
        "top_episode_percent": top_episode_percent,
    }
    found = find_game(game)
    meanings = action_meanings(found)
    recorded = (DopamineLog if source == "dopamine" else RLUnpluggedRun)(path, found.name, run, len(meanings))
    store = build_store(
        out,
        recorded,
        Selection.of(selection, **options),
        game=found.name,
        action_meanings=meanings,
        about=StoreSource(source, run),
        num_workers=num_workers,
        verify=verify,
    )
    about = store.metadata
    kind = "buffers" if source == "dopamine" else "shards"
    used = format_ranges(map(int, about.source.episodes_per_shard))
    print(f"{out}: {len(store):,} steps in {store.num_episodes} episodes of {kind} {used}")
    print(f"return: {about.mean_return:.1f} on average, {about.max_return:g} at most")
    if missing := set(range(recorded.num_shards)) - set(recorded.shards):
        print(f"note:   of the run's {recorded.num_shards} {kind}, {format_ranges(missing)} are not in {path}")
    if unseen := sorted(set(range(len(meanings))) - set(np.unique(store.actions).tolist())):
        print(f"note:   {', '.join(meanings[action] for action in unseen)} never occurs; is this {found.name}?")
    if not about.source.verified:
        print("note:   the frames' checksums stand at the ends of the files, which were not read; --verify reads them")
    print(f"next:   python scripts/train.py --data {shlex.quote(str(out))} --out runs/{found.name.lower()}")


if __name__ == "__main__":
    run_command(main)
