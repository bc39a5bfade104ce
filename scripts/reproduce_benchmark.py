"""Reproduce the paper's table 1: Decision Transformer, BC, %BC, CQL, QR-DQN and REM on several games and seeds."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from atari_dt.command_line import run
from atari_dt.config import ARITHMETIC_SETTINGS, MethodName, ModelConfig, TrainingConfig
from atari_dt.experiments.benchmark_methods import DEFAULT_METHODS, BenchmarkMethod, parse_methods
from atari_dt.experiments.benchmark_preset import (
    PAPER_EVALUATION,
    BenchmarkPreset,
    benchmark_preset,
    value_training_preset,
)
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig
from atari_dt.experiments.sweep_options import SweepOptions
from atari_dt.games.catalogue import Game, find_game
from atari_dt.games.ram_variables import find_observation
from atari_dt.method_config import (
    METHOD_NAMES,
    CQLConfig,
    QRDQNConfig,
    REMConfig,
    default_config,
)
from atari_dt.preparation.options import DataOptions
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import InputError

if TYPE_CHECKING:
    from atari_dt.model.dataset_info import DatasetInfo


@dataclass(frozen=True)
class Options:
    """Train the methods of the paper's table 1, by default with their authors' settings, evaluate them under the
    paper's protocol and target returns, and print the table with the new scores beside the published ones.

    Finished runs are skipped: the same command resumes an interrupted sweep, and adds games, methods and seeds.
    Settings of network, training and evaluation apply to all games; their defaults are those of preset and recipe for
    each game. The value-based methods (qrdqn, cql, rem) have options of their own: --value-training.max-updates and
    others for their training, --qrdqn.num-quantiles and others for one method. Without this prefix, an option of the
    training, such as --max-updates, applies to dt and bc only, except that --device, --precision and --compile apply to
    all."""

    data: Path
    """Directory with a trajectory store for each game, such as DATA/breakout. The paper draws its data anew for each
    seed; for that, give each seed a store of its own, such as DATA/breakout/123."""
    out: Path
    """Directory of all runs, and of report.md and report.html."""
    games: tuple[str, ...] = ("Breakout", "Qbert", "Pong", "Seaquest")
    """Games to play."""
    seeds: tuple[int, ...] = (123, 231, 312)
    """Training seeds."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """Methods to train. `dt`: Decision Transformer; `bc`: behavior cloning; `top10bc`: %BC, behavior cloning of the
    best episodes that make up 10% of the steps, or another percentage of them; `cql`, `qrdqn`, `rem`: Q-learning from
    logged transitions."""
    preset: BenchmarkPreset = "paper"
    """Size of network and training. `paper`: the papers', for a GPU; `quick`, for a laptop: small batches, half the
    layers, K = 10 and 2,000 updates of dt and bc, and 20,000 updates of value-based methods."""
    recipe: RecipeName = "paper"
    """How the methods learn. `paper`: as in their papers; `fast`: with every ingredient of atari_dt/recipes.py. It
    changes the preset, and other options override both; --help shows the defaults of `paper`. Pong has K = 50 and
    batches of 512."""
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    """Network of dt and bc."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Training of dt and bc, without its seed and percentage. With `--max-updates`, the cosine of the learning rate
    ends at the last update."""
    qrdqn: QRDQNConfig = field(default_factory=QRDQNConfig)
    """QR-DQN."""
    cql: CQLConfig = field(default_factory=CQLConfig)
    """CQL."""
    rem: REMConfig = field(default_factory=REMConfig)
    """REM."""
    value_training: TrainingConfig = field(default_factory=lambda: value_training_preset("paper"))
    """Training of the value-based methods, without its seed and percentage."""
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

    def run_config(self, method: MethodName) -> RunConfig:
        """Return the settings that all runs of a method share."""
        config, evaluation = default_config(method), self.evaluation
        if isinstance(config, ModelConfig):
            scale = self.model.return_scale
            if method == "bc" and "dt" in self.methods:  # an option of dt; without dt, the config of bc refuses it
                scale = config.return_scale
            model = dataclasses.replace(self.model, conditioning=config.conditioning, return_scale=scale)
            return RunConfig(Path(), model, self.training, evaluation, self.threads)
        if evaluation.evaluated_checkpoints is None:  # scores of Q-learning rise and fall
            kept = self.value_training.keep_checkpoints
            evaluation = dataclasses.replace(evaluation, evaluated_checkpoints=kept)
        return RunConfig(Path(), getattr(self, method, config), self.value_training, evaluation, self.threads)


def main() -> None:
    """Parse the command line once to find the games, make their missing data, and parse it for each game's defaults."""
    options = tyro.cli(Options)
    if not options.games or not options.seeds:
        raise InputError("give at least one game and one seed")
    games = list(dict.fromkeys(map(find_game, options.games)))
    methods = parse_methods(options.methods)
    if options.origin.data_from is not None:
        _make_missing_stores(options, games, methods)
    from atari_dt.experiments.benchmark import benchmark_runs, benchmark_stores
    from atari_dt.experiments.sweep import run_sweep_and_report
    from atari_dt.model.dataset_info import DatasetInfo

    stores = benchmark_stores(options.data, games, options.seeds)
    bases: dict[tuple[str, MethodName], RunConfig] = {}
    for game in games:
        datasets = [DatasetInfo.from_store(stores[game.name, seed]) for seed in options.seeds]
        configs, note = _configs_of_game(options, game, methods, datasets)
        bases |= {(game.name, name): config for name, config in configs.items()}
        if note is not None:
            print(f"note: {game.name}: {note}")
    runs = benchmark_runs(bases, stores, methods)
    digests = {store.path.resolve(): store.digest for store in stores.values()}
    run_sweep_and_report(runs, options.out, digests, options.where)


def _configs_of_game(
    options: Options, game: Game, methods: Sequence[BenchmarkMethod], datasets: "Sequence[DatasetInfo]"
) -> tuple[dict[MethodName, RunConfig], str | None]:
    """Parse the command line with the defaults of a game.

    Args:
        options: Options, parsed with other defaults.
        game: The game.
        methods: Methods of the benchmark.
        datasets: Dataset of each seed, which decide defaults; empty if there is none yet.

    Returns:
        The settings that all runs of the game and a learning method share, by its name; and a note about defaults.

    Raises:
        InputError: If an option sets what the benchmark sets itself, or is of a method that is left out, or a value is
            out of range.
    """
    model, training, evaluation = benchmark_preset(options.preset, game)
    names = {method.name for method in methods}
    if names & _SECTIONS["model"][1]:
        model = dataclasses.replace(model, observation=options.model.observation)
    model, training = apply_recipe(options.recipe, model, training)
    evaluation = evaluation.for_returns_of(datasets)
    arithmetic = {name: getattr(options.training, name) for name in ARITHMETIC_SETTINGS}
    preset_training = dataclasses.replace(value_training_preset(options.preset), **arithmetic)
    defaults: dict[str, Any] = {"model": model, "training": training, "evaluation": evaluation}
    for name in _VALUE_METHODS:  # they share the training, and its changes
        defaults[name], defaults["value_training"] = apply_recipe(options.recipe, default_config(name), preset_training)
    default = dataclasses.replace(options, **defaults)
    game_options = tyro.cli(Options, default=default)
    for section, (prefix, owners) in _SECTIONS.items():
        for name, default_value in vars(getattr(default, section)).items():
            if getattr(getattr(game_options, section), name) == default_value:
                continue
            flag = f"--{prefix}{name.replace('_', '-')}"
            if name in _FIXED:
                raise InputError(f"{flag} is fixed by the benchmark; use --seeds, --methods or --{prefix}max-updates")
            if not owners & names and name not in ARITHMETIC_SETTINGS:
                raise InputError(
                    f"{flag} is an option of {', '.join(sorted(owners))}, and --methods has none of them; leave it out"
                )
    configs = {}
    for method_name in dict.fromkeys(method.name for method in methods):
        try:
            configs[method_name] = game_options.run_config(method_name)
        except InputError as error:
            message = str(error)
            if method_name in _VALUE_METHODS:
                message = message.replace("`keep_checkpoints`", "`value_training.keep_checkpoints`")
            raise InputError(f"{method_name}: {message}") from error
    conditioned = any(config.model.conditioned for config in configs.values())
    return configs, game_options.evaluation.explain_default(evaluation) if conditioned else None


_VALUE_METHODS = [name for name in METHOD_NAMES if name in Options.__dataclass_fields__]

_SECTIONS: dict[str, tuple[str, set[MethodName]]] = {
    "model": ("", {"dt", "bc"}),
    "training": ("", {"dt", "bc"}),
    **{name: (f"{name}.", {name}) for name in _VALUE_METHODS},
    "value_training": ("value-training.", set(_VALUE_METHODS)),
}
"""Prefix and methods of the options of each config."""

_FIXED = ("seed", "top_percent", "final_tokens")
"""Settings of the training that the benchmark decides for each run."""


def _make_missing_stores(options: Options, games: Sequence[Game], methods: Sequence[BenchmarkMethod]) -> None:
    """Make the stores of games that have none, after checking all options that do not depend on the data."""
    wait_policy = os.environ.get("OMP_WAIT_POLICY")
    # Keep PyTorch's idle threads from spinning on the cores that the emulator's threads need. The imports below load
    # PyTorch, which reads this variable.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from atari_dt.experiments.benchmark import benchmark_stores, find_games_without_data
    from atari_dt.hardware import find_device
    from atari_dt.preparation.preparation import plan_stores

    if wait_policy is None:
        del os.environ["OMP_WAIT_POLICY"]  # the runs are processes of their own

    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"{options.out} is not a directory; choose another `out`")
    num_steps = options.origin.num_steps(options.preset)
    configs = [config for game in games for config in _configs_of_game(options, game, methods, ())[0].values()]
    trainings = [config.training for config in configs]
    find_device(trainings[0].device)
    missing = find_games_without_data(options.data, games)
    if missing and num_steps < (batch_size := max(training.batch_size for training in trainings)):
        raise InputError(f"`data_steps` must be at least {batch_size}, the batch size, not {num_steps}")
    vectors = [config.model for config in configs if config.model.observation != "frames"]
    if missing and vectors:
        for game in missing:
            find_observation(vectors[0].observation, vectors[0].variables, game.name)
        if options.origin.data_from != "scripted":
            raise InputError(
                f"data from {options.origin.data_from} has no RAM; set `data_from` to scripted, or `observation` to "
                "frames, or make the stores from a recording with RAM first"
            )
    benchmark_stores(options.data, [game for game in games if game not in missing], options.seeds)
    plan = plan_stores(options.data, games, options.origin, num_steps, trainings[0].device)
    for note in plan.notes:
        print(f"note: {note}")
    if plan.games:
        print(plan.describe(), flush=True)
        plan.make()


if __name__ == "__main__":
    run(main, parse=False)
