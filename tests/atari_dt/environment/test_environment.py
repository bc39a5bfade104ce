"""Frames and rewards against the emulator and OpenCV, used directly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ale_py
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from ale_py import roms

from atari_dt.environment.config import EnvironmentConfig, rom_sha256
from atari_dt.environment.python_env import AleEnv, PythonVectorEnv
from atari_dt.environment.rom import Rom
from atari_dt.environment.vector_env import AleVectorEnv, make_vector_env
from atari_dt.games.catalogue import find_game
from replay_data import InputError

STEPS = 400


def play_by_hand(rom: str, actions: npt.NDArray[np.int64], seed: int) -> tuple[list[Any], list[float], bool]:
    """Four emulator frames a step, the last two grey screens maximised, then resized: written out plainly."""
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.25)
    ale.setInt("random_seed", seed)
    path = roms.get_rom_path(rom)
    assert path is not None
    ale.loadROM(path)
    ale.reset_game()
    frames: list[Any] = [cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_AREA)]
    rewards = []
    for action in actions:
        points, screens = 0, []
        for _ in range(4):
            points += ale.act(ale.getMinimalActionSet()[action])
            screens.append(ale.getScreenGrayscale())
        rewards.append(float(points))
        if ale.game_over():
            return frames, rewards, True
        frames.append(cv2.resize(np.maximum(screens[2], screens[3]), (84, 84), interpolation=cv2.INTER_AREA))
    return frames, rewards, False


@pytest.mark.parametrize("name", ["Breakout", "Pong", "Qbert", "Seaquest"])
def test_frames_and_rewards_are_those_of_the_emulator(name: str) -> None:
    game = find_game(name)
    games = AleVectorEnv(game, 2, EnvironmentConfig())
    rng = np.random.default_rng(1)
    actions = rng.integers(len(games.action_meanings), size=(STEPS, 2))
    seeds = np.array([11, 12])
    by_hand = [play_by_hand(game.rom, actions[:, i], int(seeds[i])) for i in range(2)]

    states = [games.reset(seeds).copy()]
    single = AleEnv(game, EnvironmentConfig(), seed=11)
    assert (single.frame == states[0][0, 3]).all()
    over = np.zeros(2, dtype=bool)
    for t in range(STEPS):
        state, rewards, ended = games.step(actions[t])
        states.append(state.copy())
        for i in np.flatnonzero(~over):
            frames, points, ends = by_hand[i]
            assert rewards[i] == points[t]
            over[i] = ended[i]
            assert ended[i] == (ends and t == len(points) - 1)
            if ended[i]:
                continue
            padded = [np.zeros((84, 84), np.uint8)] * 3 + frames[: t + 2]
            assert (state[i] == np.stack(padded[-4:])).all()
        if not over[0]:
            assert single.step(int(actions[t, 0])) == (rewards[0], ended[0])
            assert (single.frame == state[0, 3]).all()
        if over.all():
            break
    assert sum(len(points) for _, points, _ in by_hand) > 200


def test_a_seed_gives_the_same_episode_wherever_it_is_played() -> None:
    game = find_game("Breakout")
    rng = np.random.default_rng(2)
    actions = rng.integers(4, size=60)

    def episode(games: AleVectorEnv, place: int) -> list[npt.NDArray[np.uint8]]:
        return [games.step(np.full(games.num_envs, action))[0][place, 3].copy() for action in actions]

    many, one = AleVectorEnv(game, 3, EnvironmentConfig()), AleVectorEnv(game, 1, EnvironmentConfig())
    many.reset(np.array([1, 2, 3]))
    for _ in range(17):
        many.step(np.array([1, 1, 1]))
    before = many.step(np.array([1, 1, 1]))[0].copy()
    after = many.restart(np.array([1]), np.array([77]))
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert (after[1, :3] == 0).all()
    one.reset(np.array([77]))
    assert np.array_equal(episode(many, 1), episode(one, 0))


@pytest.mark.parametrize("max_steps", [1, 25])
def test_episodes_are_cut_off_at_the_limit(max_steps: int) -> None:
    game, config = find_game("Breakout"), EnvironmentConfig.with_max_steps(max_steps)
    games, single = AleVectorEnv(game, 1, config), AleEnv(game, config, seed=5)
    games.reset(np.array([5]))
    for step in range(1, max_steps + 1):
        state, rewards, ended = games.step(np.array([1]))
        assert single.step(1) == (rewards[0], ended[0])
        assert (single.frame == state[0, 3]).all()
        assert ended[0] == (step == max_steps)


def test_sticky_actions_repeat_as_often_as_they_say() -> None:
    """With probability 1 every action is the no-op before it, so a paddle that is told to move stays."""
    game = find_game("Breakout")

    def paddle_moves(sticky_actions: float) -> int:
        single = AleEnv(game, EnvironmentConfig(sticky_actions), seed=0)
        start = int(single.ram[72])
        for _ in range(10):
            single.step(3)
        return start - int(single.ram[72])

    assert paddle_moves(1.0) == 0
    assert paddle_moves(0.0) > 50


@pytest.mark.parametrize("sticky_actions", [-0.1, 1.1])
def test_impossible_sticky_actions_are_refused(sticky_actions: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        EnvironmentConfig(sticky_actions)


@pytest.mark.parametrize("max_steps", [0, 27_001])
def test_impossible_limits_are_refused(max_steps: int) -> None:
    with pytest.raises(InputError, match="1 to 27000 steps"):
        EnvironmentConfig.with_max_steps(max_steps)


def test_at_least_one_game_is_played() -> None:
    with pytest.raises(InputError, match="at least 1 game"):
        AleVectorEnv(find_game("Pong"), 0, EnvironmentConfig())


@pytest.mark.parametrize("name", ["Breakout", "Pong", "Seaquest"])
def test_a_rom_file_plays_frame_for_frame_like_the_vector_environment(name: str, tmp_path: Path) -> None:
    """1,000 steps of two games with restarts: the bundled ROM, copied under another name."""
    game, steps = find_game(name), 500
    bundled = roms.get_rom_path(game.rom)
    assert bundled is not None
    (tmp_path / "some file").write_bytes(bundled.read_bytes())
    config = EnvironmentConfig(rom=Rom(tmp_path / "some file", game))
    assert rom_sha256(game, config) == hashlib.sha256(bundled.read_bytes()).hexdigest()
    assert rom_sha256(game, config) == rom_sha256(game, EnvironmentConfig())
    vector, single = AleVectorEnv(game, 2, EnvironmentConfig()), make_vector_env(game, 2, config)
    assert isinstance(single, PythonVectorEnv)
    assert isinstance(make_vector_env(game, 2, EnvironmentConfig(0.5, 400)), AleVectorEnv)
    assert single.action_meanings == vector.action_meanings
    rng = np.random.default_rng(3)
    assert np.array_equal(vector.reset(np.array([1, 2])), single.reset(np.array([1, 2])))
    restarts = 0
    for step in range(steps):
        actions = rng.integers(len(vector.action_meanings), size=2)
        states, rewards, ended = vector.step(actions)
        others = single.step(actions)
        assert np.array_equal(states, others[0])
        assert np.array_equal(rewards, others[1])
        assert np.array_equal(ended, others[2])
        over = np.flatnonzero(ended) if step != 250 else np.array([1])
        if len(over):
            restarts += len(over)
            seeds = 10 + restarts + np.arange(len(over))
            assert np.array_equal(vector.restart(over, seeds)[over], single.restart(over, seeds)[over])
    assert restarts >= 1


def test_the_originals_frames_starts_and_second_reset_are_those_of_its_code() -> None:
    """Written out after the original's own environment: scale, then maximum; no-ops; a reset after the first state."""
    game, config = find_game("Breakout"), EnvironmentConfig(0.0, frames="bilinear", noop_max=29, second_reset=True)
    games = make_vector_env(game, 3, config)
    seeds, rng = np.array([4, 5, 6]), np.random.default_rng(0)
    states = games.reset(seeds)
    starts = []
    emulators = []
    for seed in seeds:
        noops = np.random.default_rng([seed, 1])
        ale = ale_py.ALEInterface()
        ale.setFloat("repeat_action_probability", 0.0)
        path = roms.get_rom_path("breakout")
        assert path is not None
        ale.loadROM(path)
        shown = []
        for _ in range(2):
            ale.reset_game()
            count = int(noops.integers(30))
            starts.append(count)
            for _ in range(count):
                ale.act(0)
            shown.append(cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_LINEAR))
        emulators.append((ale, shown))
    assert len(set(starts)) > 3
    stacks = [[np.zeros((84, 84), np.uint8)] * 3 + [shown[1]] for _, shown in emulators]
    for i, (_, shown) in enumerate(emulators):
        assert np.array_equal(states[i], np.stack([np.zeros((84, 84), np.uint8)] * 3 + [shown[0]]))
    for _ in range(40):
        actions = rng.integers(4, size=3)
        states, _, ended = games.step(actions)
        assert not ended.any()
        for i, (ale, _) in enumerate(emulators):
            pair = []
            for frame in range(4):
                ale.act(ale.getMinimalActionSet()[actions[i]])
                if frame >= 2:
                    scaled = cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_LINEAR)
                    pair.append(scaled.astype(np.float32) / 255)
            stacks[i] = [*stacks[i][1:], np.maximum(*pair)]
            expected = [frame / np.float32(255) if frame.dtype == np.uint8 else frame for frame in stacks[i]]
            assert np.array_equal(states[i] / np.float32(255), np.stack(expected))
    assert np.array_equal(
        games.restart(np.array([1]), np.array([5]))[1], make_vector_env(game, 1, config).reset(seeds[1:2])[0]
    )


def test_what_is_no_rom_is_refused_and_cannot_hang_the_emulator(tmp_path: Path) -> None:
    game = find_game("Breakout")
    contents = {"empty": b"", "text": b"hello", "noise": np.random.default_rng(0).bytes(4096)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"ALE cannot play .*{name}"):
            Rom(tmp_path / name, game)
    with pytest.raises(InputError, match="cannot be read"):
        Rom(tmp_path, game)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"noop_max": -1}, "noop_max must lie between"), ({"frames": "cubic"}, "'area' or 'bilinear'")],
)
def test_impossible_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EnvironmentConfig(**fields)
