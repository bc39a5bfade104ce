"""RL Unplugged's Atari episode shards (Gulcehre et al. 2020): the DQN-replay experience, cut into whole episodes.

A run is the files ``{Game}/run_{run}-{shard:05d}-of-{shards:05d}``, one per million steps in the order of play:
GZIP-compressed TFRecord files in which each record is one episode, a `tf.train.Example` of

==========================================  ===========================================================
``observations``                            bytes ``[T]``, each a PNG of a grey 84×84 frame
``actions``                                 int64 ``[T]``
``clipped_rewards``, ``unclipped_rewards``  float ``[T]``; the clipped ones may be absent
``discounts``                               float ``[T]``
``checkpoint_idx``, ``episode_idx``         int64; where the episode stood
==========================================  ===========================================================

and the two returns. If the last discount is 0 the game was over, and the last entry is only the final frame; its action
and reward mean nothing. A record is framed as uint64 length, masked CRC-32C of the length, payload, masked CRC-32C of
the payload (tensorflow/core/lib/io/record_writer.h).

In the public shards the unclipped rewards are in fact clipped as well; raw rewards are kept where the two differ.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from google.protobuf import message

from replay_data.episode import FRAME_SHAPE, Episode
from replay_data.errors import ReplayFormatError
from replay_data.recording import Recording
from replay_data.sources.dopamine_format import PADDING, PAPER_CAPACITY
from replay_data.sources.tfrecord import Example, read_records
from replay_data.storage.gzip_streams import open_gzip, translate_gzip_errors
from replay_data.storage.paths import find_directory

_FILE_NAME = re.compile(r"run_(\d+)-(\d{5})-of-(\d{5})")

_FEATURES: tuple[tuple[str, str, Any], ...] = (
    ("observations", "bytes_list", None),
    ("actions", "int64_list", np.int64),
    ("discounts", "float_list", np.float32),
    ("clipped_rewards", "float_list", np.float32),
    ("unclipped_rewards", "float_list", np.float32),
)


class RLUnpluggedRun:
    """One run of a game: the shards that are there.

    Args:
        path: directory that holds ``{game}/run_{run}-…``.
        game: the game's directory, such as ``"Breakout"``.
        run: the run.
        num_actions: size of the game's action set; a larger action is an error.

    Attributes:
        parts: `RLUnpluggedShard` by number, ascending.
        num_shards: how many shards the run has, be they there or not.

    Raises:
        ReplayFormatError: if there is no such run.
    """

    recording: Recording | None = None  # this project records no shards

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        self.directory = find_directory(path, game)
        files: dict[int, Path] = {}
        totals: set[int] = set()
        runs: set[int] = set()
        for file in self.directory.iterdir():
            if match := _FILE_NAME.fullmatch(file.name):
                runs.add(int(match[1]))
                if int(match[1]) == run:
                    files[int(match[2])] = file
                    totals.add(int(match[3]))
        if not files:
            found = f"it holds run {', '.join(map(str, sorted(runs)))}" if runs else "it holds no shard"
            if (self.directory / str(run) / "replay_logs").is_dir():
                found = "it holds a Dopamine log (--source dopamine)"
            raise ReplayFormatError(
                f"{self.directory} has no shards of run {run}; {found}, and shards are named like "
                f"{shard_name(run, 0, 50)}"
            )
        if len(totals) > 1:
            raise ReplayFormatError(
                f"{self.directory} mixes shards of {' and '.join(map(str, sorted(totals)))} in run {run}; keep one set"
            )
        self.num_shards = totals.pop()
        for number, file in files.items():
            if number >= self.num_shards:
                raise ReplayFormatError(f"{file} cannot be one of {self.num_shards} shards; correct its name")
        self.shards = {number: RLUnpluggedShard(files[number], number, num_actions) for number in sorted(files)}


def shard_name(run: int, shard: int, num_shards: int) -> str:
    """The file name of a shard."""
    return f"run_{run}-{shard:05d}-of-{num_shards:05d}"


class RLUnpluggedShard:
    """One shard, read forward; a `replay_data.episode.Shard`.

    Attributes:
        path: the file.
        number: the shard's.
        exhausted: whether `visit` would yield nothing any more.
    """

    def __init__(self, path: Path, number: int, num_actions: int):
        self.path, self.number = path, number
        self.exhausted = False
        self._num_actions = num_actions
        self._file: Any = None
        self._error: ReplayFormatError | None = None  # which ended the reading
        self._records: Iterator[bytes] = iter(())
        self._index = 0  # records read
        self._rows = 0  # that the visited episodes fill in a replay log

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield every episode, or of the ones counted from 0 only those ``chosen``."""
        self.close()
        while (record := self._next()) is not None:
            if chosen is None or self._index - 1 in chosen:
                yield self._decode(record, self._index - 1)

    def returns(self) -> Iterator[float]:
        """Yield every episode's return, without decoding a frame."""
        self.close()
        while (record := self._next()) is not None:
            yield float(record.rewards.sum(dtype=np.float64))

    def visit(self, episodes: int) -> Iterator[Episode]:
        """Yield the episodes up to the next ``episodes`` that ended with the game, as `LogBuffer.visit` does.

        Rows are counted as in a replay log, where each episode has three more.
        """
        if self.exhausted:
            return
        records: list[ShardRecord] = []
        first = self._index
        while episodes:
            record = self._next()
            self._rows += len(record) + PADDING if record else 0
            if record is None or self._rows >= PAPER_CAPACITY:
                self.exhausted = True
                return
            records.append(record)
            episodes -= record.terminated
        for index, record in enumerate(records, first):
            yield self._decode(record, index)

    def check(self, everything: bool = False) -> bool:
        """Return True: each record was compared with its own checksum when it was read.

        Args:
            everything: read the rest of the file, and compare gzip's checksum too.
        """
        while everything and self._next() is not None:
            pass
        return True

    def close(self) -> None:
        """Close the file; what is read next is its first record again."""
        if self._file is not None:
            self._file.close()
        self._file, self._error, self._index, self._rows, self.exhausted = None, None, 0, 0, False

    def _next(self) -> ShardRecord | None:
        if self._error is not None:
            raise self._error
        if self._file is None:
            self._file = open_gzip(self.path)
            self._records = read_records(self._file)
        try:
            with translate_gzip_errors(self._damaged):
                payload = next(self._records, None)
                if payload is None:
                    if not self._index:
                        raise ValueError("it holds no episode")
                    return None
                record = ShardRecord.parse(payload)
                low, high = record.actions.min(), record.actions.max()
                if low < 0 or high >= self._num_actions:
                    raise ValueError(f"its actions run from {low} to {high}, not from 0 to {self._num_actions - 1}")
        except ReplayFormatError as error:
            self._error = error
            raise
        self._index += 1
        return record

    def _decode(self, record: ShardRecord, index: int) -> Episode:
        frames = np.empty((len(record), *FRAME_SHAPE), dtype=np.uint8)
        for step, png in enumerate(record.observations):
            try:
                frame = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
            except cv2.error:
                frame = None
            if frame is None or frame.shape != FRAME_SHAPE or frame.dtype != np.uint8:
                raise self._damaged(f"frame {step} is not a grey 84×84 PNG", index)
            frames[step] = frame
        return Episode(frames, record.actions.astype(np.uint8), record.rewards, record.raw_rewards, record.terminated)

    def _damaged(self, what: str, index: int | None = None) -> ReplayFormatError:
        index = self._index if index is None else index
        return ReplayFormatError(f"{self.path} is damaged at record {index} ({what}); download or copy it again")


@dataclass(frozen=True)
class ShardRecord:
    """An episode whose frames are still PNGs."""

    observations: list[bytes]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32] | None
    terminated: bool

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def parse(cls, payload: bytes) -> ShardRecord:
        """Parse a `tf.train.Example`; raise ValueError if it is not an episode."""
        example = Example()
        try:
            example.ParseFromString(payload)
        except message.DecodeError as error:
            raise ValueError("it is not a tf.train.Example") from error
        features = example.features.feature
        lists: dict[str, Any] = {}
        for name, kind, dtype in _FEATURES:
            # Looking up a name that is not there would make an empty feature of it.
            values = getattr(features[name], kind).value if name in features else []
            if values or name not in ("clipped_rewards", "unclipped_rewards"):
                lists[name] = list(values) if dtype is None else np.array(values, dtype)
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) > 1 or not lengths["actions"]:
            found = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"its parts should be as long as each other and not empty: {found}")
        terminal = bool(lists["discounts"][-1] == 0)
        steps = slice(len(lists["actions"]) - terminal)
        lists = {name: values[steps] for name, values in lists.items()}
        raw, clipped = lists.get("unclipped_rewards"), lists.get("clipped_rewards")
        widest = clipped if raw is None else raw
        if widest is None or not len(widest):
            raise ValueError("it has no rewards" if widest is None else "it has no step, only a final frame")
        rewards = widest.clip(-1, 1)
        if not np.isfinite(widest).all() or (clipped is not None and (clipped != rewards).any()):
            raise ValueError("its clipped rewards are not its rewards clipped to [-1, 1]")
        return cls(lists["observations"], lists["actions"], rewards, raw, terminal)
