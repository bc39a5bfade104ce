"""Fetch the first episodes of a recorded run that is still public."""

import shlex
from pathlib import Path
from typing import Literal

from atari_dt.command_line import run as run_command
from atari_dt.games.catalogue import find_game
from replay_data import InputError
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
    """Fetch the first episodes of each of a run's shards, and of the files no more bytes than these take.

    Args:
        out: Directory to write {game}/run_{run}-* to. A command that was interrupted goes on where it stopped; asked
            for more steps than are there, it fetches those shards anew.
        source: RL Unplugged's episode shards: 46 games, 5 runs of 50 million steps each.
        game: The game.
        run: Which of the recorded runs, 1 to 5.
        num_steps: Steps in all; each shard gives whole episodes up to its share.
        base_url: The address that {game}/run_{run}-00000-of-00050 and so on follow; a mirror may have another number of
            shards, which is then found by trying.
        num_connections: Shards that are fetched at once.
    """
    name = find_game(game).name
    if not 1 <= run <= 5:
        raise InputError(f"run must be from 1 to 5, not {run}")
    found = download_run(name, run, num_steps, out, base_url=base_url, num_connections=num_connections)
    print(f"{out / name}: {found.steps:,} steps in {found.episodes} episodes of {found.shards} shards")
    print(f"moved: {found.bytes_moved / 1e6:,.1f} MB")
    chosen = f"--source {source} --path {shlex.quote(str(out))} --game {name} --run {run} --selection all"
    print(f"next:  python scripts/build_dataset.py {chosen} --out data/{name.lower()}")


if __name__ == "__main__":
    run_command(main)
