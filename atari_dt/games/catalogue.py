"""Atari games: their names in the DQN-replay dataset and their ROM ids in ALE."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ale_py import roms

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


def find_game(name: str) -> Game:
    """Return the game with a given name, such as ``MsPacman``, ``ms_pacman`` or ``ms-pacman``.

    Raises:
        InputError: If ALE has no such game; the message suggests similar names.
    """
    games = {
        _letters(rom): Game("".join(word.capitalize() for word in rom.split("_")), rom)
        for rom in roms.get_all_rom_ids()
    }
    game = games.get(_letters(name))
    if game is None:
        similar = [games[key].name for key in difflib.get_close_matches(_letters(name), games, n=3)]
        hint = f"did you mean {' or '.join(similar)}?" if similar else "names look like Breakout or MsPacman"
        raise InputError(f"unknown game {name!r}; {hint}")
    return game


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())
