"""Scripted policies that read the emulator's RAM: replay data of every skill, in seconds, without training.

In Breakout the paddle follows the ball. In Pong, where that would lose, it moves to where the ball will arrive. The RAM
addresses are those of the Atari Annotated RAM Interface (Anand et al. 2019, arXiv:1906.08226). The offsets between RAM
values and pixels, and the distance that a paddle coasts, were measured on the emulator.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeAlias

import ale_py
import numpy as np
import numpy.typing as npt

from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode, Rollout
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv, action_meanings
from atari_dt.games.catalogue import Game
from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.episode import Episode
from replay_data.observation import RAM_SIZE
from replay_data.progress import ProgressBar
from replay_data.storage.paths import check_free_space
from replay_data.storage.processes import available_cores, defer_signals, exit_with_parent, wait_for_parent_process
from replay_data.store_metadata import StoreSource

NOOP, FIRE, RIGHT, LEFT = 0, 1, 2, 3  # the same indices in the minimal action sets of Breakout and Pong
COAST = 10  # distance that a paddle still moves after one RIGHT or LEFT, in RAM units

Ram: TypeAlias = npt.NDArray[np.int64]
ScriptedPolicy: TypeAlias = Callable[[Ram, Ram, int], int]
"""Function of the RAM, the RAM one step earlier, and the action of that step; returns the next action."""


def play_breakout(ram: Ram, previous: Ram, last_action: int) -> int:
    """Launch the ball, then keep the paddle centered under it.

    RAM 72 is the x of the paddle; its center is 8 larger than a ball's x at the same pixel. RAM 99 is the ball's x, 101
    its y (0 before launch).

    Args:
        ram: int64 ``[128]``, the RAM now.
        previous: int64 ``[128]``, the RAM one step earlier.
        last_action: Index of the action of that step.

    Returns:
        Index of the next action.
    """
    paddle, x, y = ram[72], ram[99], ram[101]
    if y == 0:
        return FIRE
    return _towards(x - 8, paddle, slack=6, up=RIGHT, down=LEFT)


def play_pong(ram: Ram, previous: Ram, last_action: int) -> int:
    """Hit the ball off the paddle's center, so that it flies away from the opponent.

    RAM 51 is the y of the paddle; its center is 8 larger than a ball's y at the same pixel, and LEFT moves it down the
    screen, toward larger values. RAM 50 is the y of the opponent's paddle, 49 the ball's x (187 at the paddle), and 54
    the ball's y (0 out of play, 44.5 to 205.5 between the walls). Arguments and return value are those of
    `play_breakout`.
    """
    paddle, opponent, x, y = ram[51], ram[50], ram[49], ram[54]
    if y == 0 or previous[54] == 0:
        return NOOP
    target = y - 8.0
    speed_x, speed_y = x - previous[49], y - previous[54]
    if speed_x > 0:
        target = _reflect(y + speed_y * max(0, 187 - x) / speed_x, 44.5, 205.5) - 8
        target += 7 if opponent > 126 else -7  # the upper half of the paddle sends the ball upward
    rest = paddle + COAST * ((last_action == LEFT) - (last_action == RIGHT))
    return _towards(target, rest, slack=5.5, up=LEFT, down=RIGHT)


POLICIES: dict[str, ScriptedPolicy] = {"Breakout": play_breakout, "Pong": play_pong}


def _reflect(position: float, low: float, high: float) -> float:
    """Return where a ball on a straight path to ``position`` ends up between two walls that reflect it."""
    period = 2 * (high - low)
    offset = (position - low) % period
    return low + min(offset, period - offset)


def _towards(target: float, rest: float, slack: float, up: int, down: int) -> int:
    """Return ``up`` if the target is more than ``slack`` above ``rest``, ``down`` if it is below, otherwise NOOP."""
    if target > rest + slack:
        return up
    return down if target < rest - slack else NOOP


def play_episode(game: Game, config: EnvironmentConfig, skill: float, seed: int) -> Episode:
    """Play one episode with a scripted policy of a given skill.

    Args:
        game: Breakout or Pong.
        config: Settings of the environment.
        skill: Probability, at each step, of the scripted action; otherwise the action is uniformly random. Skill 1 is
            the scripted policy itself, skill 0 the uniform-random policy.
        seed: Seed of the emulator and of the random actions. The same seed and skill give the same episode.

    Returns:
        The episode, with RAM.
    """
    policy = POLICIES[game.name]
    env = AleEnv(game, config, seed)
    rng = np.random.default_rng(seed)
    frames, actions, rewards, rams = [], [], [], [env.ram]
    ram = previous = rams[0].astype(np.int64)
    action, done = NOOP, False
    while not done:
        frames.append(env.frame)
        scripted = rng.random() < skill
        action = policy(ram, previous, action) if scripted else int(rng.integers(env.num_actions))
        reward, done = env.step(action)
        rams.append(env.ram)
        previous, ram = ram, rams[-1].astype(np.int64)
        actions.append(action)
        rewards.append(reward)
    raw_rewards = np.array(rewards, dtype=np.float32)
    return Episode(
        np.stack(frames),
        np.array(actions, dtype=np.uint8),
        raw_rewards.clip(-1, 1),
        raw_rewards,
        env.terminated,
        ram=np.stack(rams[:-1]),  # without the RAM of the end, at which no action was chosen
    )


def collect(
    game: Game,
    num_steps: int,
    out: Path,
    *,
    config: EnvironmentConfig | None = None,
    seed: int = 0,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> TrajectoryStore:
    """Play whole episodes of evenly spread skills, at least ``num_steps`` steps in all, and store them.

    Rewards are clipped to [-1, 1] as in the DQN-replay dataset; the store also holds the raw rewards and the RAM. Its
    content depends on the seed, not on the number of workers.

    Args:
        game: A game of `POLICIES`.
        num_steps: Minimum number of steps; the episode that reaches it is the last.
        out: Directory of the store.
        config: Settings of the environment; by default those of the DQN-replay dataset.
        seed: Seed of all episodes. The same seed gives the same bytes.
        num_workers: Number of worker processes; by default one per core that this process may use.
        show_progress: Whether to show a progress bar, in steps/s, on standard error.

    Returns:
        The store, open.

    Raises:
        InputError: If no scripted policy plays the game, a parameter is out of range, or ``out`` exists.
        OSError: If writing fails; nothing is kept then.
    """
    num_workers = _check(game, num_workers)
    for name, value, minimum in (("num_steps", num_steps, 1), ("seed", seed, 0)):
        if value < minimum:
            raise InputError(f"`{name}` must be at least {minimum}, not {value}")
    check_free_space(out, num_steps * (84 * 84 + RAM_SIZE))
    config = config or EnvironmentConfig()
    source = StoreSource(
        format="scripted",
        selection={"method": "all"},
        details={
            "seed": seed,
            "skills": "(i + 1/2) * golden ratio mod 1 for episode i",
            "max_frames": config.max_frames,
            "ale_py": ale_py.__version__,
        },
    )
    writer = StoreWriter(
        out,
        game=game.name,
        action_meanings=action_meanings(game),
        reward_clipping=True,
        sticky_actions=config.sticky_actions,
        source=source,
    )
    try:
        with (
            writer,
            ProgressBar(total=num_steps, unit="step", desc=f"playing {game.name}", disable=not show_progress) as bar,
            closing(_play_episodes(game, config, seed, num_workers)) as episodes,
        ):
            for episode in episodes:
                writer.append(
                    episode.frames,
                    episode.actions,
                    episode.rewards,
                    episode.raw_rewards,
                    terminated=episode.terminated,
                    ram=episode.ram,
                )
                bar.update(min(len(episode.actions), num_steps - bar.n))
                if writer.steps >= num_steps:
                    break
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    return TrajectoryStore.open(out)


class ScriptedPlayer:
    """Plays whole episodes of evenly spread skills in worker processes; a `Player`.

    Args:
        game: A game of `POLICIES`.
        config: Settings of the environment.
        seed: Seed of all episodes. A restored player continues with the episodes that an uninterrupted one would play.
        num_workers: Number of worker processes; by default one per core that this process may use.
        ram: Whether to record the RAM too.

    Raises:
        InputError: If no scripted policy plays the game, or ``num_workers`` is out of range.
    """

    def __init__(
        self, game: Game, config: EnvironmentConfig, seed: int, num_workers: int | None = None, ram: bool = True
    ):
        self._num_workers = _check(game, num_workers)
        self._game, self._config, self._seed, self._ram = game, config, seed, ram
        self._num_episodes = 0

    def play(self) -> Generator[Rollout, None, None]:
        """Play without end; yield a rollout after every episode."""
        with closing(
            _play_episodes(self._game, self._config, self._seed, self._num_workers, self._num_episodes)
        ) as episodes:
            for episode in episodes:
                compressed = CompressedEpisode.pack(episode if self._ram else dataclasses.replace(episode, ram=None))
                finished = FinishedEpisode(compressed, {"skill": _skill(self._num_episodes)})
                self._num_episodes += 1
                yield Rollout([finished], len(episode), {})

    def state(self) -> bytes:
        """Return the number of episodes played so far."""
        return str(self._num_episodes).encode()

    def restore(self, state: bytes) -> None:
        """Continue with the episode after the state.

        Raises:
            InputError: If the state is damaged.
        """
        try:
            self._num_episodes = int(state)
        except ValueError as error:
            raise InputError("the player's checkpoint is damaged; the recording cannot be resumed") from error


def _check(game: Game, num_workers: int | None) -> int:
    """Return the number of workers.

    Raises:
        InputError: If it is out of range, or no scripted policy plays the game.
    """
    if game.name not in POLICIES:
        raise InputError(f"there is no scripted policy for {game.name}, only for {' and '.join(POLICIES)}")
    cores = available_cores()
    num_workers = cores if num_workers is None else num_workers
    maximum = max(8, 2 * cores)
    if not 1 <= num_workers <= maximum:
        raise InputError(f"`num_workers` must be between 1 and {maximum} on {cores} cores, not {num_workers}")
    return num_workers


def _skill(index: int) -> float:
    """Return the skill of episode ``index``, in [0, 1)."""
    golden_ratio = (5**0.5 - 1) / 2  # its first n multiples, modulo 1, are evenly spread over [0, 1] for every n
    return (index + 0.5) * golden_ratio % 1


def _play_episodes(
    game: Game, config: EnvironmentConfig, seed: int, num_workers: int, index: int = 0
) -> Generator[Episode, None, None]:
    """Yield episodes ``index``, ``index + 1``, … without end, in order; worker processes play them ahead."""
    # Workers are spawned: a fork would copy locks that threads hold, and those threads do not exist in the child.
    pool = ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        initializer=partial(exit_with_parent, wait_for_parent_process),
    )
    pending: list[Future[Episode]] = []

    def submit() -> None:
        nonlocal index
        episode_seed = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0] >> 1)
        pending.append(pool.submit(play_episode, game, config, _skill(index), episode_seed))
        index += 1

    try:
        with defer_signals():  # the workers never hear them; only this process ends them
            for _ in range(2 * num_workers):
                submit()
        while True:
            yield pending.pop(0).result()
            submit()
    finally:
        with defer_signals():  # a second Ctrl-C must not leave worker processes behind
            pool.shutdown(wait=True, cancel_futures=True)
