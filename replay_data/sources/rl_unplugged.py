"""Read RL Unplugged's Atari shards (Gulcehre et al. 2020): the DQN-replay experience, cut into whole episodes.

A run is the files ``{Game}/run_{run}-{shard:05d}-of-{shards:05d}``, one per million steps in the order of play. Each is
a GZIP-compressed TFRecord file, and is read too if a browser has decompressed it. Each record is one episode, a
`tf.train.Example` of

==========================================  ====================================================
``observations``                            bytes ``[T]``, each a PNG of a gray 84×84 frame
``actions``                                 int64 ``[T]``
``clipped_rewards``, ``unclipped_rewards``  float ``[T]``; the clipped ones may be absent
``discounts``                               float ``[T]``
``checkpoint_idx``, ``episode_idx``         int64, position of the episode in the run
==========================================  ====================================================

and two returns, ``episode_return`` and ``clipped_episode_return``, the sums of the rewards. The position is not used:
in games with 49 shards, ``checkpoint_idx`` is not the index of the shard. The older directory `atari_episodes` has 100
shards per run with an ``episode_id`` instead. They are read too, but nothing tells the order of their episodes.

If the last discount is 0, the game was over (*terminated*), and the last entry is no step: tensorflow-datasets 4.9.10
(TFDS, `rl_unplugged/atari_utils.py`) calls only its frame valid. Otherwise a time limit truncated the episode, and the
last entry is a step like the others: TFDS does not call it invalid, and in the real episodes that TFDS is tested with,
the action of the last entry was played. In the public shards the unclipped rewards are in fact clipped as well. Raw
rewards are kept where the two differ.

In those real episodes, the reward of a step is in the entry before it. Rewards are nevertheless read where they stand,
as TFDS reads them. `docs/protocol.md`, point 13, describes the evidence for both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from replay_data.episode import STICKY_ACTIONS, Episode
from replay_data.errors import ReplayFormatError
from replay_data.json_fields import Scalar
from replay_data.recording import Recording
from replay_data.sources.directories import find_directory
from replay_data.sources.rl_unplugged_record import ShardRecord, read_episodes
from replay_data.sources.tfrecord import starts_record
from replay_data.storage.gzip_streams import open_gzip

BASE_URL = "https://storage.googleapis.com/rl_unplugged/atari_episodes_ordered"
"""Address of the public data, a directory for each game."""

_GAMES = """
Alien Amidar Assault Asterix Atlantis BankHeist BattleZone BeamRider Boxing Breakout Carnival Centipede ChopperCommand
CrazyClimber DemonAttack DoubleDunk Enduro FishingDerby Freeway Frostbite Gopher Gravitar Hero IceHockey Jamesbond
Kangaroo Krull KungFuMaster MsPacman NameThisGame Phoenix Pong Pooyan Qbert Riverraid RoadRunner Robotank Seaquest
SpaceInvaders StarGunner TimePilot UpNDown VideoPinball WizardOfWor YarsRevenge Zaxxon
"""

GAMES = tuple(_GAMES.split())
"""The 46 games of the public data, as TFDS lists them (`rl_unplugged/atari_utils.py`)."""

_ADVICE = "download or copy it again"

_TRANSITIONS_ADVICE = "download the episodes of the same run with scripts/download_replay.py"

_NOTES = {
    ("Asterix", 1): (
        "Asterix run 1 may be corrupt: a user could reproduce offline REM with the DQN-replay logs of other runs, but "
        "not of this one, and an author did not rule out damage "
        "(https://github.com/google-research/batch_rl/issues/28); prefer another run",
    )
}

_FILE_NAME = re.compile(r"run_(\d+)-(\d{5})-of-(\d{5})")


class RLUnpluggedRun:
    """One run of a game, in RL Unplugged's shards; a `replay_data.episode.EpisodeSource`.

    Args:
        path: Directory that holds ``{game}/run_{run}-…``.
        game: Name of the game's directory, such as ``"Breakout"``.
        run: Index of the run.
        num_actions: Size of the game's action set; a larger action is an error.

    Attributes:
        directory: The game's directory.
        shards: The shards that are present, by index, ascending.
        num_shards: Number of shards of the run, whether they are present or not.
        missing: The indices of the shards that are not present.
        notes: What is reported about the run, see `notes_on_run`.
        recording: None, because this project records no shards.
        sticky_actions: 0.25, that of the DQN-replay experience.
        has_raw_rewards: False, because the public shards have clipped rewards only.
        details: Empty.

    Raises:
        ReplayFormatError: If there is no such run, or its files contradict each other.
    """

    recording: Recording | None = None
    sticky_actions: float | None = STICKY_ACTIONS
    has_raw_rewards = False
    details: Mapping[str, Scalar] = {}

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        self.notes = notes_on_run(game, run)
        self.directory = find_directory(path, game, source="rl_unplugged")
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
            content = f"it holds run {', '.join(map(str, sorted(runs)))}" if runs else "it holds no shard"
            if (self.directory / str(run)).is_dir():
                content = "it holds a Dopamine log, which `source` dopamine reads"
            raise ReplayFormatError(
                f"{self.directory} has no shards of run {run}; {content}, and shards are named like "
                f"{shard_name(run, 0, 50)}"
            )
        if len(totals) > 1:
            raise ReplayFormatError(
                f"{self.directory} mixes shards of {' and '.join(map(str, sorted(totals)))} in run {run}; keep one set"
            )
        self.num_shards = totals.pop()
        for index, file in files.items():
            if index >= self.num_shards:
                raise ReplayFormatError(f"{file} cannot be one of {self.num_shards} shards; correct its name")
        self.shards = {index: RLUnpluggedShard(files[index], num_actions) for index in sorted(files)}
        self.missing = set(range(self.num_shards)) - set(self.shards)


def shard_name(run: int, shard: int, num_shards: int) -> str:
    """Return the file name of a shard."""
    return f"run_{run}-{shard:05d}-of-{num_shards:05d}"


def notes_on_run(game: str, run: int) -> tuple[str, ...]:
    """Return what a user should know about a public run before its data is used, one sentence each.

    Args:
        game: Name of the game in the source's spelling, such as ``"Breakout"``.
        run: Index of the run.
    """
    return _NOTES.get((game, run), ())


def open_shard(source: Path | RawIOBase) -> Any:
    """Open a shard for reading in binary mode, whether it is compressed or a browser has decompressed it.

    Raises:
        InputError: If ``source`` is a path to something other than a regular file.
    """
    return open_gzip(source, is_plain=starts_record)


class RLUnpluggedShard:
    """One shard; a `replay_data.episode.Shard`.

    `episodes` and `returns` start at the first record. `read_record` continues after the last record that was read. An
    error ends the reading: every later read raises it again.

    Args:
        path: The file.
        num_actions: Size of the game's action set; a larger action is an error.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, num_actions: int):
        self.path = path
        self._num_actions = num_actions
        self._file: Any = None
        self._error: ReplayFormatError | None = None  # which ended the reading
        self._records: Iterator[ShardRecord] = iter(())

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield the episodes of the shard.

        Args:
            chosen: Indices of the episodes to yield, counted from 0; None for all.
        """
        self.close()
        while (record := self.read_record()) is not None:
            if chosen is None or record.index in chosen:
                yield self.decode(record)

    def returns(self) -> Iterator[float]:
        """Yield the return (the sum of the clipped rewards) of every episode, without decoding a frame."""
        self.close()
        while (record := self.read_record()) is not None:
            yield float(record.rewards.sum(dtype=np.float64))

    def read_record(self) -> ShardRecord | None:
        """Return the next episode without decoding its frames; None after the last one.

        Raises:
            ReplayFormatError: If the record is damaged, or the shard is empty.
        """
        if self._error is not None:
            raise self._error
        if self._file is None:
            self._file = open_shard(self.path)
            self._records = read_episodes(self._file, str(self.path), _ADVICE, _TRANSITIONS_ADVICE)
        try:
            record = next(self._records, None)
            if record is not None:
                low, high = record.actions.min(), record.actions.max()
                if low < 0 or high >= self._num_actions:
                    reason = f"its actions run from {low} to {high}, not from 0 to {self._num_actions - 1}"
                    raise self._damaged(reason, record.index)
        except ReplayFormatError as error:
            self._error = error
            raise
        return record

    def decode(self, record: ShardRecord) -> Episode:
        """Return the episode of a record of this shard.

        Raises:
            ReplayFormatError: If a frame is damaged.
        """
        try:
            return record.decode()
        except ValueError as error:
            raise self._damaged(str(error), record.index) from error

    def check(self, everything: bool = False) -> bool:
        """Return True: each record was compared with its own checksum when it was read.

        Args:
            everything: Read the rest of the file and compare gzip's checksum too.
        """
        while everything and self.read_record() is not None:
            pass
        return True

    def close(self) -> None:
        """Close the file; the next read starts at the first record."""
        if self._file is not None:
            self._file.close()
        self._file, self._error = None, None

    def _damaged(self, reason: str, index: int) -> ReplayFormatError:
        return ReplayFormatError(f"{self.path} is damaged at record {index} ({reason}); {_ADVICE}")
