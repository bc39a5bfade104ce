"""The recorded runs under tests/data, and small ones that tests write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from replay_data import ReplayFormatError
from replay_data.episode import Episode
from replay_data.sources.dopamine_writer import DopamineLogWriter
from replay_data.sources.tfrecord import Example, write_record
from replay_data.storage.gzip_streams import create_gzip
from replay_data.trajectory_store import TrajectoryStore
from tests.conftest import DATA

MEANINGS = ["NOOP", "FIRE", "RIGHT", "LEFT"]


@cache
def truth() -> list[Episode]:
    """The 55 whole episodes behind the recorded runs, as they were played (raw rewards up to 7)."""
    with np.load(DATA / "dopamine_log" / "truth.npz") as played:
        arrays = {name: played[name] for name in played}
    ends = np.flatnonzero(arrays["terminals"]) + 1
    episodes = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        raw = arrays["raw_rewards"][start:end].astype(np.float32)
        actions = arrays["actions"][start:end].astype(np.uint8)
        episodes.append(Episode(arrays["frames"][start:end], actions, raw.clip(-1, 1), raw, True))
    return episodes


def same(one: Episode, other: Episode, raw_rewards: bool = False) -> bool:
    """Whether two episodes are the same step for step."""
    return (
        one.terminated == other.terminated
        and np.array_equal(one.frames, other.frames)
        and np.array_equal(one.actions, other.actions)
        and np.array_equal(one.rewards, other.rewards)
        and (not raw_rewards or np.array_equal(one.raw_rewards, other.raw_rewards))  # type: ignore[arg-type]
    )


def indices_in_truth(store: TrajectoryStore) -> list[int]:
    """Which episode of `truth` each of the store's is, step for step, with all that a store adds to one."""
    indices = []
    for start, end in zip(store.episode_starts, store.episode_ends, strict=True):
        (index,) = (
            index
            for index, episode in enumerate(truth())
            if np.array_equal(store.actions[start:end], episode.actions)
            and np.array_equal(store.frames[store.frame_index[start:end]], episode.frames)
        )
        rewards = truth()[index].rewards
        assert np.array_equal(store.rewards[start:end], rewards)
        assert store.returns_to_go[start:end].tolist() == [rewards[step:].sum() for step in range(end - start)]
        assert np.array_equal(store.timesteps[start:end], np.arange(end - start))
        assert not store.stacked(start)[:3].any()
        indices.append(index)
    return indices


def random_episode(rng: np.random.Generator, steps: int, *, terminated: bool = True) -> Episode:
    """An episode of noise, no frame of it black."""
    raw = rng.integers(-3, 4, size=steps).astype(np.float32)
    frames = rng.integers(1, 256, size=(steps, 84, 84), dtype=np.uint8)
    return Episode(frames, rng.integers(0, 4, size=steps, dtype=np.uint8), raw.clip(-1, 1), raw, terminated)


def write_log(path: Path, episodes: list[Episode], rows: int, game: str = "Breakout") -> Path:
    """Write episodes as run 1 of a log with buffers of so many rows; return its replay_logs."""
    directory = path / game / "1" / "replay_logs"
    with DopamineLogWriter(directory, rows) as writer:
        for episode in episodes:
            writer.append(episode.frames, episode.actions, episode.rewards, terminated=episode.terminated)
    return directory


def circular_memory(episodes: list[Episode], rows: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """What a replay buffer of so many rows holds each time its cursor reaches its last slot, and at the end."""
    memory: dict[str, npt.NDArray[Any]] = {
        "observation": np.zeros((rows, 84, 84), np.uint8),
        "action": np.zeros(rows, np.int32),
        "reward": np.zeros(rows, np.float32),
        "terminal": np.zeros(rows, np.uint8),
    }
    added = 0
    for episode in episodes:
        for step in range(-3, len(episode)):
            cursor = added % rows
            memory["observation"][cursor] = episode.frames[step] if step >= 0 else 0
            memory["action"][cursor] = episode.actions[step] if step >= 0 else 0
            memory["reward"][cursor] = episode.rewards[step] if step >= 0 else 0
            memory["terminal"][cursor] = episode.terminated and step == len(episode) - 1
            added += 1
            if added % rows == rows - 1:
                yield {**{name: values.copy() for name, values in memory.items()}, "add_count": np.array(added)}
    yield {**memory, "add_count": np.array(added)}


def attempt(read: Callable[[], list[Episode]]) -> tuple[list[Episode], ReplayFormatError | None]:
    """What ``read`` returns, or how it refused."""
    try:
        return read(), None
    except ReplayFormatError as error:
        return [], error


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with something gone wrong: bits, bytes or blocks."""
    at, other = sorted(rng.integers(0, len(content), size=2).tolist())
    kind = rng.integers(7)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[other:]
    if kind == 2:
        return content[:at] + bytes(other - at) + content[other:]
    if kind == 3:
        return content[:at] + rng.bytes(3) + content[at:]
    if kind == 4:
        return content + rng.bytes(20)
    flipped = bytearray(content)
    for position in rng.integers(0, min(len(content), 30 if kind == 5 else 1 << 60), size=rng.integers(1, 4)):
        flipped[position] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def write_shard(file: Path, episodes: list[Episode], clipped_rewards: bool = True) -> None:
    """Write episodes as a shard of RL Unplugged."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with create_gzip(file) as stream:
        for episode in episodes:
            assert episode.raw_rewards is not None
            example = Example()
            feature = example.features.feature
            last = int(episode.terminated)  # the final frame, with an action and a reward that mean nothing
            frames = [*episode.frames, *rng.integers(0, 256, (last, 84, 84), np.uint8)]
            feature["observations"].bytes_list.value.extend(
                cv2.imencode(".png", frame)[1].tobytes() for frame in frames
            )
            feature["actions"].int64_list.value.extend([*episode.actions.tolist(), *[3] * last])
            feature["unclipped_rewards"].float_list.value.extend(
                [*episode.raw_rewards.tolist(), *[float("nan")] * last]
            )
            if clipped_rewards:
                feature["clipped_rewards"].float_list.value.extend([*episode.rewards.tolist(), *[1.0] * last])
            feature["discounts"].float_list.value.extend([1.0] * len(episode) + [0.0] * last)
            write_record(stream, example.SerializeToString())
