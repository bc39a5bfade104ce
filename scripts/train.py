"""Train a Decision Transformer, behavior cloning, QR-DQN, CQL or REM on a trajectory store."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import argparse
import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import tyro

from atari_dt.command_line import format_command, run, with_flags
from atari_dt.config import MethodName, TrainingConfig
from atari_dt.games.presets import default_settings
from atari_dt.method_config import METHOD_NAMES, MethodConfig
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import TrajectoryStore

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True, kw_only=True)
class Options(Generic[Config]):
    """Train a learning method on a trajectory store. Defaults are those of the method, and for a Decision Transformer
    and behavior cloning those of the store's game (Pong: K = 50, batches of 512)."""

    data: Path
    """Trajectory store."""
    out: Path
    """Directory of the run; it must not exist, except with --resume."""
    method: MethodName = "dt"
    """Learning method. `dt`: Decision Transformer; `bc`: behavior cloning, the same network without return tokens;
    `qrdqn`, `cql`, `rem`: Q-learning from logged transitions; `hf_decision_transformer`: the Decision Transformer of
    the package transformers, on RAM; `trajectory_transformer`: a model of whole trajectories, on RAM. Each has options
    of its own: --help shows those of `dt`, `--method cql --help` those of `cql`."""
    recipe: RecipeName = "paper"
    """How the network learns. `paper`: as in the method's paper; `fast`: with every ingredient of atari_dt/recipes.py,
    which has none for `hf_decision_transformer` and `trajectory_transformer`. It sets defaults, which other options
    override; --help shows those of `paper`."""
    model: tyro.conf.OmitArgPrefixes[Config]
    """Config of the method and its network."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig]
    """Config of the training."""
    resume: bool = False
    """Continue from the last checkpoint in OUT, if there is one; the result is that of a run that never stopped, up to
    rounding if --precision, --device, --compile or the number of processes change. After the first update, SIGTERM
    saves a checkpoint and exits with status 0."""


def main() -> None:
    """Parse the command line for the method, then for the store and the recipe, and then with their defaults."""
    method = find_method_name()
    model, training = default_settings(method)
    options = parse(Options(data=tyro.MISSING, out=tyro.MISSING, model=model, training=training))
    store = TrajectoryStore.open(options.data)
    model, training = apply_recipe(options.recipe, *default_settings(method, store.game, options.model.observation))
    options = parse(dataclasses.replace(options, model=model, training=training))
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


def find_method_name() -> MethodName:
    """Return the method on the command line. If there is none, or an unknown one, return the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?")
    name = parser.parse_known_args()[0].method
    return name if name in METHOD_NAMES else "dt"


def parse(default: Options[Config]) -> Options[Config]:
    """Parse the command line with the options of the method whose config ``default`` holds."""
    prog = f"{sys.argv[0]} --method {default.model.method}"
    return tyro.cli(Options[type(default.model)], prog=prog, default=default)  # type: ignore[misc,call-overload]


if __name__ == "__main__":
    run(main, parse=False)
