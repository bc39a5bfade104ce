"""Names of the files of the JAT dataset, and the record of their download.

`JatDownload` is ``download.json``, which ``scripts/download_replay.py`` writes beside the files of a game.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_data.errors import InputError, ReplayFormatError, summarize_error
from replay_data.json_fields import convert, read_field, read_format_version, read_mapping
from replay_data.storage.atomic import atomic_write
from replay_data.storage.regular_files import read_json_file

REPOSITORY = "jat-project/jat-dataset"
"""Repository on the Hugging Face Hub, of type dataset."""

_GAMES = """
Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling Boxing Breakout Centipede
ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk Enduro FishingDerby Freeway Frostbite Gopher Gravitar Hero
IceHockey Jamesbond Kangaroo Krull KungFuMaster MontezumaRevenge MsPacman NameThisGame Phoenix Pitfall Pong PrivateEye
Qbert Riverraid RoadRunner Robotank Seaquest Skiing Solaris SpaceInvaders StarGunner Surround Tennis TimePilot Tutankham
UpNDown Venture VideoPinball WizardOfWor YarsRevenge Zaxxon
"""

GAMES = tuple(_GAMES.split())
"""The 57 games of the dataset, as `atari_dt.games.catalogue` spells them."""

DOWNLOAD_FILE = "download.json"

FORMAT_VERSION = 1

_FILE_NAME = re.compile(r"(train|test)-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?\.parquet")


def directory_name(game: str) -> str:
    """Return the name of a game's directory in the dataset, such as ``"atari-mspacman"``.

    Args:
        game: Name of the game, such as ``"MsPacman"``.

    Raises:
        InputError: If the dataset lacks the game.
    """
    if game not in GAMES:
        raise InputError(f"the JAT dataset has no {game}; it has the 57 games {', '.join(GAMES)}")
    return f"atari-{game.lower()}"


@dataclass(frozen=True, order=True)
class ShardName:
    """The name of one of the files that hold a game. Those of the training split come first.

    Attributes:
        is_test: Whether the file belongs to the test split, a random tenth of the episodes.
        index: Index of the file in its split.
        total: Number of files of the split.
        upload: Hash in the name, which the older files of the repository have; empty in newer ones.
    """

    is_test: bool
    index: int
    total: int
    upload: str

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """Return the parts of a file's name; None for a file of another kind."""
        match = _FILE_NAME.fullmatch(name)
        if match is None or int(match[2]) >= int(match[3]):
            return None
        return cls(match[1] == "test", int(match[2]), int(match[3]), match[4] or "")


@dataclass(frozen=True)
class JatDownload:
    """Where the files of a game came from.

    Attributes:
        revision: Commit of the repository.
        sha256: SHA-256 of every file of the game, by name, in hexadecimal digits, whether it was downloaded or not.
    """

    revision: str
    sha256: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files: those of the training split, then those of the test split, each by index."""
        shards = [(shard, name) for name in self.sha256 if (shard := ShardName.parse(name))]
        return tuple(name for _, name in sorted(shards))

    def save(self, directory: Path) -> None:
        """Write the record beside the files.

        Raises:
            OSError: If it cannot be written.
        """
        content = {"format_version": FORMAT_VERSION, "repository": REPOSITORY, **vars(self)}
        atomic_write(directory / DOWNLOAD_FILE, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> JatDownload | None:
        """Read the record beside the files of a game; return None if there is none.

        Raises:
            ReplayFormatError: If the file is damaged.
        """
        path = directory / DOWNLOAD_FILE
        try:
            return cls.from_json(read_json_file(path))
        except FileNotFoundError:
            return None
        except (InputError, ValueError, KeyError, TypeError) as error:
            raise ReplayFormatError(
                f"{path} is damaged ({summarize_error(error)}); delete it, and download the files again"
            ) from error

    @classmethod
    def from_json(cls, content: Any) -> JatDownload:
        """Read the content of the file.

        Raises:
            ValueError, KeyError, TypeError: If it is something else.
        """
        read_format_version(content, FORMAT_VERSION)
        if (repository := read_field(content, "repository", str)) != REPOSITORY:
            raise ValueError(f"its repository is {repository[:80]!r}, not {REPOSITORY!r}")
        sha256 = read_mapping(content, "sha256", lambda name, value: convert(value, repr(name[:80]), str))
        if others := [name for name in sha256 if not ShardName.parse(name)]:
            raise ValueError(f"{others[0][:80]!r} is no file of the dataset")
        return cls(read_field(content, "revision", str), sha256)
