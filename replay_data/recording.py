"""Who played a recording, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Recording:
    """Who played a recording, and how: ``recording.json``, and part of every buffer's sidecar.

    Attributes:
        agent: name of the player, such as ``"scripted"`` or ``"q_learning"``.
        game: name of the game.
        num_steps: rows of the log, padding included.
        seed: of the player and the environments.
        sticky_actions: probability with which the game repeats the previous action.
        max_frames: emulator frames after which an episode is truncated.
        action_meanings: name of each action index.
        rom_sha256: hexadecimal digest of the ROM.
        settings: of the player, by name.
        versions: of the software, by package.
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
        """Return every field by name, the settings among them."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "settings"}
        return {**fields, **self.settings}

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**dataclasses.asdict(self), "action_meanings": list(self.action_meanings)}

    @classmethod
    def from_json(cls, content: Any) -> Recording:
        """Read what `to_json` returned, or a recording of format version 1, whose settings are not nested.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if it is something else.
        """
        settings = content.get("settings")
        if settings is None:
            known = {each.name for each in dataclasses.fields(cls)}
            settings = {_SETTINGS_OF_VERSION_1.get(k, k): v for k, v in content.items() if k not in known}
        return cls(
            agent=str(content["agent"]),
            game=str(content["game"]),
            num_steps=int(content["num_steps"]),
            seed=int(content["seed"]),
            sticky_actions=float(content["sticky_actions"]),
            max_frames=int(content["max_frames"]),
            action_meanings=tuple(map(str, content["action_meanings"])),
            rom_sha256=str(content["rom_sha256"]),
            settings=dict(settings),
            versions=dict(content.get("versions", {})),
        )


_SETTINGS_OF_VERSION_1 = {"num_games": "num_envs"}
