import pytest

from atari_dt.environment import action_meanings
from atari_dt.games import find_game
from replay_data import InputError


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "ms-pacman", "MSPACMAN", "Ms Pacman"])
def test_every_spelling_is_one_game(name: str) -> None:
    game = find_game(name)
    assert (game.name, game.rom) == ("MsPacman", "ms_pacman")


@pytest.mark.parametrize(("typo", "meant"), [("Breakot", "Breakout"), ("qbort", "Qbert"), ("SeaQuests", "Seaquest")])
def test_an_unknown_game_suggests_near_names(typo: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown game '{typo}'; did you mean .*{meant}"):
        find_game(typo)


def test_a_name_like_no_other_is_refused() -> None:
    with pytest.raises(InputError, match="unknown game '123'; names look like Breakout"):
        find_game("123")


def test_action_sets_are_the_minimal_ones() -> None:
    assert action_meanings(find_game("Breakout")) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert action_meanings(find_game("Pong")) == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
