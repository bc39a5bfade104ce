"""Train with several context lengths, let all of them play, and compare."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.evaluation import compute_target_returns
from atari_dt.experiments.ablation import ablation_runs
from atari_dt.experiments.report import SweepOptions, sweep
from atari_dt.experiments.run import EvaluationConfig, RunConfig
from atari_dt.games.presets import preset
from atari_dt.model import DatasetInfo
from replay_data import InputError, TrajectoryStore


@dataclass(frozen=True)
class Options:
    """Train a model for each context length and seed, let it play, and print score, loss and cost of each length.

    Runs that are finished are skipped: the same command goes on after an interruption, and adds context lengths and
    seeds. Other defaults are the paper's settings for the data's game."""

    data: Path
    """The store."""
    out: Path
    """Directory of all runs, and of report.md and report.html."""
    context_lengths: tuple[int, ...] = (1, 2, 5, 10, 30, 50)
    """K."""
    seeds: tuple[int, ...] = (123, 231, 312)
    """Of the training."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """The network, its context length aside."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """How it is trained, the seed aside. With `--max-updates` the learning rate's cosine ends there."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
    """How it plays; the last target return is the one that is compared."""
    threads: int = 1
    """Of each run, on a CPU; results depend on it in their last digits."""
    where: tyro.conf.OmitArgPrefixes[SweepOptions] = field(default_factory=SweepOptions)
    """Where the runs are done."""


def main() -> None:
    """Parse the command line twice: once to know the data, and with it the game, then with that game's defaults."""
    options = tyro.cli(Options)
    store = TrajectoryStore.open(options.data)
    model, training = preset(store.game)
    training = dataclasses.replace(training, validation_fraction=0.05)
    options = tyro.cli(Options, default=dataclasses.replace(options, model=model, training=training))
    for name, now, default in (
        ("--context-length", options.model.context_length, model.context_length),
        ("--seed", options.training.seed, training.seed),
        ("--final-tokens", options.training.final_tokens, None),
    ):
        if now != default:
            raise InputError(f"{name} would be the same in all runs; use --context-lengths, --seeds or --max-updates")
    base = RunConfig(store.path.resolve(), options.model, options.training, options.evaluation, options.threads)
    runs = ablation_runs(base, options.context_lengths, options.seeds)
    if options.model.conditioning == "return":
        compute_target_returns(
            DatasetInfo.from_store(store), options.evaluation.return_multiples
        )  # before hours of training
    sweep(runs, options.out, {base.data: store.digest}, options.where)


if __name__ == "__main__":
    run(main, parse=False)
