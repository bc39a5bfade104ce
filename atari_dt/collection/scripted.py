"""Players that read the emulator's RAM: replay data of every quality, in seconds, without training anything.

In Breakout the paddle follows the ball; in Pong, where that loses, it goes where the ball will be. The RAM addresses
are those of the Atari Annotated RAM Interface (Anand et al. 2019, arXiv:1906.08226); the offsets between a RAM value
and the pixel it stands for, and how far a paddle coasts, were measured on the emulator.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import numpy.typing as npt

from atari_dt.collection.rollout import CompressedEpisode, Rollout
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv, action_meanings
from atari_dt.games.catalogue import Game
from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.episode import Episode
from replay_data.progress import ProgressBar
from replay_data.storage.paths import check_free_space
from replay_data.storage.processes import available_cores, ignore_signals
from replay_data.store_metadata import StoreSource

NOOP, FIRE, RIGHT, LEFT = 0, 1, 2, 3  # the same indices in the minimal action sets of Breakout and Pong
COAST = 10  # how far a paddle still moves after one RIGHT or LEFT, in RAM units

Ram = npt.NDArray[np.int64]
Player = Callable[[Ram, Ram, int], int]


def play_breakout(ram: Ram, previous: Ram, last_action: int) -> int:
    """Launch the ball, then keep the paddle's middle under it.

    Args:
        ram: int64 ``[128]``, now.
        previous: int64 ``[128]``, one step ago.
        last_action: the action of that step.

    Returns:
        The action index. RAM 72 is the paddle (its middle 8 above a ball at the same pixel), 99 is the ball's x, 101
        its y (0 before launch).
    """
    paddle, x, y = ram[72], ram[99], ram[101]
    if y == 0:
        return FIRE
    return _towards(x - 8, paddle, slack=6, up=RIGHT, down=LEFT)


def play_pong(ram: Ram, previous: Ram, last_action: int) -> int:
    """Meet the ball off the paddle's middle, so that it leaves away from the opponent.

    Args and return value as in `play_breakout`. RAM 51 is the paddle (its middle 8 above a ball at the same pixel;
    LEFT moves it down the screen, towards larger values), 50 the opponent's, 49 and 54 are the ball's x (187 at the
    paddle) and y (0 out of play, 44.5 to 205.5 between the walls).
    """
    paddle, opponent, x, y = ram[51], ram[50], ram[49], ram[54]
    if y == 0 or previous[54] == 0:
        return NOOP
    target = y - 8.0
    speed_x, speed_y = x - previous[49], y - previous[54]
    if speed_x > 0:
        target = _reflect(y + speed_y * max(0, 187 - x) / speed_x, 44.5, 205.5) - 8
        target += 7 if opponent > 126 else -7  # a ball that meets the upper half of the paddle leaves upwards
    rest = paddle + COAST * ((last_action == LEFT) - (last_action == RIGHT))
    return _towards(target, rest, slack=5.5, up=LEFT, down=RIGHT)


PLAYERS: dict[str, Player] = {"Breakout": play_breakout, "Pong": play_pong}


def _reflect(position: float, low: float, high: float) -> float:
    """Fold a straight path back between two walls."""
    period = 2 * (high - low)
    offset = (position - low) % period
    return low + min(offset, period - offset)


def _towards(target: float, rest: float, slack: float, up: int, down: int) -> int:
    if target > rest + slack:
        return up
    return down if target < rest - slack else NOOP


def play_episode(game: Game, config: EnvironmentConfig, skill: float, seed: int) -> Episode:
    """Play one episode with a scripted player of some skill.

    Args:
        game: Breakout or Pong.
        config: how it is played.
        skill: probability, at each step, of the player's action; otherwise the action is uniformly random. 1 is the
            scripted player itself, 0 a random player.
        seed: of the emulator and of the random actions; the same seed and skill give the same episode.
    """
    player = PLAYERS[game.name]
    emulator = AleEnv(game, config, seed)
    rng = np.random.default_rng(seed)
    frames, actions, rewards = [], [], []
    ram = previous = emulator.ram.astype(np.int64)
    action, ended = NOOP, False
    while not ended:
        frames.append(emulator.frame)
        scripted = rng.random() < skill
        action = player(ram, previous, action) if scripted else int(rng.integers(emulator.num_actions))
        reward, ended = emulator.step(action)
        previous, ram = ram, emulator.ram.astype(np.int64)
        actions.append(action)
        rewards.append(reward)
    raw = np.array(rewards, dtype=np.float32)
    return Episode(np.stack(frames), np.array(actions, dtype=np.uint8), raw.clip(-1, 1), raw, emulator.terminated)


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
    """Play whole episodes over an even spread of skills until there are ``num_steps`` steps, and store them.

    Rewards are clipped to [-1, 1] as in the DQN-replay dataset; the raw ones are kept beside them. The store depends
    on the seed alone, not on the number of workers.

    Args:
        game: one of `PLAYERS`.
        num_steps: at least this many; the episode that reaches it is the last.
        out: directory of the store.
        config: how the game is played; by default as the DQN-replay dataset was made.
        seed: the same seed gives the same bytes.
        num_workers: processes that play; by default one for each core this process may use.
        show_progress: a progress bar in steps/s on standard error.

    Raises:
        InputError: if no player knows the game, a number is too small, or ``out`` exists.
        OSError: if writing fails; nothing is left then.
    """
    num_workers = _check(game, num_workers)
    for name, value, least in (("num_steps", num_steps, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    check_free_space(out, num_steps * 84 * 84)
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
            closing(_episodes(game, config, seed, num_workers)) as episodes,
        ):
            for episode in episodes:
                writer.append(
                    episode.frames, episode.actions, episode.rewards, episode.raw_rewards, terminated=episode.terminated
                )
                bar.update(min(len(episode.actions), num_steps - bar.n))
                if writer.steps >= num_steps:
                    break
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    return TrajectoryStore.open(out)


class ScriptedPlayer:
    """Plays whole episodes over an even spread of skills, for `atari_dt.collection.recorder.record`.

    Args:
        game: one of `PLAYERS`.
        config: how it is played.
        seed: the same seed gives the same episodes, also where a recording goes on.
        num_workers: processes that play; by default one for each core this process may use.

    Raises:
        InputError: if no player knows the game, or a number is out of range.
    """

    def __init__(self, game: Game, config: EnvironmentConfig, seed: int, num_workers: int | None = None):
        self._workers = _check(game, num_workers)
        self._game, self._config, self._seed = game, config, seed
        self._episodes = 0

    def play(self) -> Generator[Rollout, None, None]:
        """Play for ever."""
        with closing(_episodes(self._game, self._config, self._seed, self._workers, self._episodes)) as episodes:
            for episode in episodes:
                skill = _skill(self._episodes)
                self._episodes += 1
                yield Rollout([(CompressedEpisode.pack(episode), {"skill": skill})], len(episode), {})

    def state(self) -> bytes:
        """How many episodes have been played."""
        return str(self._episodes).encode()

    def restore(self, state: bytes) -> None:
        """Go on with the episode that follows.

        Raises:
            InputError: if the state is damaged.
        """
        try:
            self._episodes = int(state)
        except ValueError as error:
            raise InputError("the player's checkpoint is damaged; the recording cannot go on from it") from error


def _check(game: Game, num_workers: int | None) -> int:
    """Return the number of workers.

    Raises:
        InputError: if it is out of range, or no player knows the game.
    """
    if game.name not in PLAYERS:
        raise InputError(f"no scripted player for {game.name}; there is one for {' and '.join(PLAYERS)}")
    cores = available_cores()
    num_workers = cores if num_workers is None else num_workers
    most = max(8, 2 * cores)
    if not 1 <= num_workers <= most:
        raise InputError(f"num_workers must be at least 1 and at most {most} on {cores} cores, not {num_workers}")
    return num_workers


def _skill(index: int) -> float:
    golden_ratio = (5**0.5 - 1) / 2  # its multiples fill [0, 1] evenly, however many are taken
    return (index + 0.5) * golden_ratio % 1


def _episodes(
    game: Game, config: EnvironmentConfig, seed: int, num_workers: int, index: int = 0
) -> Generator[Episode, None, None]:
    """Yield episodes ``index``, … for ever, in order, played ahead by ``num_workers`` processes."""
    # Spawned, not forked: a fork copies the locks of threads that do not exist in the child.
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    ahead: list[Future[Episode]] = []

    def submit() -> None:
        nonlocal index
        episode_seed = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0] >> 1)
        ahead.append(pool.submit(play_episode, game, config, _skill(index), episode_seed))
        index += 1

    try:
        with ignore_signals():  # by the workers, which inherit it; the parent ends them
            for _ in range(2 * num_workers):
                submit()
        while True:
            yield ahead.pop(0).result()
            submit()
    finally:
        with ignore_signals():  # a second Ctrl-C must not leave processes behind
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the parent has ended, however that came about."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
