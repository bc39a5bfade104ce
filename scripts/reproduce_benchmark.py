"""The paper's table 1: Decision Transformer, behavior cloning and %BC on several games and seeds."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.evaluation import compute_target_returns
from atari_dt.experiments.benchmark import BenchmarkPreset, benchmark_preset, benchmark_runs, benchmark_stores
from atari_dt.experiments.report import SweepOptions, sweep
from atari_dt.experiments.run import EvaluationConfig, RunConfig
from atari_dt.games.catalogue import find_game
from atari_dt.model import DatasetInfo
from replay_data import InputError


@dataclass(frozen=True)
class Options:
    """Train Decision Transformers, behavior cloning and %BC with the paper's settings, let them play with its protocol
    and target returns, and print its table 1 with these scores beside the published ones.

    Runs that are finished are skipped: the same command goes on after an interruption, and adds games and seeds.
    Options of network, training and evaluation hold for all games; by default they are those of the preset for each."""

    data: Path
    """Directory that has a store for each game, such as DATA/breakout; or, as the paper draws its data anew for each
    seed, one for each seed, such as DATA/breakout/123."""
    out: Path
    """Directory of all runs, and of report.md and report.html."""
    games: tuple[str, ...] = ("Breakout", "Qbert", "Pong", "Seaquest")
    """What is played."""
    seeds: tuple[int, ...] = (123, 231, 312)
    """Of the training."""
    top_percents: tuple[float, ...] = (10.0,)
    """%BC: percentages of the steps, those of the best episodes, that are cloned; give none to leave it out."""
    preset: BenchmarkPreset = "paper"
    """`paper`: its settings, for a GPU. `quick`: 2,000 updates of a network of half the size, for a laptop."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """The network, its conditioning aside."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """How it is trained, seed and percentage aside. With `--max-updates` the learning rate's cosine ends there."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
    """How it plays."""
    threads: int = 1
    """Of each run, on a CPU; results depend on it in their last digits."""
    where: tyro.conf.OmitArgPrefixes[SweepOptions] = field(default_factory=SweepOptions)
    """Where the runs are done."""


def main() -> None:
    """Parse the command line once to know the games, and then once for each with its defaults."""
    options = tyro.cli(Options)
    if not options.games or not options.seeds:
        raise InputError("give at least one game and one seed")
    games = list(map(find_game, options.games))
    stores = benchmark_stores(options.data, games, options.seeds)
    bases = {}
    for game in games:
        model, training, evaluation = benchmark_preset(options.preset, game)
        default = dataclasses.replace(options, model=model, training=training, evaluation=evaluation)
        asked = tyro.cli(Options, default=default)
        for name, now, usual in (
            ("--conditioning", asked.model.conditioning, model.conditioning),
            ("--seed", asked.training.seed, training.seed),
            ("--top-percent", asked.training.top_percent, training.top_percent),
            ("--final-tokens", asked.training.final_tokens, None),
        ):
            if now != usual:
                raise InputError(f"{name} is not free here; use --seeds, --top-percents or --max-updates")
        for seed in options.seeds:  # before hours of training
            compute_target_returns(DatasetInfo.from_store(stores[game.name, seed]), asked.evaluation.return_multiples)
        bases[game.name] = RunConfig(Path(), asked.model, asked.training, asked.evaluation, asked.threads)
    runs = benchmark_runs(bases, stores, options.top_percents)
    digests = {store.path.resolve(): store.digest for store in stores.values()}
    sweep(runs, options.out, digests, options.where)


if __name__ == "__main__":
    run(main, parse=False)
