"""Write a trajectory store as a Minari dataset, so that other libraries can train on it.

The dataset has the files that `replay_data.sources.minari_reader` describes, compressed with gzip. Observations are
``[4, 84, 84]``, the last four frames, or ``[1, 84, 84]``: with a channel axis in front, because Minari compresses
two-dimensional uint8 observations as JPEG. A store does not have the observation after the last action of an episode,
which Minari requires; its newest frame is the one before once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, LEAD_IN, STACK
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.recording import Recording
from replay_data.sources.minari_directories import DATA_FILE, METADATA_FILE
from replay_data.sources.minari_metadata import DATA_FORMAT, RECORDING, REWARD_CLIPPING
from replay_data.storage.atomic import atomic_directory, atomic_write, sync
from replay_data.storage.hdf5_files import create_hdf5, import_h5py
from replay_data.storage.paths import check_free_space, check_new_directory
from replay_data.storage.workers import Job, run_in_order
from replay_data.trajectory_store import TrajectoryStore

MINARI_VERSION = "0.5.2"  # the oldest version that reads the dataset as it is written here

_DATASET_ID = re.compile(r"(?:[-\w][-\w/]*[-\w]/)?[-\w]+-v\d+")  # Minari's own pattern

_NAMESPACE_FILE = "namespace_metadata.json"  # Minari uploads only datasets whose namespaces have it

_CHUNK_STEPS = 32  # 0.9 MB of stacks, which fit into HDF5's cache of 1 MiB

_BLOCK_STEPS = 16 * _CHUNK_STEPS  # in memory at a time

_GZIP_LEVEL = 4

_MIN_BYTES_PER_STEP = 50  # a third of what single frames of Breakout take


@dataclass(frozen=True)
class DatasetDescription:
    """What a dataset says about itself; None leaves a field out.

    Attributes:
        author: Name of the author.
        author_email: Address of the author.
        license: Name of the license, such as ``"CC-BY-4.0"``.
        algorithm_name: Name of the player; by default that of the recording, or the names of its trained policies.
        description: Text in Markdown; by default, how the episodes were recorded, selected and exported.
    """

    author: str | None = None
    author_email: str | None = None
    license: str | None = None
    algorithm_name: str | None = None
    description: str | None = None


def minari_root() -> Path:
    """Return the directory where Minari keeps its datasets."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path.home() / ".minari" / "datasets" if root is None else Path(root)


def export_to_minari(
    store: TrajectoryStore,
    dataset_id: str,
    root: Path,
    *,
    env_spec: str | None = None,
    stack: bool = True,
    description: DatasetDescription | None = None,
    show_progress: bool = True,
) -> Path:
    """Write a store as a Minari dataset, one episode after another.

    Args:
        store: The store.
        dataset_id: Identifier, such as ``"atari/breakout/mine-v0"``.
        root: Directory where Minari keeps its datasets; the dataset becomes ``root/dataset_id``.
        env_spec: JSON of a `gymnasium.envs.registration.EnvSpec` with the same observations, or None.
        stack: Whether an observation is the last four frames ``[4, 84, 84]``, oldest first, or only the newest
            ``[1, 84, 84]``.
        description: What the dataset says about itself.
        show_progress: Whether to show a progress bar.

    Returns:
        Directory of the dataset.

    Raises:
        InputError: If the identifier is malformed or in use, the store does not hold whole episodes whose ends are
            known, or h5py is not installed.
    """
    path = _check_dataset_id(dataset_id, root)
    _check_store(store)
    check_free_space(path, len(store) * _MIN_BYTES_PER_STEP)
    import_h5py()  # before anything is created
    bar = ProgressBar(total=len(store), unit="step", unit_scale=True, desc="exporting", disable=not show_progress)
    try:
        with _remove_new_parents(path), atomic_directory(path) as hidden, bar:
            data = hidden / "data"
            data.mkdir()
            job = Job(path, partial(_write_file, data / DATA_FILE, store, stack))
            with contextlib.closing(run_in_order([job], 1)) as written:
                for num_steps in written:
                    bar.update(num_steps)
            size = (data / DATA_FILE).stat().st_size
            metadata = _metadata(store, dataset_id, env_spec, stack, description or DatasetDescription(), size)
            (data / METADATA_FILE).write_text(json.dumps(metadata))
            for file in (*data.iterdir(), data):
                sync(file)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    for namespace in path.relative_to(root).parents[:-1]:
        if not (root / namespace / _NAMESPACE_FILE).exists():
            atomic_write(root / namespace / _NAMESPACE_FILE, "{}")
    return path


def _check_dataset_id(dataset_id: str, root: Path) -> Path:
    """Return the directory of a new dataset.

    Raises:
        InputError: If the identifier is malformed or in use.
    """
    if not _DATASET_ID.fullmatch(dataset_id) or "//" in dataset_id:
        raise InputError(
            f"{dataset_id!r} is not a name of a Minari dataset; names consist of letters, digits, hyphens and "
            "underscores and end in a version, like atari/breakout/mine-v0"
        )
    path = root / dataset_id
    if os.path.lexists(path):
        raise InputError(f"the Minari dataset {dataset_id} exists already in {path}; choose another name or version")
    for parent in path.relative_to(root).parents[:-1]:
        if (root / parent / "data").exists():
            raise InputError(f"{parent} is a Minari dataset itself, which cannot hold another one; choose another name")
    check_new_directory(path)
    return path


def _check_store(store: TrajectoryStore) -> None:
    """Check that a store holds whole episodes, and knows how they ended.

    Raises:
        InputError: If it does not.
    """
    if store.metadata.source.selection.get("method") == "original":
        raise InputError(
            f"{store.path} holds the rows of the paper's original draw, which are not whole episodes; build a store "
            "with `selection` corrected from the same log and export that"
        )
    if store.terminated is None:
        raise InputError(
            f"{store.path} does not tell terminated from truncated episodes, like stores of format 1; build it again "
            "from the recorded run"
        )


@contextmanager
def _remove_new_parents(path: Path) -> Iterator[None]:
    """Remove the parents of ``path`` that did not exist before, if the block raises."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _write_file(path: Path, store: TrajectoryStore, stack: bool) -> Iterator[int]:
    """Write ``main_data.hdf5``; yield the number of steps written after each block."""
    with create_hdf5(path) as (file, check):
        for index in range(store.num_episodes):
            for num_steps in _write_episode(file.create_group(f"episode_{index}"), store, index, stack):
                check()
                yield num_steps


def _write_episode(group: Any, store: TrajectoryStore, index: int, stack: bool) -> Iterator[int]:
    """Write an episode of T steps to its group; yield the number of steps after each block."""
    assert store.terminated is not None
    steps = slice(int(store.episode_starts[index]), int(store.episode_ends[index]))
    num_steps = steps.stop - steps.start
    rewards = (store.rewards if store.raw_rewards is None else store.raw_rewards)[steps]
    ends = np.zeros((2, num_steps), dtype=np.bool_)
    ends[0 if store.terminated[index] else 1, -1] = True
    group.attrs.update({"id": index, "total_steps": num_steps})
    statistics: dict[str, Any] = {"sum": np.sum, "mean": np.mean, "std": np.std, "max": np.max, "min": np.min}
    group.attrs.update({f"rewards_{name}": compute(rewards) for name, compute in statistics.items()})
    columns: dict[str, npt.NDArray[Any]] = {
        "actions": store.actions[steps].astype(np.int64),
        "rewards": rewards,
        "terminations": ends[0],
        "truncations": ends[1],
    }
    for name, values in columns.items():
        _create_dataset(group, name, values.shape, values.dtype)[:] = values
    shape = (num_steps + 1, STACK if stack else 1, *FRAME_SHAPE)
    observations = _create_dataset(group, "observations", shape, np.dtype(np.uint8))
    for start in range(0, num_steps + 1, _BLOCK_STEPS):
        stop = min(start + _BLOCK_STEPS, num_steps + 1)
        observations[start:stop] = _observations(store, steps, start, stop, stack)
        yield min(stop, num_steps) - min(start, num_steps)


def _create_dataset(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return group.create_dataset(
        name,
        shape,
        dtype,
        chunks=(min(_CHUNK_STEPS if len(shape) > 1 else 4096, shape[0]), *shape[1:]),
        maxshape=(None, *shape[1:]),  # Minari can append to an episode
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
    )


def _observations(store: TrajectoryStore, steps: slice, start: int, stop: int, stack: bool) -> npt.NDArray[np.uint8]:
    """Return observations ``start`` to ``stop - 1`` of the episode that has these steps, uint8 ``[…, 1 or 4, 84, 84]``.

    Observation T, after the last of T steps, repeats the newest frame.
    """
    num_steps = steps.stop - steps.start
    first = int(store.frame_index[steps.start])
    frames = store.frames[first + start - LEAD_IN : first + min(stop, num_steps)]
    if stop > num_steps:
        frames = np.concatenate([frames, frames[-1:]])
    if not stack:
        return frames[LEAD_IN:, None]
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(frames, STACK, axis=0), -1, 1)


def _metadata(
    store: TrajectoryStore,
    dataset_id: str,
    env_spec: str | None,
    stack: bool,
    description: DatasetDescription,
    size: int,
) -> dict[str, Any]:
    """Return the content of ``metadata.json``."""
    shape = [STACK if stack else 1, *FRAME_SHAPE]
    low, high = (np.full(shape, value).tolist() for value in (0, 255))
    recording = store.metadata.source.first_origin.recording
    content: dict[str, Any] = {
        "dataset_id": dataset_id,
        "total_episodes": store.num_episodes,
        "total_steps": len(store),
        "dataset_size": round(size / 1e6, 1),  # in MB
        "data_format": DATA_FORMAT,
        "jpeg_encoding": False,
        "minari_version": MINARI_VERSION,
        "observation_space": json.dumps({"type": "Box", "dtype": "uint8", "shape": shape, "low": low, "high": high}),
        "action_space": json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": store.num_actions}),
        "env_spec": env_spec,
        "author": None if description.author is None else [description.author],
        "author_email": None if description.author_email is None else [description.author_email],
        "license": description.license,
        "algorithm_name": description.algorithm_name or (None if recording is None else _name_players(recording)),
        "description": description.description or _describe(store, stack),
        "requirements": None if env_spec is None else ["ale-py", "gymnasium>=1.0"],
        REWARD_CLIPPING: store.raw_rewards is None and store.metadata.reward_clipping,
        RECORDING: None if recording is None else recording.to_json(),
    }
    return {name: value for name, value in content.items() if value is not None}


def _name_players(recording: Recording) -> str:
    """Return the names of the trained policies that were recorded, or of another player."""
    return ", ".join(recording.policies) or recording.agent


def _describe(store: TrajectoryStore, stack: bool) -> str:
    """Return a description of the dataset in sentences."""
    metadata, source = store.metadata, store.metadata.source.first_origin
    recording = source.recording
    sticky = "unknown" if metadata.sticky_actions is None else f"{metadata.sticky_actions:g}"
    rewards = "unclipped" if store.raw_rewards is not None or not metadata.reward_clipping else "clipped to [-1, 1]"
    if recording is not None:
        origin = f"played by {_name_players(recording)}, recorded by atari-dt"
    else:
        origin = source.format if source.run is None else f"{source.format}, run {source.run}"
    selections = [each.selection.items() for each in metadata.source.origins if each.selection]
    selection = ", then ".join(", ".join(f"{name} {value}" for name, value in options) for options in selections)
    return " ".join(
        [
            f"{metadata.game}, {store.num_episodes:,} episodes, exported by atari-dt from a trajectory store.",
            f"Origin: {origin}{f'; selection: {selection}' if selection else ''}.",
            "An observation holds the last four gray frames, oldest first, zeros before the start."
            if stack
            else "An observation is a single gray frame; four of them make a state.",
            "The newest frame of each episode's last observation repeats the one before it.",
            f"Frame skip: 4. Probability of sticky actions: {sticky}. Rewards: {rewards}.",
            f"Actions: {', '.join(metadata.action_meanings)}.",
        ]
    )
