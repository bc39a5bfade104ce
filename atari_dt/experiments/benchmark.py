"""The paper's benchmark (Chen et al. 2021, table 1): its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from atari_dt.config import Conditioning, ModelConfig, TrainingConfig, preset
from atari_dt.experiments.run import EvaluationConfig, RunConfig, limited
from atari_dt.games import Game
from replay_data import InputError, TrajectoryStore

BenchmarkPreset = Literal["paper", "quick"]


def benchmark_preset(name: BenchmarkPreset, game: Game) -> tuple[ModelConfig, TrainingConfig, EvaluationConfig]:
    """Network, training and evaluation of a game.

    Args:
        name: ``paper`` (appendix A: 5 epochs, 6 layers, K = 30 or 50) or ``quick``, for a CPU: 2,000 updates of small
            batches, half the layers, K = 10; the evaluation is the same.
        game: what is played. Its target returns are the paper's number, and the multiple of the data's largest return
            that the number was of the paper's data; of other games than the paper's, the largest return.
    """
    if game.paper is None:
        targets = EvaluationConfig(protocol="original", episodes=10)
    else:
        numbers, multiples = (game.paper.target_return,), (game.paper.return_multiple,)
        targets = EvaluationConfig(multiples, numbers, protocol="original", episodes=10)
    if name == "paper":
        return *preset(game.name), targets
    training = TrainingConfig(batch_size=32, max_updates=2000, checkpoint_every=500, validation_fraction=0.05)
    return ModelConfig(context_length=10, num_layers=3, dropout=0.0), training, targets


def benchmark_stores(data: Path, games: Sequence[Game], seeds: Sequence[int]) -> dict[tuple[str, int], TrajectoryStore]:
    """Open the data of each game and seed: ``data/GAME/SEED`` where each seed has a draw of its own, as in the paper,
    else ``data/GAME``.

    Raises:
        InputError: if one is not there, or of another game.
    """
    stores = {}
    for game in games:
        for seed in seeds:
            own, common = data / game.name / str(seed), data / game.name
            if not own.is_dir() and not (common / "metadata.json").is_file():
                raise InputError(
                    f"there is no data of {game.name} in {data}; make it with scripts/build_dataset.py --out {common}, "
                    f"or a draw for each seed with --out {own} and so on"
                )
            store = TrajectoryStore.open(own if own.is_dir() else common)
            if store.game != game.name:
                raise InputError(f"{store.path} holds data of {store.game}, not of {game.name}")
            stores[game.name, seed] = store
    return stores


def benchmark_runs(
    bases: Mapping[str, RunConfig],
    stores: Mapping[tuple[str, int], TrajectoryStore],
    top_percents: Sequence[float],
) -> dict[str, RunConfig]:
    """The runs of every game, method and seed, by name.

    Args:
        bases: of each game, what its runs have in common.
        stores: data of each game and seed.
        top_percents: of the steps, for %BC; none leaves it out.

    Raises:
        InputError: if a percentage is out of range.
    """
    methods: dict[str, tuple[Conditioning, float]] = {"DT": ("return", 100.0), "BC": ("none", 100.0)}
    methods |= {f"{percent:g}BC": ("none", percent) for percent in top_percents}
    runs = {}
    for (game, seed), store in stores.items():
        base = bases[game]
        for name, (conditioning, percent) in methods.items():
            training = dataclasses.replace(base.training, seed=seed, top_percent=percent)
            runs[f"{game}-{name}-seed{seed}"] = dataclasses.replace(
                base,
                data=store.path.resolve(),
                model=dataclasses.replace(base.model, conditioning=conditioning),
                training=limited(training, base.model.context_length),
            )
    return runs
