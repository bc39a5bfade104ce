"""OpenCV where its wheel or its system libraries are missing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from replay_data import opencv
from replay_data.errors import InputError


def test_error_names_the_missing_library_and_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "libGL.so.1: cannot open shared object file: No such file or directory"  # as the dynamic linker says it
    (tmp_path / "cv2.py").write_text(f"raise ImportError({reason!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2")
    with pytest.raises(InputError, match=f"\\(ImportError: {reason}\\); install .* libgl1 .*opencv-python-headless"):
        importlib.reload(opencv)


def test_error_where_no_opencv_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"OpenCV cannot be imported .*cv2"):
        importlib.reload(opencv)
