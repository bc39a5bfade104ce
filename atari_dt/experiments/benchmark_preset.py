"""The settings of the benchmark for each game."""

from __future__ import annotations

from typing import Literal

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.run_config import EvaluationConfig
from atari_dt.games.catalogue import Game
from atari_dt.games.presets import find_preset

BenchmarkPreset = Literal["paper", "quick"]


def benchmark_preset(name: BenchmarkPreset, game: Game) -> tuple[ModelConfig, TrainingConfig, EvaluationConfig]:
    """Return the configs of network, training and evaluation for a game.

    Args:
        name: ``paper`` for the settings of appendix A (5 epochs, 6 layers, K = 30 or 50); ``quick`` for a CPU: 2,000
            updates of small batches, half the layers, K = 10, and the same evaluation.
        game: Game to play. A game of the paper has two target returns: the paper's target return, and the paper's
            return multiple times the dataset's largest return. Any other game has one: the dataset's largest return.
    """
    if game.paper is None:
        evaluation = EvaluationConfig(protocol="original", episodes=10)
    else:
        numbers, multiples = (game.paper.target_return,), (game.paper.return_multiple,)
        evaluation = EvaluationConfig(multiples, numbers, protocol="original", episodes=10)
    if name == "paper":
        preset = find_preset(game.name)
        return preset.model, preset.training, evaluation
    training = TrainingConfig(batch_size=32, max_updates=2000, checkpoint_every=500, validation_fraction=0.05)
    return ModelConfig(context_length=10, num_layers=3, dropout=0.0), training, evaluation
