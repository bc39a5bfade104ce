"""Recipes: how a network learns, apart from its size and its data.

``paper`` trains as the authors of the method did. ``fast`` adds every ingredient of `INGREDIENTS`, or of
`VALUE_INGREDIENTS` for value-based methods, and learns sooner (docs/leaderboard.md, docs/experiments.md).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from atari_dt.config import FRAME_SETTINGS, ModelConfig, TrainingConfig
from atari_dt.method_config import MethodConfig, ValueConfig
from replay_data import InputError

RecipeName = Literal["paper", "fast"]

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True)
class Ingredient:
    """Settings of one difference between the paper's recipe and the fast one.

    Attributes:
        model: Fields of the method's config.
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
"""The ingredients of the fast recipe of the Decision Transformer and behavior cloning, by name."""

VALUE_INGREDIENTS = {
    "schedule": Ingredient(
        training={"learning_rate": 3e-4, "schedule": "cosine", "warmup_fraction": 0.1, "adam_eps": 1e-8}
    ),
    "frequent_targets": Ingredient(model={"target_update_every": 500}),
}
"""The ingredients of the fast recipe of QR-DQN, CQL and REM, by name."""


def ingredients_of(config: MethodConfig) -> Mapping[str, Ingredient]:
    """Return the ingredients of the fast recipe of a method, by name; none if it has only the paper's recipe."""
    if isinstance(config, ModelConfig):
        return INGREDIENTS
    return VALUE_INGREDIENTS if isinstance(config, ValueConfig) else {}


def apply_recipe(recipe: str, model: Config, training: TrainingConfig) -> tuple[Config, TrainingConfig]:
    """Return configs with the ingredients of a recipe.

    Args:
        recipe: ``paper`` or ``fast``, with any number of ingredients added or left out, such as
            ``paper+encoder_norm`` or ``fast-rotary``.
        model: Config of the method under the paper's recipe. Ingredients of the convolutions do not apply to vectors.
        training: Config of the training under the paper's recipe.

    Raises:
        InputError: If the recipe or an ingredient does not exist, or the method does not have it.
    """
    base, *changes = re.split(r"(?=[+-])", recipe)
    if base not in ("paper", "fast"):
        raise InputError(f"`recipe` must start with 'paper' or 'fast', not {base!r}")
    ingredients = ingredients_of(model)
    if recipe != "paper" and not ingredients:
        raise InputError(f"`recipe` must be 'paper' for {model.label}, not {recipe!r}")
    names = set(ingredients if base == "fast" else ())
    for change in changes:
        name = change[1:]
        if name not in ingredients:
            raise InputError(f"there is no ingredient {name!r}; choose from {', '.join(ingredients)}")
        (names.add if change[0] == "+" else names.discard)(name)
    for name, ingredient in ingredients.items():
        if name in names:
            settings = ingredient.model
            if model.observation != "frames":
                settings = {field: value for field, value in settings.items() if field not in FRAME_SETTINGS}
            model = dataclasses.replace(model, **settings)
            training = dataclasses.replace(training, **ingredient.training)
    return model, training
