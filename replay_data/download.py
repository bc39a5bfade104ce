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
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from replay_data.errors import InputError, ReplayFormatError
from replay_data.progress import ProgressBar
from replay_data.sources.rl_unplugged import BASE_URL, open_shard, shard_name
from replay_data.sources.rl_unplugged_record import MAX_RECORD_BYTES, read_episodes
from replay_data.sources.tfrecord import read_records, write_record
from replay_data.storage.atomic import name_file_in_errors, sync
from replay_data.storage.gzip_streams import create_gzip
from replay_data.storage.locks import exclusive_lock

_NUM_SHARDS = (50, 49)  # of a run: 49 for Carnival, Gravitar and StarGunner, 50 for the other games
_NUM_SHARDS_OF_MIRRORS = range(1, 101)  # numbers to try where the address is not the public one
_BLOCK_SIZE = 1 << 16  # largest number of bytes written at once
_FIRST_RANGE = 1 << 16  # bytes of the first request; later ones add 1/8 of the file so far, which bounds the waste
_MAX_FAILURES = 10  # in a row, once the server has answered
_MAX_FAILURES_AT_FIRST = 5  # in a row, before its first answer
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 30.0  # seconds; the wait doubles after each failure
_TIMEOUT = (10, 10)  # seconds to connect, and seconds without a byte
_RETRY_STATUSES = {408, 429, 500, 502, 503, 504}


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

    The files are ``out/{game}/run_{run}-…``. A shard that already holds enough steps is kept.

    Args:
        game: Name of the game in the source's spelling, such as ``"Breakout"``.
        run: Index of the run, 1 to 5.
        num_steps: Minimum number of steps of all shards together. Each shard contributes whole episodes until they have
            its share, or all of its episodes if they have fewer steps.
        out: Directory to write to.
        base_url: Address of the directory that holds ``{game}/run_{run}-…``.
        num_connections: Number of shards to download at once.
        show_progress: Whether to show a progress bar.

    Raises:
        InputError: If the source refuses, cannot be reached, or serves no byte ranges.
        ReplayFormatError: If a shard is damaged.
    """
    for name, value in (("num_steps", num_steps), ("num_connections", num_connections)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, not {value}")
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"`base_url` must begin with https:// or http://, unlike {base_url}")
    directory = out / game
    bar = ProgressBar(unit="B", unit_scale=True, desc=f"downloading {game}", disable=not show_progress)
    with bar, ThreadPoolExecutor(num_connections) as pool, contextlib.ExitStack() as stack:
        client = _RangeClient(f"{base_url.rstrip('/')}/{game}", num_connections, bar)
        try:
            num_shards = client.count_shards(run)
            steps_per_shard = math.ceil(num_steps / num_shards)
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(directory, "downloading to"))
            shards = [
                _ShardDownload(client, directory, shard_name(run, index, num_shards)) for index in range(num_shards)
            ]
            futures = [pool.submit(shard.download, steps_per_shard) for shard in shards]
            bytes_of_shards = 0
            for num_done, future in enumerate(as_completed(futures), 1):
                bytes_of_shards += future.result()
                bar.total = bytes_of_shards * num_shards // num_done  # the shards of a run are alike
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the downloaded bytes are kept; run the same command again to resume") from None
        finally:
            client.stopped.set()
            pool.shutdown(cancel_futures=True)
    steps, episodes = sum(shard.steps for shard in shards), sum(shard.episodes for shard in shards)
    return DownloadSummary(steps, episodes, num_shards, client.bytes_downloaded)


class _ShardDownload:
    """Downloads the beginning of one shard.

    Attributes:
        steps: Number of steps in the local file, after `download`.
        episodes: Number of episodes in the local file, after `download`.
    """

    def __init__(self, client: _RangeClient, directory: Path, name: str):
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
            self._count(stream, math.inf, f"{self._path}", "delete it and run the command again")
        return self.steps >= num_steps or self._client.size(self._name) == self._path.stat().st_size

    def _download(self, num_steps: int) -> int:
        url = f"{self._client.base_url}/{self._name}"
        with (
            _RemoteFile(self._client, self._name, self._partial, self._path) as remote,
            open_shard(remote) as stream,
        ):
            whole = self._count(stream, num_steps, url, "the source itself is damaged, or has another format")
        with name_file_in_errors(self._path, self._partial.parent):
            if not whole:
                with open_shard(self._partial) as stream, create_gzip(self._rewritten) as shard:
                    for payload in itertools.islice(read_records(stream, MAX_RECORD_BYTES), self.episodes):
                        write_record(shard, payload)
                sync(self._rewritten)
            (self._partial if whole else self._rewritten).replace(self._path)
        return remote.bytes_downloaded

    def _count(self, stream: Any, num_steps: float, name: str, advice: str) -> bool:
        """Count steps and episodes up to ``num_steps`` steps; return whether the file ended first."""
        self.steps = self.episodes = 0
        for record in read_episodes(stream, name, advice):
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

    def __init__(self, client: _RangeClient, name: str, partial: Path, path: Path):
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
            self._size = size


class _RangeClient:
    """Downloads byte ranges of a run's files over HTTP, and retries on failures.

    Attributes:
        base_url: Address of the directory that holds the files.
        bytes_downloaded: Number of bytes of files received so far.
        stopped: Event that ends all downloads, set when nobody waits for them any longer.
    """

    def __init__(self, base_url: str, num_connections: int, bar: ProgressBar):
        self.base_url = base_url
        self.stopped = threading.Event()
        self.bytes_downloaded = 0
        self._bar, self._lock = bar, threading.Lock()
        self._reached = False
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=num_connections))

    def count_shards(self, run: int) -> int:
        """Return the number of shards of a run, which is part of their names.

        Raises:
            InputError: If no number of shards leads to a file.
        """
        more = () if self.base_url.startswith(BASE_URL) else _NUM_SHARDS_OF_MIRRORS
        first_error: _RefusedError | None = None
        for num_shards in (*_NUM_SHARDS, *more):
            try:
                self.size(shard_name(run, 0, num_shards))
                return num_shards
            except _RefusedError as error:
                first_error = first_error or error
                if error.status != 404:
                    break
        assert first_error is not None
        raise first_error

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return next(size for _, size in self.fetch(name, 0, 1))

    def fetch(self, name: str, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Yield bytes ``start:end`` of a file (or up to its end) in blocks, each with the size of the file.

        Raises:
            InputError: If the server refuses, serves no ranges, or still fails after many retries.
            ReplayFormatError: If the file ends before ``start``.
        """
        failures = 0
        while True:
            pause, start_of_request = 0.0, start
            try:
                for block, size in self._request(name, start, end):
                    yield block, size
                    start += len(block)
                    if start >= min(end, size):
                        return
                failure = "the connection broke"
            except _BusyError as error:
                failure, pause = str(error), error.pause
            except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
                raise self._unreachable_error(name, _innermost_reason(error)) from error
            except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
                failure = _innermost_reason(error)
            except (requests.RequestException, ValueError) as error:
                raise self._unreachable_error(name, _innermost_reason(error)) from error
            if start > start_of_request:
                failures = 0
                continue
            failures += 1
            if failures == (_MAX_FAILURES if self._reached else _MAX_FAILURES_AT_FIRST):
                raise self._unreachable_error(name, failure)
            pause = max(pause, min(_SHORTEST_WAIT * 2 ** (failures - 1), _LONGEST_WAIT))
            if pause >= 1:
                self._bar.set_postfix_str(f"{failure}; waiting {pause:.0f} s")
            if self.stopped.wait(pause):
                raise InputError("the download was stopped")
            self._bar.set_postfix_str("")

    def _request(self, name: str, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Send one request; yield as `fetch` does until the answer ends or the connection breaks."""
        url = f"{self.base_url}/{name}"
        # Without another compression on the way, since ranges refer to the stored file.
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with self._session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            status = response.status_code
            if status in _RETRY_STATUSES:
                retry_after = response.headers.get("Retry-After", "")
                pause = min(float(retry_after), _LONGEST_WAIT) if re.fullmatch("[0-9]+", retry_after) else 0.0
                raise _BusyError(f"the server is busy: it answers {status}", pause)
            self._reached = True
            content_range = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
            if status == 416 and content_range and start == int(content_range[2]):
                yield b"", start
                return
            if status == 416:
                raise ReplayFormatError(f"{url} is now shorter than {start} bytes; run the command again")
            if status >= 400:
                raise _RefusedError(
                    f"{url} answers {status}: the source is closed, or the game, run or `base_url` is mistyped; use "
                    "another source (`base_url`), a local copy of shards or Dopamine logs (scripts/build_dataset.py), "
                    "or record your own data (scripts/collect_replay.py)",
                    status,
                )
            if status != 206 or not content_range or content_range[1] is None or int(content_range[1]) != start:
                raise InputError(f"{url} is not served in byte ranges, which this download needs; copy it by hand")
            while block := response.raw.read1(_BLOCK_SIZE):  # as it arrives, so that a broken connection loses nothing
                if self.stopped.is_set():
                    raise InputError("the download was stopped")
                with self._lock:
                    self.bytes_downloaded += len(block)
                    self._bar.update(len(block))
                yield block, int(content_range[2])

    def _unreachable_error(self, name: str, reason: str) -> InputError:
        advice = "run the same command again to resume" if self._reached else "try again"
        return InputError(
            f"{self.base_url}/{name} cannot be downloaded ({reason}); check the connection and `base_url`, and {advice}"
        )


def _innermost_reason(error: Exception) -> str:
    """Return the message of the innermost error that requests and urllib3 have wrapped."""
    inner: Any = error
    while isinstance(wrapped := getattr(inner, "reason", inner.args[0] if inner.args else None), Exception):
        inner = wrapped
    return str(inner).rsplit(": ", 1)[-1]


class _RefusedError(InputError):
    """The server does not serve the file."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class _BusyError(Exception):
    """The server is busy; ``pause`` is the number of seconds it asks to wait, or 0."""

    def __init__(self, message: str, pause: float):
        super().__init__(message)
        self.pause = pause
