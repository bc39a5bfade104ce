"""Decode the PNG images of 84×84 pixels in which sources keep frames."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

# Bytes of a file for each channel. A gray image that is stored without compression has 84 rows of 85 bytes, in about 70
# bytes of PNG and zlib.
MAX_PNG_BYTES = 1 << 13

# The magic bytes and the beginning of the first chunk: its length and name, width and height.
_PNG_START = PNG_MAGIC + b"\0\0\0\rIHDR" + b"".join(size.to_bytes(4, "big") for size in FRAME_SHAPE[::-1])


def decode_png(png: memoryview, channels: int = 1) -> npt.NDArray[np.uint8] | None:
    """Decode an image of 8 bits a channel.

    Args:
        png: The file.
        channels: Number of channels: 1 for gray, 4 for RGBA.

    Returns:
        uint8 ``[84, 84]``, or ``[84, 84, 4]`` in the order BGRA; None if the file is damaged or another image.
    """
    from replay_data.opencv import cv2  # only some source formats need it

    # The size in the header is checked before OpenCV allocates memory for it.
    if len(png) > MAX_PNG_BYTES * channels or bytes(png[: len(_PNG_START)]) != _PNG_START:
        return None
    image: Any = None
    with contextlib.suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    shape = FRAME_SHAPE if channels == 1 else (*FRAME_SHAPE, channels)
    return np.asarray(image) if image is not None and image.shape == shape and image.dtype == np.uint8 else None
