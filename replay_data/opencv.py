"""OpenCV. The project imports it here only, so that one sentence explains a missing system library."""

from __future__ import annotations

from replay_data.errors import InputError, summarize_error

try:
    import cv2
except ImportError as error:
    # The wheel of opencv-python needs libraries for its windows, which slim containers lack and nothing here opens.
    raise InputError(
        f"OpenCV cannot be imported ({summarize_error(error)}); install its system libraries (on Debian and Ubuntu: "
        "apt-get install libgl1 libglib2.0-0), or replace the package opencv-python by opencv-python-headless"
    ) from error

__all__ = ["cv2"]
