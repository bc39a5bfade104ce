"""The settings of each game: one `GamePreset` per ROM id."""

from __future__ import annotations

from dataclasses import dataclass, field

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.games.catalogue import find_game
from replay_data import InputError


@dataclass(frozen=True)
class GamePreset:
    """Default settings for training on a game.

    Attributes:
        model: Architecture of the network.
        training: Settings of the training run.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


PRESETS = {
    "breakout": GamePreset(),
    "pong": GamePreset(ModelConfig(context_length=50), TrainingConfig(batch_size=512)),
    "qbert": GamePreset(),
    "seaquest": GamePreset(),
}
"""The paper's settings for its four games (Chen et al. 2021, appendix A), by ROM id."""


def find_preset(game: str) -> GamePreset:
    """Return the preset of a game.

    Games without a preset get the settings that the paper uses for all of its games except Pong.

    Args:
        game: Name of the game, in any spelling that `find_game` accepts; an unknown game has no preset.
    """
    try:
        rom = find_game(game).rom
    except InputError:
        return GamePreset()
    return PRESETS.get(rom, GamePreset())
