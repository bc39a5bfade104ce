"""Train with several context lengths, let all of them play, and compare."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig, preset
from atari_dt.evaluation import target_returns
from atari_dt.experiments.ablation import ablation_cells, ablation_figure, ablation_runs, ablation_table
from atari_dt.experiments.run import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep import run_sweep
from atari_dt.model import DatasetInfo
from replay_data import InputError, TrajectoryStore
from replay_data.files import write_whole


@dataclass(frozen=True)
class Options:
    """Train a model for each context length and seed, let it play, and print score, loss and cost of each length.

    Runs that are finished are skipped: the same command goes on after an interruption, and adds context lengths and
    seeds. Other defaults are the paper's settings for the data's game."""

    data: Path
    """The store."""
    out: Path
    """Directory of all runs, and of table.txt and figure.png."""
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
    jobs: int | None = None
    """Runs at once; by default as many as fill the cores with their threads, and one on a GPU."""
    retry_failed: bool = False
    """Try runs again that failed before."""


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
        target_returns(DatasetInfo.of(store), options.evaluation.return_multiples)  # before hours of training
    ablation_cells(options.out, runs, store.digest)
    failures = run_sweep(runs, options.out, jobs=options.jobs, retry_failed=options.retry_failed)

    if cells := ablation_cells(options.out, runs, store.digest):
        table = ablation_table(cells, store.game)
        write_whole(options.out / "table.txt", table + "\n")
        write_whole(options.out / "figure.png", ablation_figure(cells, store.game))
        print(table)
        print(f"figure: {options.out / 'figure.png'}")
    if failures:
        named = "; ".join(f"{name} ({reason})" for name, reason in failures.items())
        raise InputError(f"{len(failures)} of {len(runs)} runs failed: {named}; --retry-failed tries them again")


if __name__ == "__main__":
    run(main, parse=False)
