"""Environments, compared with the emulator and OpenCV used directly."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import ale_py
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from ale_py import roms

from atari_dt.environment import rom as rom_module
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv, PythonVectorEnv
from atari_dt.environment.rom import Rom, rom_sha256
from atari_dt.environment.vector_env import AleVectorEnv, make_vector_env
from atari_dt.games.catalogue import find_game
from replay_data import InputError

STEPS = 400


def play_emulator(rom: str, actions: npt.NDArray[np.int64], seed: int) -> tuple[list[Any], list[float], bool]:
    """Play an episode with ALE alone: four frames per step, the maximum of the last two grayscale screens, resized.

    Returns:
        ``(frames, rewards, terminated)``; no frame for the step that ends the game.
    """
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
        reward, screens = 0, []
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            screens.append(ale.getScreenGrayscale())
        rewards.append(float(reward))
        if ale.game_over():
            return frames, rewards, True
        frames.append(cv2.resize(np.maximum(screens[2], screens[3]), (84, 84), interpolation=cv2.INTER_AREA))
    return frames, rewards, False


@pytest.mark.parametrize("name", ["Breakout", "Pong", "Qbert", "Seaquest"])
def test_frames_and_rewards_equal_those_of_the_emulator(name: str) -> None:
    game = find_game(name)
    env = AleVectorEnv(game, 2, EnvironmentConfig())
    rng = np.random.default_rng(1)
    actions = rng.integers(len(env.action_meanings), size=(STEPS, 2))
    seeds = np.array([11, 12])
    expected = [play_emulator(game.rom, actions[:, i], int(seeds[i])) for i in range(2)]

    first_states = env.reset(seeds).copy()
    python_env = AleEnv(game, EnvironmentConfig(), seed=11)
    assert (python_env.frame == first_states[0, 3]).all()
    all_done = np.zeros(2, dtype=bool)
    for t in range(STEPS):
        states, rewards, done = env.step(actions[t])
        for i in np.flatnonzero(~all_done):
            frames, expected_rewards, terminated = expected[i]
            assert rewards[i] == expected_rewards[t]
            all_done[i] = done[i]
            assert done[i] == (terminated and t == len(expected_rewards) - 1)
            if done[i]:
                continue
            padded = [np.zeros((84, 84), np.uint8)] * 3 + frames[: t + 2]
            assert (states[i] == np.stack(padded[-4:])).all()
        if not all_done[0]:
            assert python_env.step(int(actions[t, 0])) == (rewards[0], done[0])
            assert (python_env.frame == states[0, 3]).all()
        if all_done.all():
            break
    assert sum(len(expected_rewards) for _, expected_rewards, _ in expected) > 200


def test_a_seed_gives_the_same_episode_in_every_environment() -> None:
    game = find_game("Breakout")
    rng = np.random.default_rng(2)
    actions = rng.integers(4, size=60)

    def play_episode(env: AleVectorEnv, env_index: int) -> list[npt.NDArray[np.uint8]]:
        return [env.step(np.full(env.num_envs, action))[0][env_index, 3].copy() for action in actions]

    three_envs, one_env = AleVectorEnv(game, 3, EnvironmentConfig()), AleVectorEnv(game, 1, EnvironmentConfig())
    three_envs.reset(np.array([1, 2, 3]))
    for _ in range(17):
        three_envs.step(np.array([1, 1, 1]))
    before = three_envs.step(np.array([1, 1, 1]))[0].copy()
    after = three_envs.restart(np.array([1]), np.array([77]))
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert (after[1, :3] == 0).all()
    one_env.reset(np.array([77]))
    assert np.array_equal(play_episode(three_envs, 1), play_episode(one_env, 0))


@pytest.mark.parametrize("max_steps", [1, 25])
def test_episodes_are_truncated_at_the_time_limit(max_steps: int) -> None:
    game, config = find_game("Breakout"), EnvironmentConfig.with_max_steps(max_steps)
    env, python_env = AleVectorEnv(game, 1, config), AleEnv(game, config, seed=5)
    env.reset(np.array([5]))
    for step in range(1, max_steps + 1):
        states, rewards, done = env.step(np.array([1]))
        assert python_env.step(1) == (rewards[0], done[0])
        assert (python_env.frame == states[0, 3]).all()
        assert done[0] == (step == max_steps)
    assert not env.terminated[0]
    assert not python_env.terminated


def test_sticky_actions_repeat_the_previous_action() -> None:
    """With probability 1 the emulator repeats the initial no-op forever, so the paddle never moves."""
    game = find_game("Breakout")

    def paddle_movement(sticky_actions: float) -> int:
        env = AleEnv(game, EnvironmentConfig(sticky_actions), seed=0)
        start = int(env.ram[72])
        for _ in range(10):
            env.step(3)
        return start - int(env.ram[72])

    assert paddle_movement(1.0) == 0
    assert paddle_movement(0.0) > 50


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sticky_actions": -0.1}, "`sticky_actions` must be a probability between 0 and 1, not -0.1"),
        ({"sticky_actions": 1.1}, "`sticky_actions` must be a probability between 0 and 1, not 1.1"),
        ({"noop_max": -1}, "`noop_max` must be between 0 and 1000 emulator frames, not -1"),
        ({"frames": "cubic"}, "`frames` must be 'area' or 'bilinear', not 'cubic'"),
        ({"max_frames": 3}, "`max_frames` must be between 4 and 108000 emulator frames, not 3"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EnvironmentConfig(**fields)


@pytest.mark.parametrize("max_steps", [0, 27_001])
def test_impossible_time_limits_are_refused(max_steps: int) -> None:
    with pytest.raises(InputError, match=f"`max_steps` must be between 1 and 27000, not {max_steps}"):
        EnvironmentConfig.with_max_steps(max_steps)


@pytest.mark.parametrize("env_class", [AleVectorEnv, PythonVectorEnv])
def test_zero_environments_are_refused(env_class: type[AleVectorEnv] | type[PythonVectorEnv]) -> None:
    with pytest.raises(InputError, match="`num_envs` must be at least 1, not 0"):
        env_class(find_game("Pong"), 0, EnvironmentConfig())


@pytest.mark.parametrize("name", ["Breakout", "Pong", "Seaquest"])
def test_rom_file_gives_the_same_episodes_as_the_vector_environment(name: str, tmp_path: Path) -> None:
    """Play 500 steps of two environments, with restarts, from a copy of the bundled ROM under another name."""
    game, steps = find_game(name), 500
    bundled = roms.get_rom_path(game.rom)
    assert bundled is not None
    (tmp_path / "some file").write_bytes(bundled.read_bytes())
    config = EnvironmentConfig(rom=Rom(tmp_path / "some file", game))
    assert rom_sha256(game, config.rom) == hashlib.sha256(bundled.read_bytes()).hexdigest()
    assert rom_sha256(game, config.rom) == rom_sha256(game)
    ale_env, python_env = AleVectorEnv(game, 2, EnvironmentConfig()), make_vector_env(game, 2, config)
    assert isinstance(python_env, PythonVectorEnv)
    assert isinstance(make_vector_env(game, 2, EnvironmentConfig(0.5, 400)), AleVectorEnv)
    assert python_env.action_meanings == ale_env.action_meanings
    rng = np.random.default_rng(3)
    assert np.array_equal(ale_env.reset(np.array([1, 2])), python_env.reset(np.array([1, 2])))
    restarts = 0
    for step in range(steps):
        actions = rng.integers(len(ale_env.action_meanings), size=2)
        states, rewards, done = ale_env.step(actions)
        python_states, python_rewards, python_done = python_env.step(actions)
        assert np.array_equal(states, python_states)
        assert np.array_equal(rewards, python_rewards)
        assert np.array_equal(done, python_done)
        env_indices = np.flatnonzero(done) if step != 250 else np.array([1])
        if len(env_indices):
            restarts += len(env_indices)
            seeds = 10 + restarts + np.arange(len(env_indices))
            ale_states = ale_env.restart(env_indices, seeds)
            assert np.array_equal(ale_states[env_indices], python_env.restart(env_indices, seeds)[env_indices])
    assert restarts >= 1


def test_bilinear_frames_noops_and_second_reset_follow_the_original_code() -> None:
    """Follow the original code's environment: scale before the maximum, no-ops, a reset after the first state."""
    game, config = find_game("Breakout"), EnvironmentConfig(0.0, frames="bilinear", noop_max=29, second_reset=True)
    env = make_vector_env(game, 3, config)
    seeds, rng = np.array([4, 5, 6]), np.random.default_rng(0)
    states = env.reset(seeds)
    noop_counts = []
    emulators = []
    for seed in seeds:
        noop_rng = np.random.default_rng([seed, 1])
        ale = ale_py.ALEInterface()
        ale.setFloat("repeat_action_probability", 0.0)
        path = roms.get_rom_path("breakout")
        assert path is not None
        ale.loadROM(path)
        first_frames = []
        for _ in range(2):
            ale.reset_game()
            count = int(noop_rng.integers(30))
            noop_counts.append(count)
            for _ in range(count):
                ale.act(0)
            first_frames.append(cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_LINEAR))
        emulators.append((ale, first_frames))
    assert len(set(noop_counts)) > 3
    stacks = [[np.zeros((84, 84), np.uint8)] * 3 + [first_frames[1]] for _, first_frames in emulators]
    for i, (_, first_frames) in enumerate(emulators):
        assert np.array_equal(states[i], np.stack([np.zeros((84, 84), np.uint8)] * 3 + [first_frames[0]]))
    for _ in range(40):
        actions = rng.integers(4, size=3)
        states, _, done = env.step(actions)
        assert not done.any()
        for i, (ale, _) in enumerate(emulators):
            last_two = []
            for frame in range(4):
                ale.act(ale.getMinimalActionSet()[actions[i]])
                if frame >= 2:
                    scaled = cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_LINEAR)
                    last_two.append(scaled.astype(np.float32) / 255)
            stacks[i] = [*stacks[i][1:], np.maximum(*last_two)]
            expected = [frame / np.float32(255) if frame.dtype == np.uint8 else frame for frame in stacks[i]]
            assert np.array_equal(states[i] / np.float32(255), np.stack(expected))
    assert np.array_equal(
        env.restart(np.array([1]), np.array([5]))[1], make_vector_env(game, 1, config).reset(seeds[1:2])[0]
    )


def test_files_that_are_not_roms_are_refused_and_cannot_hang_the_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator loops forever on the noise."""
    monkeypatch.setattr(rom_module, "PROBE_TIMEOUT", 1.5)
    game = find_game("Breakout")
    contents = {"empty": b"", "text": b"hello", "noise": np.random.default_rng(0).bytes(4096)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"ALE cannot play .*{name}; give a ROM file of Breakout") as refusal:
            Rom(tmp_path / name, game)
    assert isinstance(refusal.value.__cause__, subprocess.TimeoutExpired)
    with pytest.raises(InputError, match="cannot be read"):
        Rom(tmp_path / "missing", game)
    with pytest.raises(InputError, match="is a directory"):
        Rom(tmp_path, game)
    with pytest.raises(InputError, match="/dev/zero is a named pipe, a device"):
        Rom(Path("/dev/zero"), game)
    with (tmp_path / "disk_image").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="a file of its kind has at most 1,048,576"):
        Rom(tmp_path / "disk_image", game)


def test_rom_of_another_game_is_refused() -> None:
    pong = roms.get_rom_path("pong")
    assert pong is not None
    with pytest.raises(InputError, match="is a ROM of Pong, not of Breakout"):
        Rom(pong, find_game("Breakout"))
