"""Names of games, their presets, and published scores."""

from pathlib import Path

import pytest
from ale_py import roms

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import Game, find_game, list_games
from atari_dt.games.presets import GamePreset, describe_deviations, find_preset
from atari_dt.games.published_scores import HUMAN_SCORES, PAPER_SCORES
from replay_data import InputError


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "ms-pacman", "MSPACMAN", "Ms Pacman"])
def test_all_spellings_find_the_same_game(name: str) -> None:
    game = find_game(name)
    assert (game.name, game.rom) == ("MsPacman", "ms_pacman")


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("Breakot", "Breakout"),
        ("qbort", "Qbert"),
        ("SeaQuests", "Seaquest"),
        ("Breakout-v5", "Breakout"),
        ("BreakoutNoFrameskip-v4", "Breakout"),
        ("MsPacmanDeterministic-v4", "MsPacman"),
    ],
)
def test_error_for_unknown_game_suggests_similar_names(typo: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown game '{typo}'; did you mean .*{meant}"):
        find_game(typo)


def test_error_for_unknown_game_suggests_no_game_that_cannot_be_played() -> None:
    with pytest.raises(InputError, match="names look like Breakout"):
        find_game("ALE/Combat-v5")


def test_error_for_unknown_game_without_similar_names_shows_examples() -> None:
    with pytest.raises(InputError, match="unknown game '123'; names look like Breakout"):
        find_game("123")


@pytest.mark.parametrize("name", ["Combat", "joust", "MazeCraze", "maze-craze", "Warlords"])
def test_game_that_would_end_the_process_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"ALE bundles the ROM of [CJMW][A-Za-z]+ but cannot play this game"):
        find_game(name)
    rom = {"combat": "combat", "joust": "joust", "warlords": "warlords"}.get(name.lower(), "maze_craze")
    with pytest.raises(InputError, match="cannot play this game"):
        action_meanings(Game("Name", rom))


def test_every_bundled_game_with_an_implementation_is_offered() -> None:
    """tests/replay_data/sources plays each of the offered games."""
    bundled = {path.stem for path in Path(str(roms.__file__)).parent.glob("*.bin")}
    assert {game.rom for game in list_games()} == bundled - {"combat", "joust", "maze_craze", "warlords"}


def test_roms_directory_without_roms_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pong.bin").write_bytes(b"not Pong")
    for directory, name in ((tmp_path, "Breakout"), (tmp_path, "Pong"), (tmp_path / "missing", "Pong")):
        monkeypatch.setenv("ALE_ROMS_DIR", str(directory))
        with pytest.raises(InputError, match=f"ALE_ROMS_DIR is {directory}, which holds no valid {name.lower()}.bin"):
            find_game(name)


def test_action_sets_are_minimal() -> None:
    assert action_meanings(find_game("Breakout")) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert action_meanings(find_game("Pong")) == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]


@pytest.mark.parametrize("game", ["Breakout", "Qbert", "Seaquest", "Zaxxon", "a game that ALE does not have"])
def test_default_preset_has_the_settings_of_the_paper(game: str) -> None:
    preset = find_preset(game)
    assert preset == GamePreset()
    assert (preset.model.context_length, preset.training.batch_size) == (30, 128)


def test_pong_preset_has_the_settings_of_the_paper() -> None:
    preset = find_preset("Pong")
    model, training = preset.model, preset.training
    assert (model.context_length, training.batch_size) == (50, 512)
    assert (model.num_layers, model.num_heads, model.embed_dim, model.dropout) == (6, 8, 128, 0.1)
    assert (training.learning_rate, training.warmup_tokens, training.epochs) == (6e-4, 512 * 20, 5)


def test_deviations_from_the_paper_are_those_of_the_game() -> None:
    model, training = ModelConfig(context_length=50), TrainingConfig(batch_size=512)
    assert describe_deviations("pong", model, training) == ""
    assert describe_deviations("Breakout", model, None) == "context_length = 50 (paper: 30)"
    described = describe_deviations("Breakout", model, training)
    assert described == "context_length = 50 (paper: 30), batch_size = 512 (paper: 128)"
    model = ModelConfig(conditioning="none")
    training = TrainingConfig(epochs=9, max_updates=7, seed=1, top_percent=10, precision="fp32", log_every=3)
    assert describe_deviations("a game of my own", model, training) == "max_updates = 7 (paper: none)"


def test_published_scores_belong_to_known_games() -> None:
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
def test_random_and_gamer_scores_reproduce_the_published_normalized_scores(
    name: str, published: float, tolerance: float
) -> None:
    """Pong's published scores are rounded to a tenth, which changes the normalized score by a quarter of a percent."""
    paper = find_game(name).paper
    assert paper is not None
    score = 100 * (paper.decision_transformer[0] - paper.random) / (paper.gamer - paper.random)
    assert abs(score - published) < tolerance
