"""Decode an episode of the JAT dataset: stacks of four frames, each an RGBA image in a PNG file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, STACK, Episode
from replay_data.sources.png_images import PNG_MAGIC, decode_png

# The stack's channels are RGBA, the oldest frame first. OpenCV returns them as BGRA.
_NEWEST, _SECOND_NEWEST = 3, 0

# Share of the steps that must continue the stack of the step before. A lost life interrupts it once.
_MIN_CONTINUED = 0.9


@dataclass(frozen=True)
class JatRow:
    """An episode of T steps whose stacks are not decoded yet.

    Attributes:
        index: Position in its file, counted from 0.
        rewards: float32 ``[T]``, not clipped.
        actions: int64 ``[T]``; empty if only rewards were read.
        images: T PNG files; empty if only rewards were read.
    """

    index: int
    rewards: npt.NDArray[np.float32]
    actions: npt.NDArray[np.int64]
    images: list[memoryview]

    def decode(self, terminated: bool) -> Episode:
        """Return the episode with the newest frame of each stack decoded.

        Args:
            terminated: Whether the game was over after the last step.

        Raises:
            ValueError: If an image is not a PNG of four 84×84 channels, or the stacks do not continue each other.
        """
        frames = np.empty((len(self.images), *FRAME_SHAPE), dtype=np.uint8)
        num_continued = 0
        for step, png in enumerate(self.images):
            # OpenCV prints lines of its own about wrong checksums.
            stack = decode_png(png, STACK) if _has_valid_checksums(png) else None
            if stack is None:
                raise ValueError(f"image {step} is not a PNG of four 84×84 channels, or is damaged")
            frames[step] = stack[..., _NEWEST]
            num_continued += step > 0 and np.array_equal(stack[..., _SECOND_NEWEST], frames[step - 1])
        if num_continued < _MIN_CONTINUED * (len(frames) - 1):
            raise ValueError(
                f"only {num_continued:,} of its {len(frames) - 1:,} stacks of frames continue the one before with the "
                "newest frame last"
            )
        return Episode(frames, self.actions.astype(np.uint8), self.rewards.clip(-1, 1), self.rewards, terminated)


def _has_valid_checksums(png: memoryview) -> bool:
    """Return whether a PNG has all its chunks, and their checksums are right."""
    position = len(PNG_MAGIC)
    while position + 12 <= len(png):  # a chunk is its length, its name, its content and its checksum
        end = position + 8 + int.from_bytes(png[position : position + 4], "big")
        if zlib.crc32(png[position + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            return False
        if bytes(png[position + 4 : position + 8]) == b"IEND":
            return True
        position = end + 4
    return False
