"""Make a trajectory store from a recorded run: a Dopamine replay log, or RL Unplugged's episode shards."""

from pathlib import Path
from typing import Literal

from atari_dt.command_line import run as run_command
from atari_dt.environment import action_meanings
from atari_dt.games import find_game
from replay_data.dopamine_log import DopamineLog
from replay_data.rl_unplugged import RLUnpluggedRun
from replay_data.selection import Kind, Selection, build_store


def main(
    source: Literal["dopamine", "rl_unplugged"],
    path: Path,
    out: Path,
    game: str = "Breakout",
    run: int = 1,
    selection: Kind = "corrected",
    num_steps: int | None = None,
    num_buffers: int | None = None,
    trajectories_per_buffer: int | None = None,
    seed: int | None = None,
    top_percent: float | None = None,
    num_workers: int | None = None,
    verify: bool = False,
) -> None:
    """Select episodes of a recorded run and write a trajectory store.

    Args:
        source: How the run was recorded.
        path: Directory that holds {game}/{run}/replay_logs (dopamine) or {game}/run_{run}-* (rl_unplugged).
        out: Directory of the store, to be created; 7 KB a step.
        game: The game, spelled like its directory.
        run: Which of the recorded runs.
        selection: original: the paper's draw to the letter, quirks included; corrected: the same draw of whole
            episodes; even: the first episodes of every buffer or shard; top: the best by return; all.
        num_steps: Steps that are enough (original, corrected, even); 500,000 unless given.
        num_buffers: Only the last so many of the run's buffers or shards; 50 unless given.
        trajectories_per_buffer: Episodes that a visit of the draw passes before its last one (original, corrected);
            10 unless given.
        seed: Of the draw (original, corrected); 123 unless given.
        top_percent: Per cent of the episodes (top); 10 unless given.
        num_workers: Threads that read; by default one per core. The store is the same for any number.
        verify: Read every file that is used to its end, so that all its checksums are compared.
    """
    options = {
        "num_steps": num_steps,
        "num_buffers": num_buffers,
        "trajectories_per_buffer": trajectories_per_buffer,
        "seed": seed,
        "top_percent": top_percent,
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
        about={"kind": source, "run": run},
        num_workers=num_workers,
        verify=verify,
    )
    about = store.metadata
    parts = about["source"]["episodes_per_part"]
    print(f"{out}: {len(store):,} steps in {store.num_episodes} episodes of {len(parts)} buffers or shards")
    print(f"return: {about['mean_return']:.1f} on average, {about['max_return']:g} at most")


if __name__ == "__main__":
    run_command(main)
