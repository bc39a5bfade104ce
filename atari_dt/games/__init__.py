"""Atari games: names, the paper's settings, and published scores."""

from atari_dt.games.catalogue import Game, find_game, list_games
from atari_dt.games.presets import GamePreset, default_settings, find_preset
from atari_dt.games.published_scores import HUMAN_SCORES, PAPER_SCORES, PaperScores

__all__ = [
    "HUMAN_SCORES",
    "PAPER_SCORES",
    "Game",
    "GamePreset",
    "PaperScores",
    "default_settings",
    "find_game",
    "find_preset",
    "list_games",
]
