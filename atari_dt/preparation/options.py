"""The options of commands that make missing data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atari_dt.experiments.benchmark_preset import BenchmarkPreset
from replay_data import InputError
from replay_data.sources.rl_unplugged import BASE_URL

OriginName = Literal["rl_unplugged", "hub", "q_learning", "jat", "scripted"]


@dataclass(frozen=True)
class DataOptions:
    """How the stores of games are made that have none yet."""

    data_from: OriginName | None = None
    """Make the store of each game that has none in DATA, from one of these; by default, a missing store is an error.
    `rl_unplugged`: download the first episodes of each file of run 1 (46 games). `hub`: record the Hugging Face Hub's
    agents of RL Baselines3 Zoo (10 games), which play from random to their best. `q_learning`: record an agent that
    learns the game from scratch (any game). `jat`: download expert play of the JAT dataset (57 games). `scripted`:
    record players of every skill that read the emulator's RAM (Breakout and Pong)."""
    data_steps: int | None = None
    """Steps to record or download for each missing store. The preset `paper` takes 500,000, or 5,000,000 of q_learning;
    `quick` takes 100,000, or 300,000 of q_learning. The store holds all of them. Of q_learning it holds a third, at
    most 500,000, the same number from each fiftieth of the recording, or all if a fiftieth has too few whole
    episodes."""
    raw_data: Path | None = None
    """Directory of the recordings and downloads, which are kept; by default DATA/raw/{data-from}."""
    base_url: str = BASE_URL
    """Address of the directory of RL Unplugged's games, as in download_replay.py."""

    def __post_init__(self) -> None:
        for name, unused in (
            ("data_steps", self.data_steps is not None and self.data_from is None),
            ("raw_data", self.raw_data is not None and self.data_from is None),
            ("base_url", self.base_url != BASE_URL and self.data_from != "rl_unplugged"),
        ):
            if unused:
                needed = "`data_from`" if name != "base_url" else "`data_from` rl_unplugged"
                raise InputError(f"`{name}` has no effect without {needed}; leave it out")

    def num_steps(self, preset: BenchmarkPreset) -> int:
        """Return the number of steps to record or download for each store."""
        if self.data_steps is not None:
            return self.data_steps
        if self.data_from == "q_learning":
            return 5_000_000 if preset == "paper" else 300_000
        return 500_000 if preset == "paper" else 100_000
