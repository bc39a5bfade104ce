"""Collect the Atari scores of d3rlpy-benchmarks in ``d3rlpy_benchmarks.csv.gz``.

From the root of the repository::

    git clone https://github.com/takuseno/d3rlpy-benchmarks /tmp/d3rlpy-benchmarks
    python tests/data/make_d3rlpy_benchmarks.py /tmp/d3rlpy-benchmarks

The file was made from commit 1771c9b. It has a line for each algorithm, game and evaluation: the algorithm, the game,
the number of updates, and the mean score of each of the ten seeds, as the ``environment.csv`` of each seed has them.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

COMMIT = "1771c9b23322b5f4296fa761c49808d33f967342"
ALGORITHMS = ("DiscreteCQL", "QRDQN", "DiscreteDT")
GAMES = ("breakout", "qbert", "pong", "seaquest")


def main(repository: str) -> None:
    """Read the scores of all seeds from a clone and write them to one file."""

    def git(*arguments: str) -> list[str]:
        return subprocess.run(
            ["git", "-C", repository, *arguments], capture_output=True, text=True, check=True
        ).stdout.split()

    lines = []
    paths = git("ls-tree", "-d", "--name-only", COMMIT, "atari/")
    for algorithm in ALGORITHMS:
        for game in GAMES:
            columns: list[list[str]] = []
            for seed in range(1, 11):
                runs = [path for path in paths if path.startswith(f"atari/{algorithm}_{game}_{seed}_")]
                for run in runs:
                    rows = [row.split(",") for row in git("show", f"{COMMIT}:{run}/environment.csv")]
                    updates = [row[1] for row in rows]
                    columns += [] if columns else [updates]
                    assert columns[0] == updates
                    columns.append([f"{float(row[2]):g}" for row in rows])
            lines += [",".join([algorithm, game, *row]) for row in zip(*columns, strict=True)]
    content = "\n".join(lines) + "\n"
    (Path(__file__).parent / "d3rlpy_benchmarks.csv.gz").write_bytes(gzip.compress(content.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
