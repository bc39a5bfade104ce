"""The settings of each game: one `GamePreset` per ROM id."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from atari_dt.config import ARITHMETIC_SETTINGS, MethodName, ModelConfig, TrainingConfig
from atari_dt.games.catalogue import find_game
from atari_dt.method_config import DEFAULT_TRAINING, VALUE_TRAINING, MethodConfig, default_config
from replay_data import InputError
from replay_data.observation import ObservationKind


@dataclass(frozen=True)
class GamePreset:
    """Default settings for training a Decision Transformer or behavior cloning on a game.

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


def default_settings(
    method: MethodName, game: str | None = None, observation: ObservationKind = "frames"
) -> tuple[MethodConfig, TrainingConfig]:
    """Return the default configs of a method and of its training on a game.

    Args:
        method: Name of the method.
        game: Name of the game, as in `find_preset`; None for a game without a preset.
        observation: What the Decision Transformer or behavior cloning observes; recipes depend on it. Other methods
            keep their default.
    """
    config = default_config(method)
    if not isinstance(config, ModelConfig):
        return config, DEFAULT_TRAINING.get(method, VALUE_TRAINING)
    preset = GamePreset() if game is None else find_preset(game)
    model = dataclasses.replace(preset.model, conditioning=config.conditioning, observation=observation)
    return model, preset.training


def describe_deviations(game: str, config: MethodConfig, training: TrainingConfig | None) -> str:
    """Return a description of the settings that differ from those of the paper's authors, or an empty string.

    Args:
        game: Name of the game, as in `find_preset`.
        config: Config of the method.
        training: Config of the training; None if unknown.
    """
    paper_config, paper_training = default_settings(config.method, game)
    paper = vars(paper_config) | vars(paper_training)
    settings = vars(config) | (vars(training) if training is not None else {})
    ignored = _NOT_COMPARED | ({"epochs"} if settings.get("max_updates") is not None else set())
    return ", ".join(
        f"{name} = {_format(value)} (paper: {_format(paper[name])})"
        for name, value in settings.items()
        if name not in ignored and value != paper[name]
    )


def _format(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple) and isinstance(value[0], str):
        return " ".join(value)
    return str(value)
