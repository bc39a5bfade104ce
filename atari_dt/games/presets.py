"""The settings of each game: one `GamePreset` per ROM id."""

from __future__ import annotations

from dataclasses import dataclass, field

from atari_dt.config import ARITHMETIC_SETTINGS, ModelConfig, TrainingConfig
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


_NOT_COMPARED = {
    *("conditioning", "top_percent", "seed", "log_every", "checkpoint_every", "keep_checkpoints"),
    *ARITHMETIC_SETTINGS,
}
"""Settings that tell the paper's methods and seeds apart, or that do not change what is learned."""


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


def describe_deviations(game: str, model: ModelConfig, training: TrainingConfig | None) -> str:
    """Return a description of the settings that differ from the paper's, or an empty string.

    Args:
        game: Name of the game, as in `find_preset`.
        model: Config of the network.
        training: Config of the training; None if unknown.
    """
    preset = find_preset(game)
    paper = vars(preset.model) | vars(preset.training)
    settings = vars(model) | (vars(training) if training is not None else {})
    ignored = _NOT_COMPARED | ({"epochs"} if settings.get("max_updates") is not None else set())
    return ", ".join(
        f"{name} = {_format(value)} (paper: {_format(paper[name])})"
        for name, value in settings.items()
        if name not in ignored and value != paper[name]
    )


def _format(value: object) -> str:
    return "none" if value is None else str(value)
