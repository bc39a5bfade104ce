"""The settings of the benchmark for each game."""

from __future__ import annotations

import dataclasses
from typing import Literal

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.run_config import EvaluationConfig
from atari_dt.games.catalogue import Game
from atari_dt.games.presets import find_preset
from atari_dt.method_config import VALUE_TRAINING

BenchmarkPreset = Literal["paper", "quick"]

PAPER_EVALUATION = EvaluationConfig(protocol="original", episodes=10)
"""How the paper evaluates any game, apart from its target returns."""


def describe_evaluation_deviations(game: Game, evaluation: EvaluationConfig, conditioned: bool = True) -> str:
    """Return a description of the settings of an evaluation that differ from the paper's, or an empty string.

    Target returns are compared for games of the paper only. Percentile 100 is the multiple 1.

    Args:
        game: Game that was played.
        evaluation: Config of the evaluation.
        conditioned: Whether the model acts under a target return; otherwise target returns are not compared.
    """
    paper = benchmark_preset("paper", game)[2]
    targets = ("return_multiples", "target_returns", "return_percentiles")
    stands_for_multiple = not evaluation.return_multiples and list(evaluation.return_percentiles) == [100]
    if stands_for_multiple and list(paper.return_multiples) == [1]:
        evaluation = dataclasses.replace(evaluation, return_multiples=(1,), return_percentiles=())
    return ", ".join(
        f"{name} = {_format(value)} (paper: {_format(getattr(paper, name))})"
        for name, value in vars(evaluation).items()
        if name not in ("evaluation_seed", "evaluated_checkpoints")
        and ((game.paper and conditioned) or name not in targets)
        and value != getattr(paper, name)
    )


def _format(value: object) -> str:
    return (" ".join(f"{each:g}" for each in value) or "none") if isinstance(value, tuple) else str(value)


def benchmark_preset(name: BenchmarkPreset, game: Game) -> tuple[ModelConfig, TrainingConfig, EvaluationConfig]:
    """Return the configs of network, training and evaluation of Decision Transformer and BC for a game.

    Args:
        name: ``paper`` for the settings of appendix A (5 epochs, 6 layers, K = 30 or 50); ``quick`` for a CPU: 2,000
            updates of small batches, half the layers, K = 10, and the same evaluation.
        game: Game to play. A game of the paper has two target returns: the paper's target return, and the paper's
            return multiple times the dataset's largest return. Any other game has one: the dataset's largest return.
    """
    evaluation = PAPER_EVALUATION
    if game.paper is not None:
        numbers, multiples = (game.paper.target_return,), (game.paper.return_multiple,)
        evaluation = dataclasses.replace(evaluation, return_multiples=multiples, target_returns=numbers)
    if name == "paper":
        preset = find_preset(game.name)
        return preset.model, preset.training, evaluation
    training = TrainingConfig(batch_size=32, max_updates=2000, checkpoint_every=500, validation_fraction=0.05)
    return ModelConfig(context_length=10, num_layers=3, dropout=0.0), training, evaluation


def value_training_preset(name: BenchmarkPreset) -> TrainingConfig:
    """Return the config of the training of value-based methods, the same for all games.

    Args:
        name: ``paper`` for the settings of their authors, with 20 checkpoints in 12.5 million updates; ``quick`` for a
            CPU: 20,000 updates.
    """
    if name == "paper":
        return dataclasses.replace(VALUE_TRAINING, checkpoint_every=625_000, keep_checkpoints=20)
    return dataclasses.replace(
        VALUE_TRAINING, max_updates=20_000, checkpoint_every=5000, keep_checkpoints=4, validation_fraction=0.05
    )
