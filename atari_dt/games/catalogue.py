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
        name: as the DQN-replay dataset spells it, such as ``"MsPacman"``.
        rom: ALE's ROM id, such as ``"ms_pacman"``.
    """

    name: str
    rom: str

    @property
    def random_and_human(self) -> tuple[float, float] | None:
        """Points of a random player and of a human one (see `HUMAN_SCORES`); None for a game outside that table."""
        return HUMAN_SCORES.get(self.rom)

    @property
    def paper(self) -> PaperScores | None:
        """What Chen et al. 2021 report; None for a game that is not in the paper."""
        return PAPER_SCORES.get(self.rom)


def find_game(name: str) -> Game:
    """Return the game that a person means; ``MsPacman``, ``ms_pacman`` and ``ms-pacman`` are one.

    Raises:
        InputError: if ALE has no such game; the message suggests near names.
    """
    games = {
        _letters(rom): Game("".join(word.capitalize() for word in rom.split("_")), rom)
        for rom in roms.get_all_rom_ids()
    }
    game = games.get(_letters(name))
    if game is None:
        near = [games[key].name for key in difflib.get_close_matches(_letters(name), games, n=3)]
        hint = f"did you mean {' or '.join(near)}?" if near else "names look like Breakout or MsPacman"
        raise InputError(f"unknown game {name!r}; {hint}")
    return game


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
