"""Read a Minari dataset of Atari episodes (Farama Foundation; the public ones are ``atari/{game}/expert-v0``).

A dataset is ``metadata.json`` (`replay_data.sources.minari_metadata`) and ``main_data.hdf5``, with a group for each
episode of T steps, ``episode_0``, ``episode_1``, …:

================  ===================================================================================
``observations``  uint8 ``[T + 1, …]``, or JPEG files (`replay_data.sources.minari_frames`)
``actions``       integers ``[T]``
``rewards``       numbers ``[T]``, not clipped
``terminations``  bool ``[T]``; the last one tells whether the game was over
``truncations``   bool ``[T]``; the last one tells whether the episode was cut short
================  ===================================================================================

The last observation, after the last action, is not used.

The files are read with h5py: nothing in them is executed, and datasets that lie in other files are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import Episode, Shard
from replay_data.errors import ReplayFormatError, summarize_error
from replay_data.json_fields import Scalar
from replay_data.recording import Recording
from replay_data.sources.minari_directories import DATA_FILE, find_data_directory
from replay_data.sources.minari_frames import ObservationLayout, read_frames
from replay_data.sources.minari_metadata import DATA_FORMAT, FRAME_SKIP, MinariMetadata, read_minari_metadata
from replay_data.storage.hdf5_files import import_h5py
from replay_data.storage.hdf5_strings import ByteStrings
from replay_data.storage.regular_files import check_regular_file

_MAX_STEPS = 108_000  # of an episode: ALE's time limit of half an hour, if a step is one emulator frame

_MAX_CHUNK_BYTES = 64 << 20  # HDF5 reads a chunk whole; h5py and Minari choose at most 1 MiB

_FILTERS = {1: 1100, 2: 1, 3: 1, 32000: 300}
"""Largest factor by which each filter that is accepted (gzip, shuffle, Fletcher-32 and LZF) makes a chunk smaller."""


class MinariRun:
    """A Minari dataset; a `replay_data.episode.EpisodeSource` of one shard.

    Args:
        path: The dataset's directory, or one above it, such as Minari's root ``~/.minari/datasets``; see
            `replay_data.sources.minari_directories.find_data_directory`.
        game: Name of the game, such as ``"Breakout"``.
        run: 1, because a dataset has one run.
        num_actions: Size of the game's minimal action set; datasets with another action set are refused.

    Attributes:
        directory: Directory of the dataset's files.
        shards: The dataset, as shard 0.
        num_shards: 1.
        missing: Empty.
        notes: How frames and steps differ from those that this project records, one sentence each.
        recording: Who played, and how, where this project recorded the episodes; None otherwise.
        sticky_actions: That of the environment; None if the dataset does not tell.
        has_raw_rewards: Whether the rewards are known to be unclipped; datasets that were exported from clipped rewards
            say that they are not.
        details: The dataset's identifier, author and algorithm, the environment, and how frames were made.

    Raises:
        ReplayFormatError: If there is no such dataset, it is of another game, frame skip or action set, or its files
            are damaged.
        InputError: If h5py is not installed.
    """

    num_shards = 1

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        if run != 1:
            raise ReplayFormatError(f"a Minari dataset has one run; set `run` to 1, not {run}")
        self.directory = find_data_directory(path, game)
        metadata = read_minari_metadata(self.directory)
        _check_metadata(self.directory, metadata, game, num_actions)
        shard = MinariShard(self.directory / DATA_FILE, metadata.num_episodes, num_actions)
        layout = shard.read_layout()
        self.shards: Mapping[int, Shard] = {0: shard}
        self.missing: set[int] = set()
        environment = metadata.environment
        self.recording: Recording | None = metadata.recording
        self.sticky_actions: float | None = environment.sticky_actions
        self.has_raw_rewards = not metadata.reward_clipping
        details: dict[str, Scalar] = {
            **metadata.texts,
            "environment": environment.id,
            "observations": layout.describe(),
            "lossy_frames": layout.is_jpeg,
            "max_pooled": environment.max_pooled,
        }
        self.details: Mapping[str, Scalar] = {name: value for name, value in details.items() if value is not None}
        self.notes = tuple(_notes(metadata, layout))


def _check_metadata(directory: Path, metadata: MinariMetadata, game: str, num_actions: int) -> None:
    """Check that a dataset is in HDF5, and of a game, its minimal action set and four emulator frames a step.

    Raises:
        ReplayFormatError: If it is not.
    """
    environment = metadata.environment
    if metadata.data_format != DATA_FORMAT:
        raise ReplayFormatError(
            f"{directory} is in Minari's format {metadata.data_format[:80]!r}, but only {DATA_FORMAT} is read here; "
            f"record or convert the dataset with data_format={DATA_FORMAT!r}"
        )
    if not environment.plays(game):
        name = environment.game if environment.id is None else environment.id
        raise ReplayFormatError(f"{directory} holds a dataset of {name}, not of {game}; set `game` or `path` to match")
    if environment.frame_skip not in (None, FRAME_SKIP):
        raise ReplayFormatError(
            f"{directory} holds steps of {environment.frame_skip} emulator frames, but a step here has {FRAME_SKIP}; "
            f"record the dataset with a frame skip of {FRAME_SKIP}"
        )
    if metadata.num_actions not in (None, num_actions) or (environment.full_action_space and num_actions != 18):
        raise ReplayFormatError(
            f"{directory} holds actions of a set of {metadata.num_actions or 18}, but {game} has {num_actions} in its "
            "minimal action set; record the dataset with full_action_space=False"
        )


def _notes(metadata: MinariMetadata, layout: ObservationLayout) -> Iterator[str]:
    environment = metadata.environment
    if layout.is_jpeg:
        yield (
            "the frames were compressed as JPEG; a pixel differs from the emulator's by up to 1 gray level on average, "
            "and by 12 at most, in six games that were measured"
        )
    if environment.max_pooled is False:
        yield (
            "each frame is the last of four emulator frames, not the maximum of the last two as in the DQN-replay data "
            "and in evaluation, so sprites that flicker are missing from some frames"
        )
    if environment.frame_skip is None:
        yield f"the dataset does not tell how many emulator frames a step has; {FRAME_SKIP} are assumed"
    if environment.ends_at_life_loss:
        yield "an episode ends when a life is lost"


class MinariShard:
    """The episodes of a dataset; a `replay_data.episode.Shard`.

    Args:
        path: Path of ``main_data.hdf5``.
        num_episodes: Number of episodes that it should have.
        num_actions: Size of the action set; a larger action is an error.
    """

    def __init__(self, path: Path, num_episodes: int, num_actions: int):
        self.path = path
        self._num_episodes, self._num_actions = num_episodes, num_actions

    def read_layout(self) -> ObservationLayout:
        """Return the layout of the first episode's observations."""
        with self._open() as file, self._name_episode(0):
            return _find_layout(_open_dataset(_open_episode(file, 0), "observations"))[0]

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield the episodes.

        Args:
            chosen: Indices of the episodes to yield, counted from 0; None for all.
        """
        with self._open() as file:
            for index in range(self._num_episodes):
                if chosen is None or index in chosen:
                    with self._name_episode(index):
                        episode = self._read(_open_episode(file, index))
                    yield episode

    def returns(self) -> Iterator[float]:
        """Yield the return (the sum of the clipped rewards) of every episode, without reading a frame."""
        with self._open() as file:
            for index in range(self._num_episodes):
                with self._name_episode(index):
                    steps = self._read_steps(_open_episode(file, index))
                yield float(steps.rewards.clip(-1, 1).sum(dtype=np.float64))

    def check(self, everything: bool = False) -> None:
        """Return None: Minari writes no checksums."""

    def close(self) -> None:
        """Do nothing: an iterator closes the file when it ends."""

    def _read(self, group: Any) -> Episode:
        steps = self._read_steps(group)
        observations = _open_dataset(group, "observations")
        layout, length = _find_layout(observations)
        if length != len(steps.actions) + 1:
            raise ValueError(f"it has {length} observations of {len(steps.actions)} steps, not one more")
        if import_h5py().check_vlen_dtype(observations.dtype) is None:
            frames = read_frames(observations, layout, len(steps.actions))
        else:
            with ByteStrings(self.path, observations) as strings:
                frames = read_frames(strings, layout, len(steps.actions))
        clipped = steps.rewards.clip(-1, 1)
        return Episode(frames, steps.actions.astype(np.uint8), clipped, steps.rewards, steps.terminated)

    def _read_steps(self, group: Any) -> _Steps:
        """Read everything but the observations.

        Raises:
            ValueError: If it is not one episode of valid actions and rewards.
        """
        actions = _read_column(group, "actions", "iu")
        rewards = _read_column(group, "rewards", "iuf").astype(np.float32)
        flags = {name: _read_column(group, name, "biu").astype(np.bool_) for name in ("terminations", "truncations")}
        lengths = {name: len(values) for name, values in {"actions": actions, "rewards": rewards, **flags}.items()}
        if len(set(lengths.values())) > 1 or not len(actions):
            listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"its arrays should have the same length and not be empty: {listed}")
        low, high = actions.min(), actions.max()
        if low < 0 or high >= self._num_actions:
            raise ValueError(f"its actions run from {low} to {high}, not from 0 to {self._num_actions - 1}")
        if not np.isfinite(rewards).all():
            step = int(np.isfinite(rewards).argmin())
            raise ValueError(f"its reward at step {step} is {rewards[step]}")
        ends = flags["terminations"] | flags["truncations"]
        if ends[:-1].any():
            raise ValueError(f"it goes on after its end at step {int(ends.argmax())}")
        return _Steps(actions, rewards, bool(flags["terminations"][-1]))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """Open the file, and check its number of episodes."""
        h5py = import_h5py()
        try:
            check_regular_file(self.path)
            file = h5py.File(self.path, "r", locking="best-effort")
        except FileNotFoundError as error:
            raise ReplayFormatError(f"{self.path} is missing; download or copy the whole dataset again") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise self._damaged("", error) from error
        with file:
            try:
                num_groups = len(file)
            except RuntimeError as error:
                raise self._damaged("", error) from error
            if num_groups != self._num_episodes or not num_groups:
                raise ReplayFormatError(
                    f"{self.path} has {num_groups} episodes, but metadata.json beside it says {self._num_episodes}; "
                    "download or copy the whole dataset again"
                )
            yield file

    @contextmanager
    def _name_episode(self, index: int) -> Iterator[None]:
        """Translate errors of h5py, and those of the content, into one that names the file and the episode."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(f" at episode {index}", error) from error

    def _damaged(self, place: str, error: Exception) -> ReplayFormatError:
        reason = str(error) if type(error) is ValueError else summarize_error(error)
        return ReplayFormatError(f"{self.path} is damaged{place} ({reason}); download or copy it again")


@dataclass(frozen=True)
class _Steps:
    """Actions ``[T]``, unclipped rewards ``[T]`` and end of an episode of T steps."""

    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    terminated: bool


def _open_episode(file: Any, index: int) -> Any:
    """Return the group of an episode.

    Raises:
        ValueError: If the file has none, or has it elsewhere.
    """
    group = _open_object(file, f"episode_{index}")
    if not isinstance(group, import_h5py().Group):
        raise ValueError("it is not a group")
    return group


def _open_dataset(group: Any, name: str) -> Any:
    """Return a dataset of an episode whose content lies in the file, all of it, in chunks of plausible size.

    Raises:
        ValueError: If there is none.
    """
    dataset = _open_object(group, name)
    if not isinstance(dataset, import_h5py().Dataset):
        raise ValueError(f"its {name} are a group of arrays, not an array")
    if dataset.shape is None:
        raise ValueError(f"its {name} are empty")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"its {name} are in another file")
    item_size = dataset.id.get_type().get_size()
    if dataset.chunks and int(np.prod(dataset.chunks, dtype=np.float64)) * item_size > _MAX_CHUNK_BYTES:
        raise ValueError(f"its {name} are in chunks of {list(dataset.chunks)}, which are too large")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if any(each not in _FILTERS for each in filters):
        raise ValueError(f"its {name} have an unknown compression")
    # Parts that were never written would be read as zeros, however many.
    size = float(np.prod(dataset.shape, dtype=np.float64)) * item_size
    if dataset.id.get_storage_size() * float(np.prod([_FILTERS[each] for each in filters])) < size:
        raise ValueError(f"its {name} are not complete")
    return dataset


def _open_object(parent: Any, name: str) -> Any:
    """Return an object of a group, without following a link.

    Raises:
        ValueError: If there is none.
    """
    link = parent.get(name, getlink=True)
    if link is None:
        raise ValueError(f"it has no {name}")
    if not isinstance(link, import_h5py().HardLink):
        raise ValueError(f"its {name} is a link")
    return parent[name]


def _read_column(group: Any, name: str, kinds: str) -> npt.NDArray[Any]:
    """Read a dataset of one number a step.

    Args:
        group: Group of the episode.
        name: Name of the dataset.
        kinds: Kinds of NumPy dtypes that it may have.

    Raises:
        ValueError: If it is something else.
    """
    dataset = _open_dataset(group, name)
    if dataset.ndim != 1 or dataset.dtype.kind not in kinds or dataset.dtype.itemsize > 8:
        raise ValueError(f"its {name} are {dataset.dtype} {list(dataset.shape)}, not one number a step")
    _check_length(dataset)
    return np.asarray(dataset[:])


def _find_layout(observations: Any) -> tuple[ObservationLayout, int]:
    """Return the layout and the number of observations.

    Raises:
        ValueError: If they cannot be frames.
    """
    item_type = import_h5py().check_vlen_dtype(observations.dtype)
    if (item_type or observations.dtype) != np.uint8 or observations.ndim < 1:
        shape = list(observations.shape)
        raise ValueError(f"its observations are {observations.dtype} {shape}, not uint8 frames")
    layout = ObservationLayout.of(observations.shape, item_type is not None)
    return layout, _check_length(observations)


def _check_length(dataset: Any) -> int:
    length = int(dataset.shape[0])
    if length > _MAX_STEPS + 1:
        raise ValueError(f"it has {length:,} steps, but a game of Atari has at most {_MAX_STEPS:,}")
    return length
