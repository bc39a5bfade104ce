"""Read the recorded runs under tests/data and write small runs of random episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from replay_data import ReplayFormatError
from replay_data.episode import Episode, EpisodeSource
from replay_data.recording import Recording
from replay_data.selection.build import build_store
from replay_data.selection.methods import Selection, SelectionMethod
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_writer import DopamineLogWriter
from replay_data.sources.rl_unplugged import RLUnpluggedRun
from replay_data.sources.tfrecord import Example, write_record
from replay_data.storage.gzip_streams import create_gzip
from replay_data.store_metadata import StoreSource
from replay_data.trajectory_store import TrajectoryStore
from tests.conftest import DATA

MEANINGS = ["NOOP", "FIRE", "RIGHT", "LEFT"]


@cache
def truth() -> list[Episode]:
    """Return the 55 whole episodes behind the recorded runs, as they were played (raw rewards up to 7)."""
    with np.load(DATA / "dopamine_log" / "truth.npz") as played:
        arrays = {name: played[name] for name in played}
    ends = np.flatnonzero(arrays["terminals"]) + 1
    episodes = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        raw = arrays["raw_rewards"][start:end].astype(np.float32)
        actions = arrays["actions"][start:end].astype(np.uint8)
        episodes.append(Episode(arrays["frames"][start:end], actions, raw.clip(-1, 1), raw, terminated=True))
    return episodes


def open_log(path: Path = DATA / "dopamine_log") -> DopamineLog:
    """Open run 1 of Breakout in Dopamine's format; by default the one that Dopamine wrote."""
    return DopamineLog(path, "Breakout", 1, len(MEANINGS))


def open_shards(path: Path = DATA / "rl_unplugged") -> RLUnpluggedRun:
    """Open run 1 of Breakout in RL Unplugged's format; by default the one that TensorFlow wrote."""
    return RLUnpluggedRun(path, "Breakout", 1, len(MEANINGS))


def build(
    out: Path,
    source: EpisodeSource,
    method: SelectionMethod,
    num_workers: int | None = None,
    verify: bool = False,
    **options: Any,
) -> TrajectoryStore:
    """Build a store of the selected episodes of a run of Breakout."""
    return build_store(
        out,
        source,
        Selection.of(method, **options),
        game="Breakout",
        action_meanings=MEANINGS,
        store_source=StoreSource("test"),
        num_workers=num_workers,
        verify=verify,
        show_progress=False,
    )


def same(one: Episode, other: Episode, raw_rewards: bool = False) -> bool:
    """Return whether two episodes are equal step for step."""
    return (
        one.terminated == other.terminated
        and np.array_equal(one.frames, other.frames)
        and np.array_equal(one.actions, other.actions)
        and np.array_equal(one.rewards, other.rewards)
        and (not raw_rewards or np.array_equal(one.raw_rewards, other.raw_rewards))  # type: ignore[arg-type]
    )


def indices_in_truth(store: TrajectoryStore) -> list[int]:
    """Return which episode of `truth` each episode of a store is, after comparing every array of the store."""
    indices = []
    for position, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
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
        assert not store.state(start)[:3].any()
        assert store.terminated is not None
        assert store.terminated[position]
        indices.append(index)
    return indices


def recording_of(game: str, action_meanings: list[str]) -> Recording:
    """Return the description of a recording, for the sidecars of a log that a test writes."""
    return Recording("numbered", game, 1000, 0, 0.25, 108_000, tuple(action_meanings), "0" * 64)


def black_episode(steps: int, *, terminated: bool = True) -> Episode:
    """Return an episode in which every step looks like padding, but for the terminal of the last one."""
    rewards = np.zeros(steps, np.float32)
    return Episode(np.zeros((steps, 84, 84), np.uint8), np.zeros(steps, np.uint8), rewards, rewards, terminated)


def random_episode(rng: np.random.Generator, steps: int, *, terminated: bool = True) -> Episode:
    """Return an episode of noise without black frames."""
    raw = rng.integers(-3, 4, size=steps).astype(np.float32)
    frames = rng.integers(1, 256, size=(steps, 84, 84), dtype=np.uint8)
    return Episode(frames, rng.integers(0, 4, size=steps, dtype=np.uint8), raw.clip(-1, 1), raw, terminated)


def write_log(
    path: Path, episodes: list[Episode], rows: int, game: str = "Breakout", recording: Recording | None = None
) -> Path:
    """Write episodes as run 1 of a log with buffers of ``rows`` rows; return its ``replay_logs`` directory."""
    directory = path / game / "1" / "replay_logs"
    with DopamineLogWriter(directory, rows, recording=recording) as writer:
        for episode in episodes:
            writer.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                terminated=episode.terminated,
                raw_rewards=None if recording is None else episode.raw_rewards,
                ram=episode.ram,
            )
    return directory


def circular_memory(episodes: list[Episode], rows: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the content of a replay buffer of ``rows`` rows whenever its cursor reaches the last slot, and at the end.

    This is Dopamine's buffer, written independently of `DopamineLogWriter`.
    """
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
    """Return the episodes that ``read`` returns, or none and the error that it raises."""
    try:
        return read(), None
    except ReplayFormatError as error:
        return [], error


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with random bits, bytes or blocks changed, removed or added."""
    start, stop = sorted(rng.integers(0, len(content), size=2).tolist())
    damage = rng.integers(7)
    if damage == 0:
        return content[:start]
    if damage == 1:
        return content[:start] + content[stop:]
    if damage == 2:
        return content[:start] + bytes(stop - start) + content[stop:]
    if damage == 3:
        return content[:start] + rng.bytes(3) + content[start:]
    if damage == 4:
        return content + rng.bytes(20)
    flipped = bytearray(content)
    for position in rng.integers(0, min(len(content), 30 if damage == 5 else 1 << 60), size=rng.integers(1, 4)):
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
            last = int(episode.terminated)  # the final frame, whose action and reward mean nothing
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
