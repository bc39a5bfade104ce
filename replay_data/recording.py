"""How a recording was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replay_data.json_fields import Scalar, convert, read_field, read_list, read_mapping, read_scalars


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
            game=read_field(content, "game", str),
            num_steps=read_field(content, "num_steps", int),
            seed=read_field(content, "seed", int),
            sticky_actions=read_field(content, "sticky_actions", float),
            max_frames=read_field(content, "max_frames", int),
            action_meanings=read_list(content, "action_meanings", str),
            rom_sha256=read_field(content, "rom_sha256", str),
            versions=read_mapping(content, "versions", lambda name, version: convert(version, name, str)),
        )
        if "settings" not in content:
            content = {"settings": _settings_of_version_1(content)}
        return dataclasses.replace(recording, settings=read_scalars(content, "settings"))


def _settings_of_version_1(content: dict[str, Any]) -> dict[str, Any]:
    fields = {each.name for each in dataclasses.fields(Recording)}
    new_names = {"num_games": "num_envs"}
    return {new_names.get(name, name): value for name, value in content.items() if name not in fields}
