"""Train and evaluate a model for each of several context lengths, and compare them."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep_options import SweepOptions
from atari_dt.games.presets import default_settings
from atari_dt.games.ram_variables import require_observation
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import InputError, TrajectoryStore


@dataclass(frozen=True)
class Options:
    """Train and evaluate a model for each context length and seed, and print score, loss and cost of each length.

    Finished runs are skipped: the same command resumes an interrupted sweep, and adds context lengths and seeds. All
    other defaults are the recipe's settings for the dataset's game."""

    data: Path
    """Path of the trajectory store."""
    out: Path
    """Directory of all runs, and of report.md and report.html."""
    context_lengths: tuple[int, ...] = (1, 2, 5, 10, 30, 50)
    """Context lengths K, in steps."""
    seeds: tuple[int, ...] = (123, 231, 312)
    """Training seeds."""
    equal: tuple[Literal["updates", "states", "seconds"], ...] = ("updates",)
    """What runs of different K have in common: the number of `updates`, the number of `states` in their batches, or the
    `seconds` of training. Each has its own table and panel; a run that several of them share is done once. With
    `states` and `seconds`, MAX-UPDATES is the number of updates for K = CONTEXT-LENGTH. `seconds` measures the time of
    an update for each K on this machine before the first run, and keeps it in OUT/update_times.json. Other jobs may run
    meanwhile, because the values of K take turns; at best, the machine is as busy as during the runs."""
    method: Literal["dt", "bc"] = "dt"
    """Learning method. `dt`: Decision Transformer; `bc`: behavior cloning, the same network without return tokens. Of
    the other methods, no context length is ablated."""
    recipe: RecipeName = "paper"
    """How the network learns. `paper`: as in the paper; `fast`: with every ingredient of atari_dt/recipes.py. It
    sets defaults, which other options override; --help shows those of `paper`."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """Network. Its context length is the one that the others are compared with under `--equal states` or `seconds`, by
    default the recipe's."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Training, without its seed. With `--max-updates`, the cosine of the learning rate ends at the last update. Runs
    with other numbers of updates write as many checkpoints and lines of metrics."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
    """Evaluation. The tables compare scores under the last target return."""
    threads: int = 1
    """Number of threads of each run on a CPU; the last digits of the results depend on it."""
    where: tyro.conf.OmitArgPrefixes[SweepOptions] = field(default_factory=SweepOptions)
    """How the runs are launched."""


def main() -> None:
    """Parse the command line twice: for dataset, method and recipe, and then with their defaults."""
    options = tyro.cli(Options)
    store = TrajectoryStore.open(options.data)
    observed = options.model.observation
    model, training = apply_recipe(options.recipe, *default_settings(options.method, store.game, observed))
    assert isinstance(model, ModelConfig)
    training = dataclasses.replace(training, validation_fraction=0.05, validation_seed=0)
    dataset = DatasetInfo.from_store(store)
    evaluation = EvaluationConfig().for_returns_of([dataset])
    defaults = dataclasses.replace(options, model=model, training=training, evaluation=evaluation)
    options = tyro.cli(Options, default=defaults)
    reference = model.context_length if set(options.equal) <= {"updates"} else options.model.context_length
    for flag, value, default in (
        ("--context-length", options.model.context_length, reference),
        ("--seed", options.training.seed, training.seed),
        ("--final-tokens", options.training.final_tokens, None),
    ):
        if value != default:
            raise InputError(f"{flag} would be the same in all runs; use --context-lengths, --seeds or --max-updates")
    require_observation(options.model.observation, options.model.variables, store)  # fail before hours of training
    from atari_dt.experiments.ablation import plan_ablation
    from atari_dt.experiments.sweep import run_sweep_and_report

    base = RunConfig(store.path.resolve(), options.model, options.training, options.evaluation, options.threads)
    if options.model.conditioned:
        options.evaluation.check_targets(dataset)  # so does this
        if (note := options.evaluation.explain_default(evaluation)) is not None:
            print(f"note: {note}")
    runs, files = plan_ablation(store, base, options.context_lengths, options.seeds, options.equal, options.out)
    run_sweep_and_report(runs, options.out, {base.data: store.digest}, options.where, files)


if __name__ == "__main__":
    run(main, parse=False)
