"""Reproduce the paper's table 1: Decision Transformer, behavior cloning and %BC on several games and seeds."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.benchmark_preset import PAPER_EVALUATION, BenchmarkPreset, benchmark_preset
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep_options import SweepOptions
from atari_dt.games.catalogue import Game, find_game
from atari_dt.preparation.options import DataOptions
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import InputError

if TYPE_CHECKING:
    from atari_dt.model.dataset_info import DatasetInfo


@dataclass(frozen=True)
class Options:
    """Train Decision Transformers, behavior cloning and %BC, by default with the paper's settings, evaluate them under
    the paper's protocol and target returns, and print the paper's table 1 with the new scores beside the published
    ones.

    Finished runs are skipped: the same command resumes an interrupted sweep, and adds games and seeds. Settings of
    network, training and evaluation apply to all games; their defaults are those of preset and recipe for each game."""

    data: Path
    """Directory with a trajectory store for each game, such as DATA/breakout. The paper draws its data anew for each
    seed; for that, give each seed a store of its own, such as DATA/breakout/123."""
    out: Path
    """Directory of all runs, and of report.md and report.html."""
    games: tuple[str, ...] = ("Breakout", "Qbert", "Pong", "Seaquest")
    """Games to play."""
    seeds: tuple[int, ...] = (123, 231, 312)
    """Training seeds."""
    top_percents: tuple[float, ...] = (10.0,)
    """Percentages of the steps that %BC clones, those of the best episodes; give none to leave out %BC."""
    preset: BenchmarkPreset = "paper"
    """Size of network and training. `paper`: the paper's, for a GPU; `quick`: small batches, half the layers, K = 10,
    2,000 updates, for a laptop."""
    recipe: RecipeName = "paper"
    """How the network learns. `paper`: as in the paper; `fast`: with every ingredient of atari_dt/recipes.py. It
    changes the preset, and other options override both; --help shows the defaults of `paper`. Pong has K = 50 and
    batches of 512."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """Network, without its conditioning."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Training, without its seed and percentage. With `--max-updates`, the cosine of the learning rate ends at the last
    update."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=lambda: PAPER_EVALUATION)
    """Evaluation. The target returns shown here are the defaults of games outside the paper. Those of the paper's games
    are the paper's number and multiple: 90 and 1 in Breakout, 2500 and 5 in Qbert, 20 and 1 in Pong, 1450 and 5 in
    Seaquest."""
    threads: int = 1
    """Number of threads of each run on a CPU; the last digits of the results depend on it."""
    origin: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    """Where missing data comes from."""
    where: tyro.conf.OmitArgPrefixes[SweepOptions] = field(default_factory=SweepOptions)
    """How the runs are launched."""


def main() -> None:
    """Parse the command line once to find the games, make their missing data, and parse it for each game's defaults."""
    options = tyro.cli(Options)
    if not options.games or not options.seeds:
        raise InputError("give at least one game and one seed")
    games = list(dict.fromkeys(map(find_game, options.games)))
    if options.origin.data_from is not None:
        _make_missing_stores(options, games)
    from atari_dt.experiments.benchmark import benchmark_runs, benchmark_stores
    from atari_dt.experiments.sweep import run_sweep_and_report
    from atari_dt.model.dataset_info import DatasetInfo

    stores = benchmark_stores(options.data, games, options.seeds)
    bases = {}
    for game in games:
        datasets = [DatasetInfo.from_store(stores[game.name, seed]) for seed in options.seeds]
        bases[game.name], note = _config_of_game(options, game, datasets)
        if note is not None:
            print(f"note: {game.name}: {note}")
    runs = benchmark_runs(bases, stores, options.top_percents)
    digests = {store.path.resolve(): store.digest for store in stores.values()}
    run_sweep_and_report(runs, options.out, digests, options.where)


def _config_of_game(options: Options, game: Game, datasets: "Sequence[DatasetInfo]") -> tuple[RunConfig, str | None]:
    """Parse the command line with the defaults of a game.

    Args:
        options: Options, parsed with other defaults.
        game: The game.
        datasets: Dataset of each seed, which decide defaults; empty if there is none yet.

    Returns:
        The settings that all runs of the game share, and a note about defaults.

    Raises:
        InputError: If an option sets what the benchmark sets itself, or a value is out of range.
    """
    model, training, evaluation = benchmark_preset(options.preset, game)
    model, training = apply_recipe(options.recipe, model, training)
    evaluation = evaluation.for_returns_of(datasets)
    default = dataclasses.replace(options, model=model, training=training, evaluation=evaluation)
    game_options = tyro.cli(Options, default=default)
    for flag, value, preset_value in (
        ("--conditioning", game_options.model.conditioning, model.conditioning),
        ("--seed", game_options.training.seed, training.seed),
        ("--top-percent", game_options.training.top_percent, training.top_percent),
        ("--final-tokens", game_options.training.final_tokens, None),
    ):
        if value != preset_value:
            raise InputError(f"{flag} is fixed by the benchmark; use --seeds, --top-percents or --max-updates")
    config = RunConfig(Path(), game_options.model, game_options.training, game_options.evaluation, game_options.threads)
    return config, game_options.evaluation.explain_default(evaluation)


def _make_missing_stores(options: Options, games: Sequence[Game]) -> None:
    """Make the stores of games that have none, after checking all options that do not depend on the data."""
    wait_policy = os.environ.get("OMP_WAIT_POLICY")
    # Keep PyTorch's idle threads from spinning on the cores that the emulator's threads need. The imports below load
    # PyTorch, which reads this variable.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from atari_dt.experiments.benchmark import benchmark_stores, check_top_percents, find_games_without_data
    from atari_dt.hardware import find_device
    from atari_dt.preparation.preparation import plan_stores

    if wait_policy is None:
        del os.environ["OMP_WAIT_POLICY"]  # the runs are processes of their own

    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"{options.out} is not a directory; choose another `out`")
    num_steps = options.origin.num_steps(options.preset)
    check_top_percents(options.top_percents)
    trainings = [_config_of_game(options, game, ())[0].training for game in games]
    find_device(trainings[0].device)
    missing = find_games_without_data(options.data, games)
    if missing and num_steps < (batch_size := max(training.batch_size for training in trainings)):
        raise InputError(f"`data_steps` must be at least {batch_size}, the batch size, not {num_steps}")
    benchmark_stores(options.data, [game for game in games if game not in missing], options.seeds)
    plan = plan_stores(options.data, games, options.origin, num_steps, trainings[0].device)
    for note in plan.notes:
        print(f"note: {note}")
    if plan.games:
        print(plan.describe(), flush=True)
        plan.make()


if __name__ == "__main__":
    run(main, parse=False)
