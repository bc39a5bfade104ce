"""Train a Decision Transformer, or behavior cloning, on a trajectory store."""

import dataclasses
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.games.presets import preset
from atari_dt.training import TrainingStopped, train
from replay_data import TrajectoryStore


@dataclass(frozen=True)
class Options:
    """Train on a trajectory store. Defaults are the paper's settings for its game (Pong: K = 50, batches of 512)."""

    data: Path
    """The store."""
    out: Path
    """Directory of the run, to be created."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """The network."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """How it is trained."""
    resume: bool = False
    """Go on from the last checkpoint in OUT if there is one, as if the run had never stopped. Once updates have begun,
    SIGTERM leaves a checkpoint and exits with status 0."""


def main() -> None:
    """Parse the command line twice: once to know the data, and with it the game, then with that game's defaults."""
    options = tyro.cli(Options)
    store = TrajectoryStore.open(options.data)
    model, training = preset(store.game)
    options = tyro.cli(Options, default=dataclasses.replace(options, model=model, training=training))
    first = os.environ.get("RANK", "0") == "0"
    try:
        train(store, options.out, options.model, options.training, options.resume)
    except TrainingStopped as stop:
        if stop.number != signal.SIGTERM:
            raise
        if first:
            print(f"stopped; {stop}")
        return
    if first:
        print(f"trained; next: python scripts/evaluate.py {options.out}")


if __name__ == "__main__":
    run(main, parse=False)
