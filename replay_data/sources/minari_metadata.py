"""Read what Minari's ``metadata.json`` says about a dataset, and about the environment it was recorded in.

The environment is the JSON of a `gymnasium.envs.registration.EnvSpec`. It is only read: no class that it names is
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replay_data.errors import InputError, ReplayFormatError, summarize_error
from replay_data.json_fields import (
    Scalar,
    parse_json,
    read_count,
    read_field,
    read_list,
    read_object,
    read_optional_field,
    read_probability,
)
from replay_data.recording import Recording
from replay_data.sources.minari_directories import METADATA_FILE, simplify_name
from replay_data.storage.regular_files import read_json_file

FRAME_SKIP = 4  # emulator frames of a step, here as in the DQN-replay dataset

DATA_FORMAT = "hdf5"

REWARD_CLIPPING = "reward_clipping"
"""Field of ``metadata.json`` that `replay_data.minari_export` adds: whether the rewards are clipped to [-1, 1]."""

RECORDING = "recording"
"""Field of ``metadata.json`` that `replay_data.minari_export` adds: how this project recorded the episodes."""

_MAX_TEXT = 500  # characters of a text that goes into a store's metadata


@dataclass(frozen=True)
class MinariEnvironment:
    """The environment of a dataset; None stands for what the dataset does not tell.

    Attributes:
        id: Gymnasium's name, such as ``"ALE/Breakout-v5"``.
        game: ROM id, such as ``"ms_pacman"``.
        frame_skip: Number of emulator frames of a step; ``(low, high)`` if it was random.
        sticky_actions: Probability with which the emulator repeated the previous action.
        full_action_space: Whether actions are indices of all 18 actions, not of the game's minimal set.
        max_pooled: Whether a frame is the maximum of the last two emulator frames.
        ends_at_life_loss: Whether an episode ends when a life is lost.
        clips_rewards: Whether rewards were clipped.
    """

    id: str | None = None
    game: str | None = None
    frame_skip: int | tuple[int, int] | None = None
    sticky_actions: float | None = None
    full_action_space: bool | None = None
    max_pooled: bool | None = None
    ends_at_life_loss: bool = False
    clips_rewards: bool = False

    @classmethod
    def from_json(cls, content: Any) -> MinariEnvironment:
        """Read the content of an environment's specification.

        Raises:
            ValueError, KeyError, TypeError: If it is something else.
        """
        kwargs = read_object(read_object(content).get("kwargs", {}))
        wrappers = {}
        for wrapper in content.get("additional_wrappers", ()):
            name = read_field(wrapper, "name", str)
            wrappers[name] = read_object(wrapper.get("kwargs") or {})
        frame_skip: Any = kwargs.get("frameskip")
        if isinstance(frame_skip, list):
            low, high = read_list(kwargs, "frameskip", int)
            frame_skip = low, high
        elif frame_skip is not None:
            frame_skip = read_count(kwargs, "frameskip", minimum=1)
        preprocessing = wrappers.get("AtariPreprocessing")
        pooled_frames = None
        if preprocessing is not None:
            pooled_frames = read_count({"frame_skip": FRAME_SKIP, **preprocessing}, "frame_skip", minimum=1)
        elif (wrapper := wrappers.get("MaxAndSkipObservation")) is not None:
            pooled_frames = read_count({"skip": FRAME_SKIP, **wrapper}, "skip", minimum=1)
        max_pooled = None if frame_skip in (None, 1) else False
        if pooled_frames is not None and pooled_frames > 1:
            max_pooled = True
            frame_skip = frame_skip * pooled_frames if isinstance(frame_skip, int) else frame_skip
        has_sticky_actions = kwargs.get("repeat_action_probability") is not None
        return cls(
            id=read_field(content, "id", str)[:_MAX_TEXT],
            game=read_optional_field(kwargs, "game", str),
            frame_skip=frame_skip,
            sticky_actions=read_probability(kwargs, "repeat_action_probability") if has_sticky_actions else None,
            full_action_space=read_optional_field(kwargs, "full_action_space", bool),
            max_pooled=max_pooled,
            ends_at_life_loss=bool((preprocessing or {}).get("terminal_on_life_loss", False)),
            clips_rewards="ClipReward" in wrappers,
        )

    def plays(self, game: str) -> bool:
        """Return whether the environment can be that of a game, such as ``"MsPacman"``."""
        if self.game is not None:
            return simplify_name(self.game) == simplify_name(game)
        return self.id is None or simplify_name(self.id.split("/")[-1]).startswith(simplify_name(game))


@dataclass(frozen=True)
class MinariMetadata:
    """Content of ``metadata.json``, as far as it is used.

    Attributes:
        num_episodes: Number of episodes.
        environment: Environment in which the episodes were recorded.
        data_format: Name of the file format.
        num_actions: Size of the action space, or None if the file has no action space.
        reward_clipping: Whether the rewards are clipped to [-1, 1].
        recording: How this project recorded the episodes, or None if it did not.
        texts: Identifier, author and algorithm, as far as they are present.
    """

    num_episodes: int
    environment: MinariEnvironment
    data_format: str = DATA_FORMAT
    num_actions: int | None = None
    reward_clipping: bool = False
    recording: Recording | None = None
    texts: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Any) -> MinariMetadata:
        """Read the content of the file.

        Raises:
            ValueError, KeyError, TypeError: If it is something else.
        """
        env_spec = read_optional_field(content, "env_spec", str)
        environment = MinariEnvironment() if env_spec is None else MinariEnvironment.from_json(parse_json(env_spec))
        action_space = read_optional_field(content, "action_space", str)
        texts = {name: read_optional_field(content, name, str) for name in ("dataset_id", "algorithm_name")}
        texts["author"] = ", ".join(read_list({"author": [], **content}, "author", str)) or None
        recording = content.get(RECORDING)
        return cls(
            num_episodes=read_count(content, "total_episodes"),
            environment=environment,
            data_format=read_optional_field(content, "data_format", str) or DATA_FORMAT,
            num_actions=None if action_space is None else _read_num_actions(parse_json(action_space)),
            reward_clipping=bool(read_optional_field(content, REWARD_CLIPPING, bool)) or environment.clips_rewards,
            recording=None if recording is None else Recording.from_json(recording),
            texts={name: text[:_MAX_TEXT] for name, text in texts.items() if text},
        )


def read_minari_metadata(directory: Path) -> MinariMetadata:
    """Read the metadata of the dataset whose files are in ``directory``.

    Raises:
        ReplayFormatError: If the file is missing or damaged.
    """
    path = directory / METADATA_FILE
    try:
        return MinariMetadata.from_json(read_json_file(path))
    except FileNotFoundError as error:
        raise ReplayFormatError(
            f"{path} is missing, which Minari writes since version 0.5; download the dataset again with a newer Minari"
        ) from error
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        raise ReplayFormatError(
            f"{path} cannot be read as the metadata of a Minari dataset ({summarize_error(error)}); download or copy "
            "it again"
        ) from error


def _read_num_actions(space: Any) -> int:
    """Return the size of an action space.

    Raises:
        ValueError, KeyError, TypeError: If it is not a range of integers from 0.
    """
    space_type, start = read_field(space, "type", str), read_optional_field(space, "start", int)
    if space_type != "Discrete" or start not in (None, 0):
        raise ValueError(f"its actions are of type {space_type[:80]!r}, not 'Discrete' from 0")
    return read_count(space, "n", minimum=1)
