"""Open the ``.npy`` files of a trajectory store as memory maps, and check them against its metadata.

Nothing here trusts a file: shapes are compared with sizes before anything is mapped, and every value that could lead a
reader astray is checked, except those of the frames, of which every value is a valid pixel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.byte_statistics import ByteSums
from replay_data.episode import FRAME_SHAPE, LEAD_IN
from replay_data.errors import summarize_error
from replay_data.observation import RAM_SIZE
from replay_data.storage.npy_header import read_npy_header
from replay_data.storage.regular_files import check_regular_file
from replay_data.store_metadata import DTYPES, OPTIONAL_ARRAYS, StoreMetadata, mismatch_error

Arrays = Mapping[str, npt.NDArray[Any]]


def open_arrays(path: Path, metadata: StoreMetadata) -> Arrays:
    """Open and check the arrays of the store at ``path``.

    Args:
        path: Directory of the store.
        metadata: Content of its ``metadata.json``.

    Returns:
        Read-only memory maps by name, as `replay_data.trajectory_store` describes them; optional arrays may be missing.

    Raises:
        InputError: If an array cannot be read, has impossible values, or does not match the metadata.
    """
    for name in metadata.arrays:
        if name not in DTYPES:
            raise mismatch_error(path, f"a store has no array named {name[:80]!r}")
    arrays = {
        name: _open_array(path, name, metadata)
        for name in DTYPES
        if name not in OPTIONAL_ARRAYS or name in metadata.arrays
    }
    _check_episodes(path, metadata, arrays)
    _check_values(path, metadata, arrays)
    _check_timesteps(path, metadata, arrays)
    _check_returns(path, metadata, arrays)
    _check_ram_statistics(path, metadata, arrays)
    return arrays


def _open_array(path: Path, name: str, metadata: StoreMetadata) -> npt.NDArray[Any]:
    """Map an array, and compare its shape, dtype, size and SHA-256 with the metadata."""
    file, dtype = path / f"{name}.npy", np.dtype(DTYPES[name])
    stated = metadata.arrays.get(name)
    try:
        if stated is None:
            raise ValueError("the metadata does not mention it")
        check_regular_file(file)
        with file.open("rb") as stream:
            found_shape, found_dtype = read_npy_header(stream)
            offset = stream.tell()
    except (OSError, ValueError, EOFError) as error:
        raise mismatch_error(path, f"{file.name} cannot be read ({summarize_error(error)})") from error
    per_episode = name in ("episode_ends", "terminated")
    length = stated.shape[:1] or (metadata.episodes if per_episode else metadata.steps,)
    row_shape = {"frames": FRAME_SHAPE, "ram": (RAM_SIZE,)}.get(name, ())
    shape = (*length, *row_shape)
    for each_shape, each_dtype in ((found_shape, found_dtype.name), (stated.shape, stated.dtype)):
        if (each_shape, each_dtype) != (shape, dtype.name):
            found, expected = f"{each_dtype[:80]} {list(each_shape)}", f"{dtype.name} {list(shape)}"
            raise mismatch_error(path, f"{file.name} is {found} instead of {expected}")
    size, full_size = file.stat().st_size, offset + math.prod(shape) * dtype.itemsize
    if size != full_size:
        raise mismatch_error(path, f"{file.name} has {size:,} bytes instead of {full_size:,}")
    if not shape[0]:
        return np.zeros(shape, dtype)  # an empty array cannot be mapped
    array: npt.NDArray[Any] = np.memmap(file, dtype, "r", offset, shape)
    if name != "frames" and hashlib.sha256(array.data).hexdigest() != stated.sha256:
        raise mismatch_error(path, f"the SHA-256 of {file.name} differs")
    return array


def _check_episodes(path: Path, metadata: StoreMetadata, arrays: Arrays) -> None:
    """Check that the arrays describe the same whole episodes."""
    ends, frame_index = arrays["episode_ends"], arrays["frame_index"]
    steps, num_frames = len(arrays["actions"]), len(arrays["frames"])
    lengths = {
        name: len(ends) if name in ("episode_ends", "terminated") else steps for name in arrays if name != "frames"
    }
    same = all(len(arrays[name]) == length for name, length in lengths.items())
    ascending = len(ends) > 0 and ends[0] > 0 and (ends[1:] > ends[:-1]).all()
    if not (same and ascending and ends[-1] == steps):
        raise mismatch_error(path, "its arrays do not describe the same episodes")
    if steps != metadata.steps or len(ends) != metadata.episodes:
        raise mismatch_error(path, f"it has {steps} steps in {len(ends)} episodes")
    inside = frame_index.min() >= LEAD_IN and frame_index.max() < num_frames
    gaps = np.diff(frame_index) != 1
    gaps[ends[:-1] - 1] = False  # between two episodes
    if not inside or gaps.any():
        raise mismatch_error(path, "frame_index does not lead through frames episode by episode")


def _check_values(path: Path, metadata: StoreMetadata, arrays: Arrays) -> None:
    """Check the range of actions, rewards, returns-to-go and flags."""
    if (largest := arrays["actions"].max()) >= len(metadata.action_meanings):
        raise mismatch_error(path, f"action {largest} has no meaning")
    for name in ("rewards", "raw_rewards", "returns_to_go"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            step = int(np.isfinite(arrays[name]).argmin())
            raise mismatch_error(path, f"{name} is {arrays[name][step]} at step {step}")
    largest = max(arrays["rewards"].max(), -arrays["rewards"].min())
    if metadata.reward_clipping and largest > 1:
        raise mismatch_error(path, f"clipped rewards reach {largest:g}")
    if "terminated" in arrays and arrays["terminated"].view(np.uint8).max() > 1:
        raise mismatch_error(path, "terminated holds something other than true and false")


def _check_timesteps(path: Path, metadata: StoreMetadata, arrays: Arrays) -> None:
    """Check that timesteps count up from 0, and start again with each episode.

    Those of the paper's own draw start again elsewhere (docs/protocol.md, points 2 and 5).
    """
    timesteps, ends = arrays["timesteps"], arrays["episode_ends"]
    restarts = 1 + np.flatnonzero(np.diff(timesteps) != 1)
    wrong = restarts[timesteps[restarts] != 0]
    if timesteps[0] != 0 or timesteps.min() < 0 or len(wrong):
        step = int(wrong[0]) if len(wrong) else 0
        raise mismatch_error(
            path, f"timestep {timesteps[step]} at step {step} neither counts on from the step before nor starts at 0"
        )
    if metadata.source.selection.get("method") != "original" and not np.array_equal(restarts, ends[:-1]):
        raise mismatch_error(path, "its timesteps do not start at 0 with each episode")


def _check_returns(path: Path, metadata: StoreMetadata, arrays: Arrays) -> None:
    """Compare the returns and scores in the metadata with those of the episodes."""
    starts = np.concatenate([[0], arrays["episode_ends"][:-1]])
    returns = arrays["returns_to_go"][starts]
    numbers = [
        ("max_return", metadata.max_return, returns.max()),
        ("mean_return", metadata.mean_return, returns.mean(dtype=np.float64)),
    ]
    scores = np.add.reduceat(arrays["raw_rewards"], starts, dtype=np.float64) if "raw_rewards" in arrays else None
    for name, stated in (("max_score", metadata.max_score), ("mean_score", metadata.mean_score)):
        if stated is not None and scores is None:
            raise mismatch_error(path, f"it has a {name} without raw rewards")
        if stated is not None and scores is not None:
            numbers.append((name, stated, scores.max() if name == "max_score" else scores.mean()))
    for name, stated, value in numbers:
        if not np.isclose(stated, value, rtol=1e-4, atol=1e-4):
            raise mismatch_error(path, f"its {name} is {value:g}, not {stated:g}")


def _check_ram_statistics(path: Path, metadata: StoreMetadata, arrays: Arrays) -> None:
    """Compare the mean and standard deviation of each byte of the RAM in the metadata with those of the array."""
    if metadata.ram_statistics is None:
        return
    sums = ByteSums()
    sums.add(arrays["ram"])
    statistics = sums.statistics()
    for name in ("mean", "std"):
        stated, values = (np.array(getattr(each, name)) for each in (metadata.ram_statistics, statistics))
        same = np.isclose(stated, values, rtol=1e-9, atol=1e-9)
        if not same.all():
            address = int(same.argmin())
            raise mismatch_error(
                path, f"the {name} of byte {address} of the RAM is {values[address]:g}, not {stated[address]:g}"
            )
