"""Measure in what time recipes reach given validation losses and scores: the speed-run of docs/leaderboard.md."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig, schedule_for_max_updates
from atari_dt.recipes import apply_recipe
from replay_data import InputError, TrajectoryStore
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable
from replay_data.storage.processes import available_cores


@dataclass(frozen=True)
class Options:
    """Train with each recipe and seed, and report seconds, updates and FLOPs until the validation loss and the score
    first reach given marks.

    The first recipe is the baseline. Its final validation loss is always a mark, for each seed its own: seeds hold out
    other episodes. A loss mark is reached at the first validation at or below it, and a score mark at the first
    evaluation at or above it.

    Seconds are those of the updates alone, without validation, checkpoints and evaluation. The runs are done one after
    another, each in a process of its own: every recipe with the first seed, then with the next. Finished runs are
    skipped, so the same command resumes an interrupted benchmark."""

    out: Path
    """Directory of all runs."""
    data: Path | None = None
    """Trajectory store; by default the quickstart's (60,000 steps, seed 0), which is collected into OUT/data."""
    recipes: tuple[str, ...] = ("paper", "fast")
    """Recipes, each with its number of updates unless it is `--updates`: fast, fast:600, paper+encoder_norm:600."""
    updates: int = 3000
    """Number of updates, at the last of which the learning rate's decay ends."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, batches, held-out episodes and evaluation."""
    context_length: int = 10
    """K, the number of steps in a context."""
    num_layers: int = 3
    """Number of transformer blocks."""
    dropout: float = 0.0
    """Dropout probability."""
    batch_size: int = 32
    """Contexts per update."""
    validation_fraction: float = 0.05
    """Fraction of the episodes held out."""
    validation_every: int = 25
    """Updates between two validations."""
    loss_marks: tuple[float, ...] = ()
    """Validation losses to reach, besides the baseline's final one."""
    score_marks: tuple[float, ...] = ()
    """Mean scores to reach under the first of the return multiples."""
    score_every: int = 0
    """Updates between two evaluations for the score marks, or 0 to evaluate at the end only; a multiple of
    `--validation-every`. All checkpoints of a run stay on the disk until they are evaluated."""
    episodes: int = 16
    """Number of episodes under each target return."""
    return_multiples: tuple[float, ...] = (1.0, 0.0)
    """Target returns as multiples of the dataset's largest return."""
    max_steps: int = 27_000
    """Number of steps after which an episode is truncated."""
    threads: int | None = None
    """Number of PyTorch threads on a CPU; by default one per core."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the forward pass, as in train.py."""
    device: str = "auto"
    """Device, as in train.py."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to compile the network, as in train.py; compilation is part of the first update's time."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """File to write the figures to."""

    def __post_init__(self) -> None:
        for name in ("recipes", "seeds", "return_multiples"):
            if not (values := getattr(self, name)) or len(set(values)) < len(values):
                raise InputError(f"`{name}` must have at least one value, and none twice")
        if self.updates < 1:
            raise InputError(f"`updates` must be at least 1, not {self.updates}")
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"`validation_fraction` must be greater than 0 and less than 1, not {self.validation_fraction}"
            )
        if self.validation_every < 1:
            raise InputError(f"`validation_every` must be at least 1, not {self.validation_every}")
        if self.score_every < 0 or self.score_every % self.validation_every:
            raise InputError(
                f"`score_every` must be 0 or a multiple of `validation_every` ({self.validation_every}), not "
                f"{self.score_every}"
            )


def main() -> None:
    """Do the runs that are not finished, and print the report and lines for the leaderboard."""
    options = tyro.cli(Options)
    runs = {
        (label, seed): make_run(options, recipe, updates, seed)
        for seed in options.seeds  # recipes alternate, so that a machine that is busy for a while affects all alike
        for label, (recipe, updates) in parse_recipes(options.recipes, options.updates).items()
    }
    if options.json_file:
        check_writable(options.json_file)
    store = open_store(options)

    from time_to_score_report import describe_machine, leaderboard_lines, make_marks, report, to_json
    from time_to_score_runs import complete_runs

    timed_runs, machine = complete_runs(options.out, runs, store, options.score_every)
    marks = make_marks(timed_runs, options.loss_marks, options.score_marks)
    if options.json_file:
        content = to_json(timed_runs, marks, machine) | {"data_digest": store.digest}
        atomic_write(options.json_file, json.dumps(content, indent=2) + "\n")
    print(f"\n{store.game}, {len(store):,} steps, digest {store.digest[:12]}; {describe_machine(machine)}")
    print(report(timed_runs, marks))
    print("\n".join(["\nlines for docs/leaderboard.md:\n", *leaderboard_lines(timed_runs, marks[0], machine)]))


def parse_recipes(recipes: tuple[str, ...], updates: int) -> dict[str, tuple[str, int]]:
    """Return name and number of updates of each recipe, by a label such as ``fast:600``.

    Args:
        recipes: Names, each with or without a number of updates.
        updates: Number of updates of recipes without one.

    Raises:
        InputError: If a number is not a positive integer, or two recipes are the same.
    """
    parsed = {}
    for text in recipes:
        name, _, number = text.partition(":")
        number = number if ":" in text else str(updates)
        if not number.isascii() or not number.isdecimal() or len(number) > 9 or int(number) < 1:
            raise InputError(f"`recipes` has {text!r}, which must end in a positive number of updates or have no colon")
        parsed[f"{name}:{int(number)}"] = name, int(number)
    if len(parsed) < len(recipes):
        raise InputError("`recipes` must not have the same recipe with the same number of updates twice")
    return parsed


def make_run(options: Options, recipe: str, updates: int, seed: int) -> RunConfig:
    """Return the config of a run; its ``data`` is set later.

    Raises:
        InputError: If the recipe does not exist, or an option is out of range.
    """
    model = ModelConfig(options.context_length, options.num_layers, dropout=options.dropout)
    training = TrainingConfig(
        max_updates=updates,
        batch_size=options.batch_size,
        precision=options.precision,
        device=options.device,
        compile=options.compile,
        seed=seed,
        log_every=options.validation_every,
        checkpoint_every=options.validation_every,
        keep_checkpoints=-(-updates // options.validation_every) if options.score_every else 1,
        validation_fraction=options.validation_fraction,
    )
    model, training = apply_recipe(recipe, model, training)
    return RunConfig(
        data=Path(),
        model=model,
        training=schedule_for_max_updates(training, model.context_length),
        evaluation=EvaluationConfig(
            return_multiples=options.return_multiples,
            episodes=options.episodes,
            max_steps=options.max_steps,
            evaluation_seed=seed,
        ),
        threads=available_cores() if options.threads is None else options.threads,
    )


def open_store(options: Options) -> TrajectoryStore:
    """Open the trajectory store; collect the quickstart's if no path is given and it does not exist yet."""
    if options.data is not None:
        return TrajectoryStore.open(options.data)
    path = options.out / "data"
    if path.exists():
        return TrajectoryStore.open(path)
    from atari_dt.collection.scripted import collect
    from atari_dt.games.catalogue import find_game

    path.parent.mkdir(parents=True, exist_ok=True)
    return collect(find_game("Breakout"), 60_000, path, seed=0)


if __name__ == "__main__":
    run(main, parse=False)
