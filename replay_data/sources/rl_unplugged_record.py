"""Read the records of an RL Unplugged shard: episodes whose frames are PNGs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, Episode
from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import MAX_EPISODE_ROWS
from replay_data.sources.png_images import MAX_PNG_BYTES, decode_png
from replay_data.sources.tf_example import read_bytes, read_floats, read_integers, split_example
from replay_data.sources.tfrecord import read_records
from replay_data.storage.gzip_streams import translate_gzip_errors

_MAX_STEPS = MAX_EPISODE_ROWS + 1  # with the final frame

# Bytes of a record: 27,000 steps (108,000 emulator frames, four a step) of the largest PNG and 32 bytes of numbers.
# Real frames have less than 3,000 bytes.
MAX_RECORD_BYTES = 27_001 * (MAX_PNG_BYTES + 32)

_TRANSITION_FEATURES = {"o_t", "a_t", "r_t", "o_tp1"}

_FEATURES: tuple[tuple[str, Any], ...] = (
    ("observations", read_bytes),
    ("actions", read_integers),
    ("discounts", read_floats),
    ("clipped_rewards", read_floats),
    ("unclipped_rewards", read_floats),
)


def read_episodes(file: Any, name: str, advice: str, transitions_advice: str) -> Iterator[ShardRecord]:
    """Yield the episodes of a shard without decoding their frames.

    Args:
        file: The shard, decompressed.
        name: Name of the shard in errors.
        advice: What to do if the shard is damaged.
        transitions_advice: What to do if the shard is from RL Unplugged's older directory, which holds transitions.

    Raises:
        ReplayFormatError: If a record is damaged, or there is none.
    """

    def damaged(reason: str) -> ReplayFormatError:
        return ReplayFormatError(f"{name} is damaged at record {index} ({reason}); {advice}")

    index = 0
    records = read_records(file, MAX_RECORD_BYTES)
    while True:
        with translate_gzip_errors(damaged):
            payload = next(records, None)
            if payload is None and not index:
                raise ValueError("it holds no episode")
            if payload is None:
                return
            features = split_example(payload)
            if features.keys() >= _TRANSITION_FEATURES:
                raise ReplayFormatError(
                    f"{name} holds single transitions in random order (RL Unplugged's older directory atari), not "
                    f"episodes, which are in its directory atari_episodes_ordered; {transitions_advice}"
                )
            record = ShardRecord.parse(features, index)
        yield record
        index += 1


@dataclass(frozen=True)
class ShardRecord:
    """An episode of T steps whose frames are not decoded yet.

    Attributes:
        observations: T PNG files.
        actions: int64 ``[T]``.
        rewards: float32 ``[T]``, clipped to [-1, 1].
        raw_rewards: float32 ``[T]``, the rewards before clipping; None if the record has only clipped ones.
        terminated: Whether the game was over after the last step; false where a time limit truncated the episode.
        index: Position of the record in its file, counted from 0.
    """

    observations: Sequence[memoryview]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32] | None
    terminated: bool
    index: int = 0

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def parse(cls, features: Mapping[str, memoryview], index: int = 0) -> ShardRecord:
        """Parse the features of an episode.

        Raises:
            ValueError: If they are not those of an episode.
        """
        lists: dict[str, Any] = {}
        for name, read in _FEATURES:
            values = read(features.get(name, memoryview(b"")), _MAX_STEPS)
            if len(values) or name not in ("clipped_rewards", "unclipped_rewards"):
                lists[name] = values
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) > 1 or not lengths["actions"]:
            listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"its features should have the same length and not be empty: {listed}")
        terminated = bool(lists["discounts"][-1] == 0)
        steps = slice(len(lists["actions"]) - terminated)  # a final frame is no step
        lists = {name: values[steps] for name, values in lists.items()}
        raw, clipped = lists.get("unclipped_rewards"), lists.get("clipped_rewards")
        widest = clipped if raw is None else raw
        if widest is None or not len(widest):
            raise ValueError("it has no rewards" if widest is None else "it has no step, only a final frame")
        rewards = widest.clip(-1, 1)
        if not np.isfinite(widest).all() or (clipped is not None and (clipped != rewards).any()):
            raise ValueError("its clipped rewards are not its rewards clipped to [-1, 1]")
        return cls(lists["observations"], lists["actions"], rewards, raw, terminated, index)

    def decode(self) -> Episode:
        """Return the episode with its frames decoded.

        Raises:
            ValueError: If a frame is not a PNG of a gray 84×84 frame.
        """
        frames = np.empty((len(self), *FRAME_SHAPE), dtype=np.uint8)
        for step, png in enumerate(self.observations):
            if (frame := decode_png(png)) is None:
                raise ValueError(f"frame {step} is not a gray 84×84 PNG")
            frames[step] = frame
        return Episode(frames, self.actions.astype(np.uint8), self.rewards, self.raw_rewards, self.terminated)
