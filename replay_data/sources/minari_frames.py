"""Turn the observations of a Minari episode into gray 84×84 frames, a block of steps at a time.

Observations are screens in color or gray, of any size, or stacks of such, raw or as JPEG. The newest frame of a stack
is its last. Colors become gray levels by OpenCV's formula (0.299 R + 0.587 G + 0.114 B, rounded), which gives ALE's own
gray screen bit for bit in all its games but Air Raid (docs/data.md). A JPEG holds these gray levels beside the colors,
and they are read directly. Screens are then scaled by area interpolation, as everywhere in this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE

_MAX_STACK = 16  # frames of a stack

_MAX_SIDE = 512  # pixels; ALE's screens have at most 250×160

_BLOCK_BYTES = 16 << 20  # of observations to read at once

_CHECKED_STACKS = 9  # at the start of each episode

_MAX_JPEG_BYTES = 1 << 20  # of a screen; those of the public datasets have less than 20,000

_COLORS = 3


@dataclass(frozen=True)
class ObservationLayout:
    """How the observations of a dataset are stored.

    Attributes:
        shape: Shape of an observation; empty for a JPEG, which tells its own.
        stack_axis: Axis of the observation along which frames are stacked, or None.
    """

    shape: tuple[int, ...]
    stack_axis: int | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...], is_vlen: bool) -> ObservationLayout:
        """Return the layout of an HDF5 dataset of uint8.

        Args:
            shape: Shape of the dataset, ``[T + 1, …]``.
            is_vlen: Whether its items are byte strings of any length. Minari writes JPEGs of equal length as an array.

        Raises:
            ValueError: If it cannot hold frames.
        """
        each = shape[1:]
        if len(each) == (0 if is_vlen else 1):
            return cls(())
        has_colors = len(each) > 2 and each[-1] in (1, _COLORS)
        screens = each[:-1] if has_colors else each
        stack_axis = None
        if len(screens) == 3:
            stack_axis = 0 if has_colors or screens[0] <= _MAX_STACK else 2
        size = tuple(side for axis, side in enumerate(screens) if axis != stack_axis)
        num_stacked = 1 if stack_axis is None else screens[stack_axis]
        has_colors_first = num_stacked == _COLORS and not has_colors
        is_screen = len(size) == 2 and all(FRAME_SHAPE[0] <= side <= _MAX_SIDE for side in size)
        if is_vlen or not is_screen or not 1 <= num_stacked <= _MAX_STACK or has_colors_first:
            raise ValueError(
                f"its observations have shape {list(each)}, not that of a screen ([210, 160, 3], [210, 160], "
                "[84, 84]) or of a stack of screens ([4, 84, 84], [84, 84, 4])"
            )
        return cls(each, stack_axis)

    @property
    def is_jpeg(self) -> bool:
        """Whether observations are JPEG files."""
        return not self.shape

    def describe(self) -> str:
        """Return the layout as text, such as ``210x160x3`` or ``JPEG``."""
        return "x".join(map(str, self.shape)) or "JPEG"


def read_frames(observations: Any, layout: ObservationLayout, num_steps: int) -> npt.NDArray[np.uint8]:
    """Read the newest frame of the first observations of an episode.

    Args:
        observations: The HDF5 dataset, or the byte strings of one.
        layout: Its layout.
        num_steps: Number of observations to read.

    Returns:
        uint8 ``[num_steps, 84, 84]``.

    Raises:
        ValueError: If an observation is damaged, or stacks are not those of consecutive frames, oldest first.
    """
    frames = np.empty((num_steps, *FRAME_SHAPE), dtype=np.uint8)
    bytes_per_step = _MAX_JPEG_BYTES // 16 if layout.is_jpeg else int(np.prod(layout.shape))
    chunk_steps = observations.chunks[0] if observations.chunks else 1
    block = chunk_steps * max(1, _BLOCK_BYTES // (bytes_per_step * chunk_steps))  # read no chunk twice
    if layout.stack_axis is not None:
        _check_stacks(observations[:_CHECKED_STACKS], layout.stack_axis + 1)
    newest: tuple[Any, ...] = () if layout.stack_axis is None else (slice(None),) * layout.stack_axis + (-1,)
    for start in range(0, num_steps, block):
        stop = min(start + block, num_steps)
        screens = observations[(slice(start, stop), *newest) if newest else slice(start, stop)]
        for step, screen in enumerate(screens, start):
            try:
                frames[step] = _to_frame(_decode_jpeg(screen) if layout.is_jpeg else screen)
            except ValueError as error:
                raise ValueError(f"observation {step} {error}") from error
    return frames


def _to_frame(screen: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a screen ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` as a gray frame ``[84, 84]``."""
    from replay_data.opencv import cv2  # here, because reading options must not wait for it

    gray: Any = screen
    if screen.ndim == 3:
        gray = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) if screen.shape[2] == _COLORS else screen[:, :, 0]
    if gray.shape != FRAME_SHAPE:
        gray = cv2.resize(gray, FRAME_SHAPE[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(gray, dtype=np.uint8)


def _decode_jpeg(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the gray levels of a JPEG.

    Raises:
        ValueError: If it is damaged, or not the size of a screen.
    """
    from replay_data.opencv import cv2

    # The size in the header is checked before OpenCV allocates memory for it.
    size = _read_jpeg_size(data.tobytes()) if len(data) <= _MAX_JPEG_BYTES else None
    if size is None:
        raise ValueError("is not a whole JPEG file")
    if not all(FRAME_SHAPE[0] <= side <= _MAX_SIDE for side in size):
        raise ValueError(f"is a JPEG of {size[0]}×{size[1]} pixels, not a screen")
    try:
        screen = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        screen = None
    if screen is None or screen.shape != size:
        raise ValueError("is a damaged JPEG file")
    return np.asarray(screen, dtype=np.uint8)


def _read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the height and width in the header of a JPEG file; None if it is not one, or not whole."""
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return None
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return height, width
        position += 2 + length
    return None


def _check_stacks(stacks: npt.NDArray[np.uint8], axis: int) -> None:
    """Check that consecutive stacks share their frames, oldest first.

    Raises:
        ValueError: If they do not.
    """
    by_age = np.moveaxis(stacks, axis, 1)
    if not np.array_equal(by_age[1:, :-1], by_age[:-1, 1:]):
        raise ValueError("its stacks do not hold consecutive frames, oldest first")
