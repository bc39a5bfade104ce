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
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from replay_data.dopamine_log import CAPACITY, PADDING
from replay_data.episode import Episode
from replay_data.errors import ReplayFormatError
from replay_data.files import find_directory
from replay_data.gzipped import damage_explained, open_gzip
from replay_data.trajectory_store import FRAME_SHAPE

_FILE_NAME = re.compile(r"run_(\d+)-(\d{5})-of-(\d{5})")
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
_BLOCK = 1 << 20  # bytes
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
        parts: `Shard` by number, ascending.
        num_parts: how many shards the run has, be they there or not.

    Raises:
        ReplayFormatError: if there is no such run.
    """

    recording: Mapping[str, Any] | None = None  # this project records no shards

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
        self.num_parts = totals.pop()
        for number, file in files.items():
            if number >= self.num_parts:
                raise ReplayFormatError(f"{file} cannot be one of {self.num_parts} shards; correct its name")
        self.parts = {number: Shard(files[number], number, num_actions) for number in sorted(files)}


def shard_name(run: int, shard: int, num_shards: int) -> str:
    """The file name of a shard."""
    return f"run_{run}-{shard:05d}-of-{num_shards:05d}"


class Shard:
    """One shard, read forward; a `replay_data.episode.Part`.

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
        records: list[EpisodeRecord] = []
        first = self._index
        while episodes:
            record = self._next()
            self._rows += len(record) + PADDING if record else 0
            if record is None or self._rows >= CAPACITY:
                self.exhausted = True
                return
            records.append(record)
            episodes -= record.terminal
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

    def _next(self) -> EpisodeRecord | None:
        if self._error is not None:
            raise self._error
        if self._file is None:
            self._file = open_gzip(self.path)
            self._records = read_records(self._file)
        try:
            with damage_explained(self._damaged):
                payload = next(self._records, None)
                if payload is None:
                    if not self._index:
                        raise ValueError("it holds no episode")
                    return None
                record = EpisodeRecord.parse(payload)
                low, high = record.actions.min(), record.actions.max()
                if low < 0 or high >= self._num_actions:
                    raise ValueError(f"its actions run from {low} to {high}, not from 0 to {self._num_actions - 1}")
        except ReplayFormatError as error:
            self._error = error
            raise
        self._index += 1
        return record

    def _decode(self, record: EpisodeRecord, index: int) -> Episode:
        frames = np.empty((len(record), *FRAME_SHAPE), dtype=np.uint8)
        for step, png in enumerate(record.observations):
            try:
                frame = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
            except cv2.error:
                frame = None
            if frame is None or frame.shape != FRAME_SHAPE or frame.dtype != np.uint8:
                raise self._damaged(f"frame {step} is not a grey 84×84 PNG", index)
            frames[step] = frame
        return Episode(frames, record.actions.astype(np.uint8), record.rewards, record.raw_rewards, record.terminal)

    def _damaged(self, what: str, index: int | None = None) -> ReplayFormatError:
        index = self._index if index is None else index
        return ReplayFormatError(f"{self.path} is damaged at record {index} ({what}); download or copy it again")


@dataclass(frozen=True)
class EpisodeRecord:
    """An episode whose frames are still PNGs."""

    observations: list[bytes]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32] | None
    terminal: bool

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def parse(cls, payload: bytes) -> EpisodeRecord:
        """Parse a `tf.train.Example`; raise ValueError if it is not an episode."""
        example = _Example()
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


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the payloads of a TFRecord file.

    Raises:
        ValueError: if a checksum differs.
        EOFError: if the file ends within a record.
    """
    while header := _read(file, _HEADER.size):
        if len(header) < _HEADER.size:
            raise EOFError
        length, checksum = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != checksum:
            raise ValueError("the checksum of its length differs")
        payload, footer = _read(file, length), _read(file, _FOOTER.size)
        if len(payload) < length or len(footer) < _FOOTER.size:
            raise EOFError
        if _masked_crc(payload) != _FOOTER.unpack(footer)[0]:
            raise ValueError("its checksum differs")
        yield payload


def write_record(file: BinaryIO, payload: bytes) -> None:
    """Append a payload to a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    file.write(length + _FOOTER.pack(_masked_crc(length)))
    file.write(payload)
    file.write(_FOOTER.pack(_masked_crc(payload)))


def _read(file: BinaryIO, size: int) -> bytes:
    """``size`` bytes, or as many as there are; a size that no file has costs no memory."""
    blocks = []
    while size and (block := file.read(min(size, _BLOCK))):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _masked_crc(content: bytes) -> int:
    crc = int(google_crc32c.value(content))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _example_class() -> Any:
    """`tf.train.Example` (tensorflow/core/example/{example,feature}.proto), declared without TensorFlow."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def declare(name: str, *fields: tuple[str, int, int, str]) -> descriptor_pb2.DescriptorProto:
        made = file.message_type.add(name=name)
        for index, (field_name, label, kind, type_name) in enumerate(fields, 1):
            full_name = {"type_name": f".tensorflow.{type_name}"} if type_name else {}
            made.field.add(name=field_name, number=index, label=label, type=kind, **full_name)
        return made

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    for (_, name), kind in zip(lists, (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_INT64), strict=True):
        declare(name, ("value", many, kind, ""))
    feature = declare("Feature", *((name, one, field.TYPE_MESSAGE, kind) for name, kind in lists))
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    features = declare("Features", ("feature", many, field.TYPE_MESSAGE, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field.TYPE_MESSAGE, type_name=".tensorflow.Feature")
    declare("Example", ("features", one, field.TYPE_MESSAGE, "Features"))
    pool = (
        descriptor_pool.DescriptorPool()
    )  # of its own: TensorFlow may have declared the same names in the default one
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()
