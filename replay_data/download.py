"""Download the first episodes of RL Unplugged's shards over HTTPS, by byte range.

A prefix of a shard decodes to a prefix of its episodes. So the decoder reads a file that is downloaded range by range,
and the download stops at the last wanted episode. The bytes go to a hidden file beside the shard, from which an
interrupted download resumes. The wanted episodes are then written as a shard of their own, which has the same bytes
however often the connection broke.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_data.errors import InputError, ReplayFormatError
from replay_data.progress import ProgressBar
from replay_data.sources.rl_unplugged import BASE_URL, GAMES, notes_on_run, open_shard, shard_name
from replay_data.sources.rl_unplugged_record import MAX_RECORD_BYTES, read_episodes
from replay_data.sources.tfrecord import read_records, write_record
from replay_data.storage.atomic import name_file_in_errors, sync
from replay_data.storage.gzip_streams import create_gzip
from replay_data.storage.http_ranges import DownloadStoppedError, RangeClient, RefusedError
from replay_data.storage.locks import exclusive_lock

_LOCAL_ADVICE = "delete it and run the command again"

_REMOTE_ADVICE = "the source itself is damaged, or has another format"

_REMOTE_TRANSITIONS_ADVICE = f"`base_url` should be the address of that directory: {BASE_URL}"

_NUM_SHARDS = (50, 49)  # of a run: 49 for Carnival, Gravitar and StarGunner, 50 for the other games
_NUM_SHARDS_OF_MIRRORS = range(1, 101)  # numbers to try where the address is not the public one
_MAX_SEARCH_SECONDS = 120.0  # for the number of shards
_FIRST_RANGE = 1 << 16  # bytes of the first request; later ones add 1/8 of the file so far, which bounds the waste


@dataclass(frozen=True)
class DownloadSummary:
    """The result of a download.

    Attributes:
        steps: Number of steps in the local shards.
        episodes: Number of episodes in the local shards.
        shards: Number of shards.
        bytes_downloaded: Number of bytes that this download received.
    """

    steps: int
    episodes: int
    shards: int
    bytes_downloaded: int


def download_run(
    game: str,
    run: int,
    num_steps: int,
    out: Path,
    *,
    base_url: str = BASE_URL,
    num_connections: int = 8,
    show_progress: bool = True,
) -> DownloadSummary:
    """Download the first episodes of every shard of a run, the same number of steps from each.

    The files are ``out/{game}/run_{run}-…``. A shard that already holds enough steps is kept. Notes on the run
    (`notes_on_run`) are printed to standard error before the download begins.

    Args:
        game: Name of the game in the source's spelling, such as ``"Breakout"``.
        run: Index of the run, 1 to 5.
        num_steps: Minimum number of steps of all shards together. Each shard contributes whole episodes until they have
            its share, or all of its episodes if they have fewer steps.
        out: Directory to write to.
        base_url: Address of the directory that holds ``{game}/run_{run}-…``.
        num_connections: Number of shards to download at once.
        show_progress: Whether to show a progress bar and notes.

    Raises:
        InputError: If the source lacks the game, refuses, cannot be reached, or serves no byte ranges.
        ReplayFormatError: If a shard is damaged.
    """
    for name, value in (("num_steps", num_steps), ("num_connections", num_connections)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, not {value}")
    address = game_address(base_url, game)
    directory = out / game
    if show_progress:
        for note in notes_on_run(game, run):
            print(f"note: {note}", file=sys.stderr)
    bar = ProgressBar(unit="B", unit_scale=True, desc=f"downloading {game}", disable=not show_progress)
    with bar, ThreadPoolExecutor(num_connections) as pool, contextlib.ExitStack() as stack:
        client = RangeClient(address, num_connections, bar)
        try:
            num_shards = _count_shards(client, run)
            steps_per_shard = math.ceil(num_steps / num_shards)
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(directory, "downloading to"))
            shards = [
                _ShardDownload(client, directory, shard_name(run, index, num_shards)) for index in range(num_shards)
            ]
            futures = [pool.submit(shard.download, steps_per_shard) for shard in shards]
            for future in futures:
                future.add_done_callback(client.stop_after_error)  # before its thread begins another shard
            bytes_of_shards = 0
            for num_done, future in enumerate(as_completed(futures), 1):
                with contextlib.suppress(DownloadStoppedError):  # another shard's error follows
                    bytes_of_shards += future.result()
                bar.total = bytes_of_shards * num_shards // num_done  # the shards of a run are alike
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the downloaded bytes are kept; run the same command again to resume") from None
        finally:
            client.stopped.set()
            pool.shutdown(cancel_futures=True)
    steps, episodes = sum(shard.steps for shard in shards), sum(shard.episodes for shard in shards)
    return DownloadSummary(steps, episodes, num_shards, client.bytes_downloaded)


def check_run(game: str, run: int, *, base_url: str = BASE_URL) -> None:
    """Check that a source has a run of a game, by downloading one byte; the arguments are those of `download_run`.

    Raises:
        InputError: If the source lacks the game, refuses or cannot be reached.
    """
    with ProgressBar(disable=True) as bar:
        _count_shards(RangeClient(game_address(base_url, game), 1, bar), run)


def game_address(base_url: str, game: str) -> str:
    """Return the address of a game's directory, without asking the network whether it exists.

    Raises:
        InputError: If ``base_url`` is not an address, or that of the public data, which lacks the game.
    """
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"`base_url` must begin with https:// or http://, unlike {base_url}")
    if base_url.startswith(BASE_URL) and game not in GAMES:
        raise InputError(f"RL Unplugged has no {game}; it has the {len(GAMES)} games {', '.join(GAMES)}")
    return f"{base_url.rstrip('/')}/{game}"


def _count_shards(client: RangeClient, run: int) -> int:
    """Return the number of shards of a run, which is part of their names.

    Raises:
        InputError: If no number of shards leads to a file.
    """
    more = () if client.base_url.startswith(BASE_URL) else _NUM_SHARDS_OF_MIRRORS
    deadline = time.monotonic() + _MAX_SEARCH_SECONDS
    first_error: RefusedError | None = None
    for num_shards in (*_NUM_SHARDS, *more):
        try:
            client.size(shard_name(run, 0, num_shards))
            return num_shards
        except RefusedError as error:
            first_error = first_error or error
            if error.status != 404 or time.monotonic() > deadline:
                break
    assert first_error is not None
    raise first_error


class _ShardDownload:
    """Downloads the beginning of one shard.

    Attributes:
        steps: Number of steps in the local file, after `download`.
        episodes: Number of episodes in the local file, after `download`.
    """

    def __init__(self, client: RangeClient, directory: Path, name: str):
        self._client, self._name, self._path = client, name, directory / name
        self._partial, self._rewritten = directory / f".{name}.partial", directory / f".{name}.rewritten"
        self.steps = self.episodes = 0

    def download(self, num_steps: int) -> int:
        """Make the local file hold ``num_steps`` steps, or the whole shard; return the number of bytes downloaded."""
        bytes_downloaded = 0
        if not self._has_enough(num_steps):
            resumed = self._partial.exists()
            try:
                bytes_downloaded = self._download(num_steps)
            except ReplayFormatError:
                self._partial.unlink(missing_ok=True)
                if not resumed:
                    raise
                bytes_downloaded = self._download(num_steps)  # the bytes of an earlier download were damaged
        for leftover in (self._partial, self._rewritten):
            leftover.unlink(missing_ok=True)
        return bytes_downloaded

    def _has_enough(self, num_steps: int) -> bool:
        if not self._path.exists():
            return False
        with open_shard(self._path) as stream:
            self._count(stream, math.inf, f"{self._path}", _LOCAL_ADVICE, _LOCAL_ADVICE)
        return self.steps >= num_steps or self._client.size(self._name) == self._path.stat().st_size

    def _download(self, num_steps: int) -> int:
        url = f"{self._client.base_url}/{self._name}"
        with (
            _RemoteFile(self._client, self._name, self._partial, self._path) as remote,
            open_shard(remote) as stream,
        ):
            whole = self._count(stream, num_steps, url, _REMOTE_ADVICE, _REMOTE_TRANSITIONS_ADVICE)
        with name_file_in_errors(self._path, self._partial.parent):
            if not whole:
                with open_shard(self._partial) as stream, create_gzip(self._rewritten) as shard:
                    for payload in itertools.islice(read_records(stream, MAX_RECORD_BYTES), self.episodes):
                        write_record(shard, payload)
                sync(self._rewritten)
            (self._partial if whole else self._rewritten).replace(self._path)
        return remote.bytes_downloaded

    def _count(self, stream: Any, num_steps: float, name: str, advice: str, transitions_advice: str) -> bool:
        """Count steps and episodes up to ``num_steps`` steps; return whether the file ended first."""
        self.steps = self.episodes = 0
        for record in read_episodes(stream, name, advice, transitions_advice):
            self.steps += len(record)
            self.episodes += 1
            if self.steps >= num_steps:
                return False
        return True


class _RemoteFile(io.RawIOBase):
    """A binary file that is downloaded while it is read.

    Args:
        client: Client that downloads the ranges.
        name: Name of the remote file.
        partial: Local copy, which may already hold the beginning.
        path: Final path of the local copy, for error messages.

    Attributes:
        bytes_downloaded: Number of bytes downloaded.
    """

    def __init__(self, client: RangeClient, name: str, partial: Path, path: Path):
        super().__init__()
        self._client, self._name, self._partial, self._path = client, name, partial, path
        with name_file_in_errors(path, partial):
            self._file = partial.open("a+b")
        self._available = partial.stat().st_size
        self._size: int | None = None  # of the remote file; unknown until the first answer
        self._position = self.bytes_downloaded = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):  # a full disk was reported when the block was written
                self._file.close()
            if not self._available:
                self._partial.unlink(missing_ok=True)
        super().close()

    def peek(self, size: int) -> bytes:
        """Return the first ``size`` bytes, or fewer at the end of the file, without moving the position."""
        while self._available < size and self._available != self._size:
            self._download_range()
        self._file.seek(0)
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        if self._position == self._available and self._available != self._size:
            self._download_range()
        self._file.seek(self._position)
        num_bytes = self._file.readinto(buffer) or 0
        self._position += num_bytes
        return num_bytes

    def _download_range(self) -> None:
        end = _FIRST_RANGE
        while end <= self._available:  # the ranges end at the same bytes, wherever an earlier download stopped
            end += end // 8
        for block, size in self._client.fetch(self._name, self._available, end):
            with name_file_in_errors(self._path, self._partial):
                self._file.write(block)
                self._file.flush()
            self._available += len(block)
            self.bytes_downloaded += len(block)
            if self._size not in (None, size):
                raise ReplayFormatError(
                    f"{self._client.base_url}/{self._name} had {self._size:,} bytes and now has {size:,}; "
                    "the source has changed: run the command again"
                )
            self._size = size
