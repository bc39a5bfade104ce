"""Parse one record of an RL Unplugged shard: an episode whose frames are PNGs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import message

from replay_data.episode import FRAME_SHAPE, Episode
from replay_data.sources.tfrecord import Example

_FEATURES: tuple[tuple[str, str, Any], ...] = (
    ("observations", "bytes_list", None),
    ("actions", "int64_list", np.int64),
    ("discounts", "float_list", np.float32),
    ("clipped_rewards", "float_list", np.float32),
    ("unclipped_rewards", "float_list", np.float32),
)


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

    observations: list[bytes]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32] | None
    terminated: bool
    index: int = 0

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def parse(cls, payload: bytes, index: int = 0) -> ShardRecord:
        """Parse a `tf.train.Example`.

        Raises:
            ValueError: If it is not an episode.
        """
        example = Example()
        try:
            example.ParseFromString(payload)
        except message.DecodeError as error:
            raise ValueError("it is not a tf.train.Example") from error
        features = example.features.feature
        lists: dict[str, Any] = {}
        for name, list_type, dtype in _FEATURES:
            # Indexing `features` with a name that is not in it would create an empty feature.
            values = getattr(features[name], list_type).value if name in features else []
            if values or name not in ("clipped_rewards", "unclipped_rewards"):
                lists[name] = list(values) if dtype is None else np.array(values, dtype)
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
        from replay_data.opencv import cv2  # the only source format that needs it

        frames = np.empty((len(self), *FRAME_SHAPE), dtype=np.uint8)
        for step, png in enumerate(self.observations):
            try:
                frame = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
            except cv2.error:
                frame = None
            if frame is None or frame.shape != FRAME_SHAPE or frame.dtype != np.uint8:
                raise ValueError(f"frame {step} is not a gray 84×84 PNG")
            frames[step] = frame
        return Episode(frames, self.actions.astype(np.uint8), self.rewards, self.raw_rewards, self.terminated)
