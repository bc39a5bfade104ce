"""Train a Decision Transformer, or behavior cloning, on a trajectory store."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import format_command, run, with_flags
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.games.presets import find_preset
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import TrajectoryStore


@dataclass(frozen=True)
class Options:
    """Train on a trajectory store. Defaults are the recipe's settings for its game (Pong: K = 50, batches of 512)."""

    data: Path
    """Trajectory store."""
    out: Path
    """Directory of the run; it must not exist, except with --resume."""
    recipe: RecipeName = "paper"
    """How the network learns. `paper`: as in the paper; `fast`: with every ingredient of atari_dt/recipes.py. It
    sets defaults, which other options override; --help shows those of `paper`."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """Config of the network."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Config of the training."""
    resume: bool = False
    """Continue from the last checkpoint in OUT, if there is one; the result is that of a run that never stopped, up to
    rounding if --precision, --device, --compile or the number of processes change. After the first update, SIGTERM
    saves a checkpoint and exits with status 0."""


def main() -> None:
    """Parse the command line twice: for the store and the recipe, and then with their defaults."""
    options = tyro.cli(Options)
    store = TrajectoryStore.open(options.data)
    preset = find_preset(store.game)
    model, training = apply_recipe(options.recipe, preset.model, preset.training)
    options = tyro.cli(Options, default=dataclasses.replace(options, model=model, training=training))
    from atari_dt.training import TrainingStopped, train

    is_first_process = os.environ.get("RANK", "0") == "0"
    try:
        train(store, options.out, options.model, options.training, options.resume)
    except TrainingStopped as stop:
        if stop.signum != signal.SIGTERM:
            raise
        if is_first_process:
            print(f"stopped; {with_flags(str(stop))}")
        return
    if is_first_process:
        print(f"trained; next: {format_command('evaluate.py', options.out)}")


if __name__ == "__main__":
    run(main, parse=False)
