"""Download the first episodes of a public recorded run."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path
from typing import Literal

from atari_dt.command_line import format_command, unused_path
from atari_dt.command_line import run as run_command
from replay_data import InputError
from replay_data.sources.rl_unplugged import BASE_URL


def main(
    out: Path,
    source: Literal["rl_unplugged", "jat"] = "rl_unplugged",
    game: str = "Breakout",
    run: int | None = None,
    num_steps: int = 500_000,
    base_url: str | None = None,
    num_connections: int | None = None,
) -> None:
    """Download the first episodes of a public recorded run.

    Args:
        out: Directory for {game}/run_{run}-* (rl_unplugged) or atari-{game}/*.parquet (jat). The same command resumes
            an interrupted download. A larger number of steps downloads the shards of RL Unplugged again, and more files
            of JAT.
        source: Where to download from. rl_unplugged: RL Unplugged's episode shards, 46 games, 5 runs of 50 million
            steps each; the first episodes of every shard, and little more than their bytes. jat: the JAT dataset on the
            Hugging Face Hub, 57 games, almost 500,000 steps of an expert each (0.35 GB in Breakout); the first files,
            whole.
        game: Name of the game.
        run: Number of the recorded run, 1 to 5; 1 by default (rl_unplugged).
        num_steps: Minimum number of steps. Each shard of RL Unplugged contributes an equal share, in whole episodes. If
            a game of JAT has fewer, all its files are downloaded.
        base_url: Address of the directory that holds {game}/run_{run}-00000-of-00050 and so on; by default the public
            one. A mirror may have another number of shards; the command finds it by trying (rl_unplugged).
        num_connections: Number of shards to download at once; 8 by default (rl_unplugged).
    """
    from atari_dt.games.catalogue import find_game

    name = find_game(game).name
    options: list[str | Path]
    if source == "jat":
        from replay_data.hub_download import download_jat

        for option, value in (("run", run), ("base_url", base_url), ("num_connections", num_connections)):
            if value is not None:
                raise InputError(f"`{option}` is an option of `source` rl_unplugged; leave it out for jat")
        jat = download_jat(name, num_steps, out)
        print(f"{out}: {jat.steps:,} steps in {jat.episodes} episodes of {jat.files} files, revision {jat.revision}")
        num_bytes, options = jat.bytes_downloaded, []
    else:
        from replay_data.download import download_run

        run = 1 if run is None else run
        if not 1 <= run <= 5:
            raise InputError(f"`run` must be from 1 to 5, not {run}")
        num_connections = 8 if num_connections is None else num_connections
        summary = download_run(
            name, run, num_steps, out, base_url=base_url or BASE_URL, num_connections=num_connections
        )
        print(f"{out / name}: {summary.steps:,} steps in {summary.episodes} episodes of {summary.shards} shards")
        num_bytes, options = summary.bytes_downloaded, ["--run", str(run)]
    print(f"downloaded: {num_bytes / 1e6:,.1f} MB")
    options = ["--source", source, "--path", out, "--game", name, *options, "--selection", "all"]
    store = unused_path(Path("data", name.lower()))
    print(f"next:       {format_command('build_dataset.py', *options, '--out', store)}")


if __name__ == "__main__":
    run_command(main)
