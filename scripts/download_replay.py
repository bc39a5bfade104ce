"""Fetch the first episodes of a recorded run that is still public."""

from pathlib import Path
from typing import Literal

from atari_dt.command_line import run as run_command
from atari_dt.games import find_game
from replay_data.download import BASE_URL, download_run


def main(
    out: Path,
    source: Literal["rl_unplugged"] = "rl_unplugged",
    game: str = "Breakout",
    run: int = 1,
    num_steps: int = 500_000,
    base_url: str = BASE_URL,
    num_connections: int = 8,
) -> None:
    """Fetch the same number of steps from the start of each of a run's shards, by byte range.

    Args:
        out: Directory to write {game}/run_{run}-* to; a command that was interrupted goes on where it stopped.
        source: RL Unplugged's episode shards: 46 games, 5 runs of 50 million steps each.
        game: The game.
        run: Which of the recorded runs, 1 to 5.
        num_steps: Steps in all; from each shard come whole episodes up to its share.
        base_url: What holds {game}/run_{run}-*.
        num_connections: Shards that are fetched at once.
    """
    name = find_game(game).name
    found = download_run(name, run, num_steps, out, base_url=base_url, num_connections=num_connections)
    print(f"{out / name}: {found.steps:,} steps in {found.episodes} episodes of {found.shards} shards")
    print(f"moved: {found.bytes_moved / 1e6:,.1f} MB")
    chosen = f"--source {source} --path {out} --game {name} --run {run} --selection all"
    print(f"next:  python scripts/build_dataset.py {chosen} --out data/{name.lower()}")


if __name__ == "__main__":
    run_command(main)
