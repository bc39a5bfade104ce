"""Recipes: how a network learns, apart from its size and its data.

``paper`` trains as Chen et al. 2021 did. ``fast`` adds every ingredient of `INGREDIENTS` and reaches the same
validation loss in a fraction of the time (docs/leaderboard.md).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from atari_dt.config import FRAME_SETTINGS, ModelConfig, TrainingConfig
from atari_dt.method_config import MethodConfig
from replay_data import InputError

RecipeName = Literal["paper", "fast"]

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True)
class Ingredient:
    """Settings of one difference between the paper's recipe and the fast one.

    Attributes:
        model: Fields of `ModelConfig`.
        training: Fields of `TrainingConfig`.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


INGREDIENTS = {
    "schedule": Ingredient(training={"learning_rate": 3e-3, "warmup_fraction": 0.3}),
    "encoder_norm": Ingredient(model={"encoder_norm": True}),
    "frame_differences": Ingredient(model={"frame_differences": True}),
    "small_encoder": Ingredient(model={"encoder_channels": (16, 32, 64)}),
    "limited_returns": Ingredient(model={"limit_returns": True}),
    "rotary": Ingredient(model={"position_encoding": "rotary", "timestep_encoding": "none"}),
}
"""The ingredients of the fast recipe, by name."""


def apply_recipe(recipe: str, model: Config, training: TrainingConfig) -> tuple[Config, TrainingConfig]:
    """Return configs with the ingredients of a recipe.

    Args:
        recipe: ``paper`` or ``fast``, with any number of ingredients added or left out, such as
            ``paper+encoder_norm`` or ``fast-rotary``.
        model: Config of the method under the paper's recipe. Ingredients are of the Decision Transformer and behavior
            cloning; other methods have only the paper's recipe. Those of the convolutions do not apply to vectors.
        training: Config of the training under the paper's recipe.

    Raises:
        InputError: If the recipe or an ingredient does not exist, or the method does not have it.
    """
    base, *changes = re.split(r"(?=[+-])", recipe)
    if base not in ("paper", "fast"):
        raise InputError(f"`recipe` must start with 'paper' or 'fast', not {base!r}")
    names = set(INGREDIENTS if base == "fast" else ())
    for change in changes:
        name = change[1:]
        if name not in INGREDIENTS:
            raise InputError(f"there is no ingredient {name!r}; choose from {', '.join(INGREDIENTS)}")
        (names.add if change[0] == "+" else names.discard)(name)
    if names and not isinstance(model, ModelConfig):
        raise InputError(f"`recipe` must be 'paper' for {model.label}, not {recipe!r}")
    for name, ingredient in INGREDIENTS.items():
        if name in names:
            settings = ingredient.model
            if model.observation != "frames":
                settings = {field: value for field, value in settings.items() if field not in FRAME_SETTINGS}
            model = dataclasses.replace(model, **settings)
            training = dataclasses.replace(training, **ingredient.training)
    return model, training
