"""The paper's settings for each game."""

from __future__ import annotations

from atari_dt.config import ModelConfig, TrainingConfig

PRESETS = {
    "Breakout": (ModelConfig(), TrainingConfig()),
    "Pong": (ModelConfig(context_length=50), TrainingConfig(batch_size=512)),
    "Qbert": (ModelConfig(), TrainingConfig()),
    "Seaquest": (ModelConfig(), TrainingConfig()),
}
"""The paper's settings for its four games (Chen et al. 2021, appendix A)."""


def preset(game: str) -> tuple[ModelConfig, TrainingConfig]:
    """Return the paper's settings for a game; for one that is not in the paper, those of all its games but Pong."""
    return PRESETS.get(game, (ModelConfig(), TrainingConfig()))
