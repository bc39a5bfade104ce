"""Atari games: their names in the DQN-replay dataset and their ROM ids in ALE."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from atari_dt.games.published_scores import HUMAN_SCORES, PAPER_SCORES, PaperScores
from replay_data import InputError


@dataclass(frozen=True)
class Game:
    """An Atari 2600 game.

    Attributes:
        name: Name in the DQN-replay dataset, such as ``"MsPacman"``.
        rom: ROM id in ALE, such as ``"ms_pacman"``.
    """

    name: str
    rom: str

    @property
    def random_and_human(self) -> tuple[float, float] | None:
        """Scores of a random policy and of a human (see `HUMAN_SCORES`); None for a game outside that table."""
        return HUMAN_SCORES.get(self.rom)

    @property
    def paper(self) -> PaperScores | None:
        """Results of Chen et al. 2021; None for a game that is not in the paper."""
        return PAPER_SCORES.get(self.rom)


def list_games() -> tuple[Game, ...]:
    """Return every game that ALE can play, by ROM id."""
    return tuple(game for game in _bundled_games() if _has_implementation(_bundled_path(game)))


def find_game(name: str) -> Game:
    """Return the game with a given name, such as ``MsPacman``, ``ms_pacman`` or ``ms-pacman``.

    Raises:
        InputError: If ALE has no such game, or cannot play it; the message suggests similar names.
    """
    games = {_letters(game.rom): game for game in _bundled_games()}
    game = games.get(_letters(name))
    if game is None:
        title = re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", name)  # of a Gymnasium environment
        matches = [games[key] for key in difflib.get_close_matches(_letters(title), games, n=3)]
        similar = [match.name for match in matches if _has_implementation(_bundled_path(match))]
        hint = f"did you mean {' or '.join(similar)}?" if similar else "names look like Breakout or MsPacman"
        raise InputError(f"unknown game {name!r}; {hint}")
    bundled_rom(game)
    return game


def bundled_rom(game: Game) -> Path:
    """Return the path of the ROM that ALE bundles for a game.

    Raises:
        InputError: If ALE cannot play the ROM, or the environment variable ``ALE_ROMS_DIR`` names a directory without
            it.
    """
    path = _bundled_path(game)
    if not _has_implementation(path):
        raise InputError(f"ALE bundles the ROM of {game.name} but cannot play this game; choose another")
    return path


def _bundled_games() -> list[Game]:
    from ale_py import roms  # here and below, because reading options must not wait for the emulator

    return [Game("".join(word.capitalize() for word in rom.split("_")), rom) for rom in sorted(roms.get_all_rom_ids())]


def _bundled_path(game: Game) -> Path:
    from ale_py import roms

    try:
        path = roms.get_rom_path(game.rom)
    except OSError as error:
        raise InputError(
            f"the environment variable ALE_ROMS_DIR is {os.environ.get('ALE_ROMS_DIR')}, which holds no valid "
            f"{game.rom}.bin; unset it to use the ROMs that come with ALE"
        ) from error
    assert path is not None, game
    return path


def _has_implementation(path: Path) -> bool:
    """Return whether ALE can play a bundled ROM; when asked to load any other, it ends the process."""
    import ale_py

    return ale_py.ALEInterface.isSupportedROM(path) is not None


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())
