"""How a recording was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replay_data.json_fields import (
    Scalar,
    check_range,
    convert,
    read_count,
    read_field,
    read_list,
    read_mapping,
    read_probability,
    read_scalars,
)

MAX_ACTIONS = 256  # actions are stored in uint8; ALE's games have at most 18


@dataclass(frozen=True)
class Recording:
    """Player, environment and settings of a recording: ``recording.json``, and part of every buffer's sidecar.

    Attributes:
        agent: Name of the player, such as ``"scripted"`` or ``"q_learning"``.
        game: Name of the game.
        num_steps: Number of rows of the log, padding included.
        seed: Seed of the player and the environments.
        sticky_actions: Probability with which the environment repeats the previous action.
        max_frames: Number of emulator frames after which an episode is truncated.
        action_meanings: Name of each action index.
        rom_sha256: SHA-256 of the ROM, hexadecimal.
        settings: Settings of the player, by name.
        versions: Version of each software package, by name.
    """

    agent: str
    game: str
    num_steps: int
    seed: int
    sticky_actions: float
    max_frames: int
    action_meanings: tuple[str, ...]
    rom_sha256: str
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the trained policies that played in turn, settings ``policy_0`` and so on; empty for other players.

        Each is a file's name, a repository with its commit, or a function.
        """
        names: list[str] = []
        while (name := self.settings.get(f"policy_{len(names)}")) is not None:
            names.append(str(name))
        return tuple(names)

    def flat(self) -> dict[str, object]:
        """Return all fields by name, with the settings beside the other fields."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "settings"}
        return {**fields, **self.settings}

    def to_json(self) -> dict[str, Any]:
        """Return the content that `from_json` reads."""
        return {**dataclasses.asdict(self), "action_meanings": list(self.action_meanings)}

    @classmethod
    def from_json(cls, content: Any) -> Recording:
        """Read the content that `to_json` returned, or a recording of format version 1, where settings are not nested.

        Raises:
            ValueError, KeyError, TypeError: If the content is something else.
        """
        recording = cls(
            agent=read_field(content, "agent", str),
            game=check_game_name(read_field(content, "game", str)),
            num_steps=read_count(content, "num_steps"),
            seed=read_count(content, "seed"),
            sticky_actions=read_probability(content, "sticky_actions"),
            max_frames=read_count(content, "max_frames"),
            action_meanings=read_action_meanings(content),
            rom_sha256=read_field(content, "rom_sha256", str),
            versions=read_mapping(content, "versions", lambda name, version: convert(version, name, str)),
        )
        if "settings" not in content:
            content = {"settings": _settings_of_version_1(content)}
        return dataclasses.replace(recording, settings=read_scalars(content, "settings"))


def check_game_name(name: str) -> str:
    """Return the name of a game if it can be one: printable, and no path or pattern when it becomes part of a path.

    Whether ALE has the game is another question.

    Raises:
        ValueError: If it cannot be the name of a game.
    """
    if not 1 <= len(name) <= 64 or not name.isprintable() or name.startswith(".") or any(c in name for c in "/\\:*?[]"):
        raise ValueError(f"game is {name[:64]!r}, which is not the name of a game")
    return name


def read_action_meanings(content: Any) -> tuple[str, ...]:
    """Return the field ``action_meanings`` of an object: the name of each action index.

    Raises:
        ValueError, KeyError, TypeError: If it is not a list of 1 to `MAX_ACTIONS` strings.
    """
    meanings = read_list(content, "action_meanings", str)
    check_range("the number of action_meanings", len(meanings), 1, MAX_ACTIONS)
    return meanings


def _settings_of_version_1(content: dict[str, Any]) -> dict[str, Any]:
    fields = {each.name for each in dataclasses.fields(Recording)}
    new_names = {"num_games": "num_envs"}
    return {new_names.get(name, name): value for name, value in content.items() if name not in fields}
