import pytest
from ale_py import roms

from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import find_game
from atari_dt.games.published_scores import HUMAN_SCORES, PAPER_SCORES
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


def test_scores_of_others_are_of_games_that_there_are() -> None:
    known = set(roms.get_all_rom_ids())
    assert len(HUMAN_SCORES) == 57
    assert set(HUMAN_SCORES) <= known
    assert set(PAPER_SCORES) <= set(HUMAN_SCORES)
    assert find_game("MsPacman").random_and_human == (307.3, 6951.6)
    assert find_game("Carnival").random_and_human is None
    assert find_game("Alien").paper is None


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [("Breakout", 267.5, 0.1), ("Qbert", 15.4, 0.1), ("Pong", 106.1, 0.5), ("Seaquest", 2.5, 0.1)],
)
def test_the_papers_constants_give_its_normalized_scores(name: str, published: float, tolerance: float) -> None:
    """Pong's published points are rounded to a tenth, which is a quarter of a percent there."""
    paper = find_game(name).paper
    assert paper is not None
    score = 100 * (paper.decision_transformer[0] - paper.random) / (paper.gamer - paper.random)
    assert abs(score - published) < tolerance
