"""Download the first episodes of a public recorded run."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path
from typing import Literal

from atari_dt.command_line import format_command
from atari_dt.command_line import run as run_command
from replay_data import InputError
from replay_data.sources.rl_unplugged import BASE_URL


def main(
    out: Path,
    source: Literal["rl_unplugged"] = "rl_unplugged",
    game: str = "Breakout",
    run: int = 1,
    num_steps: int = 500_000,
    base_url: str = BASE_URL,
    num_connections: int = 8,
) -> None:
    """Download the first episodes of every shard of a run, and little more than their bytes.

    Args:
        out: Directory for {game}/run_{run}-*. The same command resumes an interrupted download. A larger number of
            steps downloads the shards again.
        source: RL Unplugged's episode shards: 46 games, 5 runs of 50 million steps each.
        game: Name of the game.
        run: Number of the recorded run, 1 to 5.
        num_steps: Number of steps of all shards together; each shard contributes whole episodes up to its share.
        base_url: Address of the directory that holds {game}/run_{run}-00000-of-00050 and so on. A mirror may have
            another number of shards; the command finds it by trying.
        num_connections: Number of shards to download at once.
    """
    from atari_dt.games.catalogue import find_game
    from replay_data.download import download_run

    name = find_game(game).name
    if not 1 <= run <= 5:
        raise InputError(f"`run` must be from 1 to 5, not {run}")
    summary = download_run(name, run, num_steps, out, base_url=base_url, num_connections=num_connections)
    print(f"{out / name}: {summary.steps:,} steps in {summary.episodes} episodes of {summary.shards} shards")
    print(f"downloaded: {summary.bytes_downloaded / 1e6:,.1f} MB")
    options = "--source", source, "--path", out, "--game", name, "--run", str(run), "--selection", "all"
    print(f"next:       {format_command('build_dataset.py', *options, '--out', f'data/{name.lower()}')}")


if __name__ == "__main__":
    run_command(main)
