"""Labels that tell the groups of a sweep apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from atari_dt.config import ARITHMETIC_SETTINGS
from atari_dt.experiments.results import RunGroup
from atari_dt.experiments.run_config import RunConfig
from atari_dt.games.presets import default_settings
from atari_dt.method_config import MethodConfig
from atari_dt.recipes import RecipeName, apply_recipe, ingredients_of

_UNLABELED = (
    *("seed", "warmup_tokens", "final_tokens", "epochs", "checkpoint_every", "log_every", "threads"),
    *ARITHMETIC_SETTINGS,
)
"""Settings that follow from other settings, or that may differ within a group."""


def group_labels(groups: Sequence[RunGroup]) -> list[str]:
    """Return a label for each group: its method, and the settings in which groups of the same method differ.

    Where each of these groups has the settings of a recipe, the name of the recipe stands for them.
    """
    settings = []
    for group in groups:
        fields = {name: value for name, value in group.config.flat().items() if name not in ("data", *_UNLABELED)}
        settings.append({**fields, "data": group.data_name, "recipe": _find_recipe(group)})
    labels = []
    for group, group_settings in zip(groups, settings, strict=True):
        rivals = [
            rival_settings
            for rival, rival_settings in zip(groups, settings, strict=True)
            if (rival.game, rival.method) == (group.game, group.method)
        ]
        has_recipes = all(each["recipe"] for each in rivals)
        hidden = _recipe_settings(group.config.model) if has_recipes else {"recipe"}
        differing = [
            name
            for name, value in group_settings.items()
            if name not in hidden and any(each[name] != value for each in rivals)
        ]
        shown = [
            f"{'K' if name == 'context_length' else name} = {_format_setting(group_settings[name])}"
            for name in differing
        ]
        labels.append(", ".join([group.method, *shown]))
    return labels


def _format_setting(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value) or "none"
    return str(value)


def _find_recipe(group: RunGroup) -> RecipeName | None:
    """Return the recipe whose settings the runs of a group have.

    None if they mix settings of several, or their method has no choice of recipes.
    """
    model, settings = group.config.model, group.config.flat()
    names = _recipe_settings(model)
    if not names:
        return None
    defaults = default_settings(model.method, group.game.name, model.observation)
    for recipe in get_args(RecipeName):
        expected = RunConfig(Path(), *apply_recipe(recipe, *defaults)).flat()
        if all(settings[name] == expected[name] for name in names):
            return cast(RecipeName, recipe)
    return None


def _recipe_settings(model: MethodConfig) -> set[str]:
    """Return the names of the settings in which recipes of a method differ."""
    return {name for each in ingredients_of(model).values() for name in (*each.model, *each.training)}
