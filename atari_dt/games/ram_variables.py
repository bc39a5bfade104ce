"""Named variables in the emulator's RAM: positions of balls, players and enemies, counters and scores.

The addresses are those of the Atari Annotated RAM Interface (Anand et al. 2019, arXiv:1906.08226, file
``atariari/benchmark/ram_annotations.py`` of github.com/mila-iqia/atari-representation-learning). An array of n bytes
gives n variables, ``name_0`` to ``name_{n-1}``, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from atari_dt.games.catalogue import find_game
from replay_data import InputError, TrajectoryStore
from replay_data.observation import FRAMES, RAM, ObservationKind, ObservationSpec, variables_spec

_ADDRESSES: dict[str, dict[str, int | Sequence[int]]] = {
    "asteroids": {
        "enemy_asteroids_y": (3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19),
        "enemy_asteroids_x": (21, 22, 23, 24, 25, 26, 27, 30, 31, 32, 33, 34, 35, 36, 37),
        "player_x": 73,
        "player_y": 74,
        "num_lives_direction": 60,
        "player_score_high": 61,
        "player_score_low": 62,
        "player_missile_x1": 83,
        "player_missile_x2": 84,
        "player_missile_y1": 86,
        "player_missile_y2": 87,
        "player_missile1_direction": 89,
        "player_missile2_direction": 90,
    },
    "battle_zone": {
        "blue_tank_facing_direction": 46,
        "blue_tank_size_y": 47,
        "blue_tank_x": 48,
        "blue_tank2_facing_direction": 52,
        "blue_tank2_size_y": 53,
        "blue_tank2_x": 54,
        "num_lives": 58,
        "missile_y": 105,
        "compass_needles_angle": 84,
        "angle_of_tank": 4,
        "left_tread_position": 59,
        "right_tread_position": 60,
        "crosshairs_color": 108,
        "score": 29,
    },
    "berzerk": {
        "player_x": 19,
        "player_y": 11,
        "player_direction": 14,
        "player_missile_x": 22,
        "player_missile_y": 23,
        "player_missile_direction": 21,
        "robot_missile_direction": 26,
        "robot_missile_x": 29,
        "robot_missile_y": 30,
        "num_lives": 90,
        "robots_killed_count": 91,
        "game_level": 92,
        "enemy_evilOtto_x": 46,
        "enemy_evilOtto_y": 89,
        "enemy_robots_x": range(65, 73),
        "enemy_robots_y": range(56, 65),
        "player_score": range(93, 96),
    },
    "bowling": {
        "ball_x": 30,
        "ball_y": 41,
        "player_x": 29,
        "player_y": 40,
        "frame_number_display": 36,
        "pin_existence": range(57, 67),
        "score": 33,
    },
    "boxing": {
        "player_x": 32,
        "player_y": 34,
        "enemy_x": 33,
        "enemy_y": 35,
        "enemy_score": 19,
        "clock": 17,
        "player_score": 18,
    },
    "breakout": {
        "ball_x": 99,
        "ball_y": 101,
        "player_x": 72,
        "blocks_hit_count": 77,
        "block_bit_map": range(30),
        "score": 84,
    },
    "demon_attack": {
        "level": 62,
        "player_x": 22,
        "enemy_x1": 17,
        "enemy_x2": 18,
        "enemy_x3": 19,
        "missile_y": 21,
        "enemy_y1": 69,
        "enemy_y2": 70,
        "enemy_y3": 71,
        "num_lives": 114,
    },
    "freeway": {
        "player_y": 14,
        "score": 103,
        "enemy_car_x": range(108, 118),
    },
    "frostbite": {
        "top_row_iceflow_x": 34,
        "second_row_iceflow_x": 33,
        "third_row_iceflow_x": 32,
        "fourth_row_iceflow_x": 31,
        "enemy_bear_x": 104,
        "num_lives": 76,
        "igloo_blocks_count": 77,
        "enemy_x": range(84, 88),
        "player_x": 102,
        "player_y": 100,
        "player_direction": 4,
        "score": range(72, 75),
    },
    "hero": {
        "player_x": 27,
        "player_y": 31,
        "power_meter": 43,
        "room_number": 28,
        "level_number": 117,
        "dynamite_count": 50,
        "score": range(56, 58),
    },
    "montezuma_revenge": {
        "room_number": 3,
        "player_x": 42,
        "player_y": 43,
        "player_direction": 52,
        "enemy_skull_x": 47,
        "enemy_skull_y": 46,
        "key_monster_x": 44,
        "key_monster_y": 45,
        "level": 57,
        "num_lives": 58,
        "items_in_inventory_count": 61,
        "room_state": 62,
        "score_0": 19,
        "score_1": 20,
        "score_2": 21,
    },
    "ms_pacman": {
        "enemy_sue_x": 6,
        "enemy_inky_x": 7,
        "enemy_pinky_x": 8,
        "enemy_blinky_x": 9,
        "enemy_sue_y": 12,
        "enemy_inky_y": 13,
        "enemy_pinky_y": 14,
        "enemy_blinky_y": 15,
        "player_x": 10,
        "player_y": 16,
        "fruit_x": 11,
        "fruit_y": 17,
        "ghosts_count": 19,
        "player_direction": 56,
        "dots_eaten_count": 119,
        "player_score": 120,
        "num_lives": 123,
    },
    "pitfall": {
        "player_x": 97,
        "player_y": 105,
        "enemy_logs_x": 98,
        "enemy_scorpion_x": 99,
        "bottom_of_rope_y": 18,
        "clock_sec": 89,
        "clock_min": 88,
    },
    "pong": {
        "player_y": 51,
        "player_x": 46,
        "enemy_y": 50,
        "enemy_x": 45,
        "ball_x": 49,
        "ball_y": 54,
        "enemy_score": 13,
        "player_score": 14,
    },
    "private_eye": {
        "player_x": 63,
        "player_y": 86,
        "room_number": 92,
        "clock": (67, 69),
        "player_direction": 58,
        "score": range(73, 75),
        "dove_x": 48,
        "dove_y": 39,
    },
    "qbert": {
        "player_x": 43,
        "player_y": 67,
        "player_column": 35,
        "red_enemy_column": 69,
        "green_enemy_column": 105,
        "score": range(89, 92),
        "tile_color": (21, 52, 54, 83, 85, 87, 98, 100, 102, 104, 1, 3, 5, 7, 9, 32, 34, 36, 38, 40, 42),
    },
    "riverraid": {
        "player_x": 51,
        "missile_x": 117,
        "missile_y": 50,
        "fuel_meter_high": 55,
        "fuel_meter_low": 56,
    },
    "seaquest": {
        "enemy_obstacle_x": range(30, 34),
        "player_x": 70,
        "player_y": 97,
        "diver_or_enemy_missile_x": range(71, 75),
        "player_direction": 86,
        "player_missile_direction": 87,
        "oxygen_meter_value": 102,
        "player_missile_x": 103,
        "score": range(57, 59),
        "num_lives": 59,
        "divers_collected_count": 62,
    },
    "skiing": {
        "player_x": 25,
        "clock_m": 104,
        "clock_s": 105,
        "clock_ms": 106,
        "score": 107,
        "object_y": range(87, 94),
    },
    "space_invaders": {
        "invaders_left_count": 17,
        "player_score": 104,
        "num_lives": 73,
        "player_x": 28,
        "enemies_x": 26,
        "missiles_y": 9,
        "enemies_y": 24,
    },
    "tennis": {
        "enemy_x": 27,
        "enemy_y": 25,
        "enemy_score": 70,
        "ball_x": 16,
        "ball_y": 17,
        "player_x": 26,
        "player_y": 24,
        "player_score": 69,
    },
    "venture": {
        "sprite0_y": 20,
        "sprite1_y": 21,
        "sprite2_y": 22,
        "sprite3_y": 23,
        "sprite4_y": 24,
        "sprite5_y": 25,
        "sprite0_x": 79,
        "sprite1_x": 80,
        "sprite2_x": 81,
        "sprite3_x": 82,
        "sprite4_x": 83,
        "sprite5_x": 84,
        "player_x": 85,
        "player_y": 26,
        "current_room": 90,
        "num_lives": 70,
        "score_1_2": 71,
        "score_3_4": 72,
    },
    "video_pinball": {
        "ball_x": 67,
        "ball_y": 68,
        "player_left_paddle_y": 98,
        "player_right_paddle_y": 102,
        "score_1": 48,
        "score_2": 50,
    },
    "yars_revenge": {
        "player_x": 32,
        "player_y": 31,
        "player_missile_x": 38,
        "player_missile_y": 37,
        "enemy_x": 43,
        "enemy_y": 42,
        "enemy_missile_x": 47,
        "enemy_missile_y": 46,
    },
}
"""Address of each variable, or addresses of each array, by ROM id."""


def ram_variables(game: str) -> dict[str, int]:
    """Return the address of each named variable of a game.

    Args:
        game: Name of the game, in any spelling that `find_game` accepts.

    Raises:
        InputError: If there is no such game, or it has no table of variables.
    """
    found = find_game(game)
    if found.rom not in _ADDRESSES:
        games = ", ".join(find_game(rom).name for rom in _ADDRESSES)
        raise InputError(
            f"there is no table of variables for {found.name}, only for {games}; set `observation` to ram or frames"
        )
    variables: dict[str, int] = {}
    for name, addresses in _ADDRESSES[found.rom].items():
        if isinstance(addresses, int):
            variables[name] = addresses
        else:
            variables |= {f"{name}_{index}": address for index, address in enumerate(addresses)}
    return variables


def name_entries(observation: ObservationSpec, game: str) -> tuple[str, ...]:
    """Return a name for each entry of a vector that says what it means, if this is known.

    Args:
        observation: Observation.
        game: Name of the game, in any spelling that `find_game` accepts.

    Returns:
        Names such as ``"ball_x"`` of variables, and such as ``"RAM 99 (ball_x)"`` of RAM, where the table of the game
        has a variable at the address. None for frames.
    """
    if observation.kind != "ram" or find_game(game).rom not in _ADDRESSES:
        return observation.entry_names
    variables: dict[int, list[str]] = {}
    for variable, address in ram_variables(game).items():
        variables.setdefault(address, []).append(variable)
    return tuple(
        f"{name} ({', '.join(variables[address])})" if address in variables else name
        for address, name in enumerate(observation.entry_names)
    )


def find_observation(kind: ObservationKind, names: Sequence[str], game: str) -> ObservationSpec:
    """Return the observation of a kind in a game.

    Args:
        kind: Kind of the observation.
        names: Variables of the kind ``"variables"``; none of them means all of the game.
        game: Name of the game.

    Raises:
        InputError: If the game has no table of variables, or a variable does not exist or is named twice.
    """
    if kind != "variables":
        return FRAMES if kind == "frames" else RAM
    table = ram_variables(game)
    for name in names:
        if name not in table:
            raise InputError(f"{find_game(game).name} has no variable {name!r}; `variables` may be {', '.join(table)}")
    if len(set(names)) != len(names):
        raise InputError("`variables` names a variable twice; name each of them once")
    chosen = tuple(names or table)
    return variables_spec(chosen, tuple(table[name] for name in chosen))


def require_observation(kind: ObservationKind, names: Sequence[str], store: TrajectoryStore) -> ObservationSpec:
    """Return the observation of a kind in the game of a store.

    Args:
        kind: Kind of the observation.
        names: As in `find_observation`.
        store: Store that must hold the observation.

    Raises:
        InputError: As `find_observation`, or if the observation is of RAM, and the store has none.
    """
    observation = find_observation(kind, names, store.game)
    if observation.is_vector:
        store.require_ram()
    return observation
