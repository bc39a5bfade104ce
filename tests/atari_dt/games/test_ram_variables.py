"""The table of RAM variables against the emulator, and what is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from ale_py.roms import get_all_rom_ids

from atari_dt.collection.scripted import POLICIES
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.games.catalogue import find_game
from atari_dt.games.ram_variables import _ADDRESSES, find_observation, ram_variables, require_observation
from replay_data import InputError
from replay_data.observation import FRAMES, RAM
from replay_data.testing import write_random_store


def test_every_game_of_the_table_exists_and_every_variable_is_a_byte_of_the_ram() -> None:
    assert len(_ADDRESSES) == 24  # as in the source
    for rom in _ADDRESSES:
        assert rom in get_all_rom_ids()
        variables = ram_variables(rom)
        assert variables
        assert all(0 <= address < 128 for address in variables.values())
        assert find_observation("variables", (), rom).names == tuple(variables)


def play(game: str, steps: int) -> tuple[list[npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.int64]]]:
    """Play with the scripted policy; return the screens, and each variable at the same moments."""
    env = AleEnv(find_game(game), EnvironmentConfig(sticky_actions=0), seed=0)
    screens, rams, action = [], [env.ram.astype(np.int64)] * 2, 0
    for _ in range(steps):
        screens.append(env.screen)
        action = POLICIES[game](rams[-1], rams[-2], action)
        env.step(action)
        rams.append(env.ram.astype(np.int64))
    ram = np.stack(rams[1:-1])
    spec = find_observation("variables", (), game)
    values = spec.select(ram.astype(np.uint8)).astype(np.int64)
    return screens, {name: values[:, index] for index, name in enumerate(spec.names)}


def find_corners(
    screens: list[npt.NDArray[np.uint8]], color: tuple[int, int, int], rows: slice, columns: slice
) -> npt.NDArray[np.int64]:
    """Return x and y of the upper left corner of what has a color in a part of each screen; -1 where there is none."""
    corners = np.full((len(screens), 2), -1)
    for index, screen in enumerate(screens):
        ys, xs = np.nonzero((screen[rows, columns] == color).all(-1))
        if len(ys):
            corners[index] = xs.min() + columns.start, ys.min() + rows.start
    return corners


def assert_follows(variable: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]) -> None:
    """Check that a variable is a pixel position plus a constant, at all moments at which it is on the screen.

    At the border of the searched part of the screen, only a part of the ball's four rows is seen.
    """
    offsets = (variable - pixels)[pixels >= 0]
    assert len(offsets) > 60
    assert np.ptp(variable[pixels >= 0]) > 40  # it moves
    assert np.abs(offsets - np.median(offsets)).max() <= 3


def test_breakouts_ball_and_paddle_are_where_the_screen_shows_them() -> None:
    screens, variables = play("Breakout", 150)
    red = (200, 72, 72)
    ball = find_corners(screens, red, slice(95, 187), slice(8, 152))  # between the bricks and the paddle
    assert_follows(variables["ball_x"], ball[:, 0])
    assert_follows(variables["ball_y"], ball[:, 1])
    paddle = find_corners(screens, red, slice(189, 193), slice(8, 152))[:, 0]
    unclear = (paddle == 8) | (variables["ball_y"] > 174)  # it reaches into the wall, or the ball is beside it
    assert_follows(variables["player_x"], np.where(unclear, -1, paddle))


def test_pongs_ball_and_paddles_are_where_the_screen_shows_them() -> None:
    screens, variables = play("Pong", 250)
    field = slice(36, 192), slice(0, 160)
    ball, player, enemy = (
        find_corners(screens, color, *field) for color in ((236, 236, 236), (92, 186, 92), (213, 130, 74))
    )
    assert_follows(variables["ball_x"], ball[:, 0])
    assert_follows(variables["ball_y"], ball[:, 1])
    cut_off = 40  # a paddle that reaches beyond the upper edge of the field shows only a part of itself
    assert_follows(variables["player_y"], np.where(player[:, 1] > cut_off, player[:, 1], -1))
    assert_follows(variables["enemy_y"], np.where(enemy[:, 1] > cut_off, enemy[:, 1], -1))


def test_an_observation_is_found_by_its_kind_and_the_game() -> None:
    assert find_observation("frames", (), "Alien") is FRAMES
    assert find_observation("ram", (), "Alien") is RAM
    spec = find_observation("variables", ("player_x", "ball_x"), "breakout")
    assert (spec.names, spec.addresses) == (("player_x", "ball_x"), (72, 99))
    blocks = ram_variables("Breakout")
    assert [blocks[f"block_bit_map_{index}"] for index in range(30)] == list(range(30))


@pytest.mark.parametrize(
    ("names", "game", "message"),
    [
        ((), "Alien", "there is no table of variables for Alien, only for Asteroids, .*set `observation` to ram"),
        (("ball",), "Pong", "Pong has no variable 'ball'; `variables` may be player_y, player_x, "),
        (("ball_x", "ball_x"), "Pong", "`variables` names a variable twice"),
        ((), "Zork", "Zork"),
    ],
)
def test_variables_that_do_not_exist_are_refused(names: tuple[str, ...], game: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        find_observation("variables", names, game)
    assert "\n" not in str(error.value)


def test_a_store_must_have_ram_only_if_it_is_observed(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stores")
    without = write_random_store(path / "without", [3])
    assert require_observation("frames", (), without) is FRAMES
    for kind in ("ram", "variables"):
        with pytest.raises(InputError, match="without has no RAM; record"):
            require_observation(kind, (), without)
    assert require_observation("ram", (), write_random_store(path / "with", [3], ram=True)) is RAM
