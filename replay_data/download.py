"""Fetch the first episodes of RL Unplugged's shards over HTTPS, by byte range.

A prefix of a shard decodes to a prefix of its episodes. So the decoder reads a file that is fetched piece by piece,
only as far as the wanted episodes reach. The pieces go to a hidden file beside the shard, from which an interrupted
download goes on; when enough is there, the episodes are written as a shard of their own, byte for byte the same however
often the connection broke.
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
from replay_data.sources.rl_unplugged import ShardRecord, shard_name
from replay_data.sources.tfrecord import read_records, write_record
from replay_data.storage.atomic import name_file_in_errors, sync
from replay_data.storage.gzip_streams import create_gzip, open_gzip, translate_gzip_errors
from replay_data.storage.locks import exclusive_lock

BASE_URL = "https://storage.googleapis.com/rl_unplugged/atari_episodes_ordered"

_SHARDS = (50, 49)  # of a run; 49 of Carnival, Gravitar and StarGunner
_SHARDS_OF_MIRRORS = range(1, 101)  # tried where the address is not the public one
_BLOCK = 1 << 16  # bytes written at once, at most
_FIRST_RANGE = 1 << 16  # bytes asked for at first; then an eighth of what is there, so at most that much in vain
_PATIENCE, _PATIENCE_AT_FIRST = 10, 5  # failures in a row; before the first answer
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 30.0  # seconds; twice as long after each failure
_TIMEOUT = (10, 10)  # seconds to connect, and without a byte
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Downloaded:
    """What a download has made: steps, episodes and shards that are here now, and the bytes that were moved."""

    steps: int
    episodes: int
    shards: int
    bytes_moved: int


def download_run(
    game: str,
    run: int,
    num_steps: int,
    out: Path,
    *,
    base_url: str = BASE_URL,
    num_connections: int = 8,
    show_progress: bool = True,
) -> Downloaded:
    """Fetch the first episodes of every shard of a run, the same number of steps from each.

    Files go to ``out/{game}/run_{run}-…``. A shard that holds enough already is left alone.

    Args:
        game: as the source spells it, such as ``"Breakout"``.
        run: 1 to 5.
        num_steps: of all shards together; of each, whole episodes up to its share.
        out: directory to write to.
        base_url: what holds ``{game}/run_{run}-…``.
        num_connections: shards fetched at once.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: if the source refuses, or cannot be reached, or serves no byte ranges.
        ReplayFormatError: if what it serves is damaged.
    """
    for name, value in (("num_steps", num_steps), ("num_connections", num_connections)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url is an address that begins with https:// or http://, not {base_url}")
    directory = out / game
    bar = ProgressBar(unit="B", unit_scale=True, desc=f"downloading {game}", disable=not show_progress)
    with bar, ThreadPoolExecutor(num_connections) as pool, contextlib.ExitStack() as stack:
        client = _Client(f"{base_url.rstrip('/')}/{game}", num_connections, bar)
        try:
            num_shards = client.count_shards(run)
            share = math.ceil(num_steps / num_shards)
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(directory, "downloading to"))
            shards = [_Shard(client, directory, shard_name(run, shard, num_shards)) for shard in range(num_shards)]
            moved = 0
            for number, done in enumerate(as_completed(pool.submit(shard.fetch, share) for shard in shards), 1):
                moved += done.result()
                bar.total = moved * num_shards // number  # the shards of a run are alike
        except KeyboardInterrupt:
            raise KeyboardInterrupt("what came is kept; the same command goes on from there") from None
        finally:
            client.stopped.set()
            pool.shutdown(cancel_futures=True)
    steps, episodes = sum(shard.steps for shard in shards), sum(shard.episodes for shard in shards)
    return Downloaded(steps, episodes, num_shards, client.bytes_moved)


class _Shard:
    """One shard, here and there.

    Attributes:
        steps, episodes: that are here, once it was fetched.
    """

    def __init__(self, client: _Client, directory: Path, name: str):
        self._client, self._name, self._path = client, name, directory / name
        self._partial, self._rewritten = directory / f".{name}.partial", directory / f".{name}.rewritten"
        self.steps = self.episodes = 0

    def fetch(self, share: int) -> int:
        """Make the file hold ``share`` steps, or all there are; return the bytes moved for it."""
        moved = 0
        if not self._is_enough(share):
            resumed = self._partial.exists()
            try:
                moved = self._fetch(share)
            except ReplayFormatError:
                self._partial.unlink(missing_ok=True)
                if not resumed:
                    raise
                moved = self._fetch(share)  # what an earlier command had left was bad
        for left in (self._partial, self._rewritten):
            left.unlink(missing_ok=True)
        return moved

    def _is_enough(self, share: int) -> bool:
        if not self._path.exists():
            return False
        with open_gzip(self._path) as stream:
            self._count(stream, math.inf, f"{self._path}", "delete it and run the command again")
        return self.steps >= share or self._client.size(self._name) == self._path.stat().st_size

    def _fetch(self, share: int) -> int:
        at = f"{self._client.base_url}/{self._name}"
        with _Remote(self._client, self._name, self._partial, self._path) as remote, open_gzip(remote) as stream:
            whole = self._count(stream, share, at, "the source itself is damaged, or not of this format")
        with name_file_in_errors(self._path, self._partial.parent):
            if not whole:
                with open_gzip(self._partial) as stream, create_gzip(self._rewritten) as shard:
                    for payload in itertools.islice(read_records(stream), self.episodes):
                        write_record(shard, payload)
                sync(self._rewritten)
            (self._partial if whole else self._rewritten).replace(self._path)
        return remote.moved

    def _count(self, stream: Any, enough: float, name: str, advice: str) -> bool:
        """Count steps and episodes until there are ``enough`` steps; return whether the file ended first."""
        self.steps = self.episodes = 0
        with translate_gzip_errors(
            lambda what: ReplayFormatError(f"{name} is damaged at record {self.episodes} ({what}); {advice}")
        ):
            for payload in read_records(stream):
                self.steps += len(ShardRecord.parse(payload))
                self.episodes += 1
                if self.steps >= enough:
                    return False
            if not self.episodes:
                raise ValueError("it holds no episode")
        return True


class _Remote(io.RawIOBase):
    """A file that is fetched as it is read.

    Args:
        client: what fetches.
        name: of the file there.
        partial: where it is kept; an earlier command may have left its beginning.
        path: what it is to become, which errors name.

    Attributes:
        moved: bytes fetched.
    """

    def __init__(self, client: _Client, name: str, partial: Path, path: Path):
        super().__init__()
        self._client, self._name, self._partial, self._path = client, name, partial, path
        with name_file_in_errors(path, partial):
            self._file = partial.open("a+b")
        self._available = partial.stat().st_size
        self._size: int | None = None  # of the remote file; not known yet
        self._position = self.moved = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):  # a full disk was reported when the block was written
                self._file.close()
            if not self._available:
                self._partial.unlink(missing_ok=True)
        super().close()

    def readinto(self, buffer: Any) -> int:
        if self._position == self._available and self._available != self._size:
            self._fetch_more()
        self._file.seek(self._position)
        got = self._file.readinto(buffer) or 0
        self._position += got
        return got

    def _fetch_more(self) -> None:
        end = _FIRST_RANGE
        while end <= self._available:  # the same ends, wherever an earlier command was stopped
            end += end // 8
        for block, size in self._client.fetch(self._name, self._available, end):
            with name_file_in_errors(self._path, self._partial):
                self._file.write(block)
                self._file.flush()
            self._available += len(block)
            self.moved += len(block)
            self._size = size


class _Client:
    """HTTP: byte ranges of the run's files, as patient as a flaky connection needs.

    Attributes:
        base_url: what the files' names follow.
        bytes_moved: of files, so far.
        stopped: set when nobody waits for the files any more.
    """

    def __init__(self, base_url: str, num_connections: int, bar: ProgressBar):
        self.base_url = base_url
        self.stopped = threading.Event()
        self.bytes_moved = 0
        self._bar, self._lock = bar, threading.Lock()
        self._reached = False
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=num_connections))

    def count_shards(self, run: int) -> int:
        """How many shards the run has, which their names tell.

        Raises:
            InputError: if there is no shard 0 of any number of shards.
        """
        others = () if self.base_url.startswith(BASE_URL) else _SHARDS_OF_MIRRORS
        refusal: _Refused | None = None
        for count in (*_SHARDS, *others):
            try:
                self.size(shard_name(run, 0, count))
                return count
            except _Refused as error:
                refusal = refusal or error
                if error.status != 404:
                    break
        assert refusal is not None
        raise refusal

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return next(size for _, size in self.fetch(name, 0, 1))

    def fetch(self, name: str, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Yield bytes ``start:end`` of a file (or up to its end) in blocks, each with the size of the file.

        Raises:
            InputError: if the server refuses, or serves no ranges, or still fails after much patience.
            ReplayFormatError: if the file ends before ``start``.
        """
        failures = 0
        while True:
            pause, before = 0.0, start
            try:
                for block, size in self._get(name, start, end):
                    yield block, size
                    start += len(block)
                    if start >= min(end, size):
                        return
                failure = "the connection broke"
            except _Busy as busy:
                failure, pause = str(busy), busy.pause
            except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
                raise self._unreachable(name, _reason(error)) from error
            except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
                failure = _reason(error)
            except (requests.RequestException, ValueError) as error:
                raise self._unreachable(name, _reason(error)) from error
            if start > before:
                failures = 0
                continue
            failures += 1
            if failures == (_PATIENCE if self._reached else _PATIENCE_AT_FIRST):
                raise self._unreachable(name, failure)
            pause = max(pause, min(_SHORTEST_WAIT * 2 ** (failures - 1), _LONGEST_WAIT))
            if pause >= 1:
                self._bar.set_postfix_str(f"{failure}; waiting {pause:.0f} s")
            if self.stopped.wait(pause):
                raise InputError("the download was stopped")
            self._bar.set_postfix_str("")

    def _get(self, name: str, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """One request."""
        url = f"{self.base_url}/{name}"
        # Not compressed once more on the way: ranges are of the file as it is stored.
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with self._session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            status = response.status_code
            if status in _TRY_AGAIN:
                after = response.headers.get("Retry-After", "")
                pause = min(float(after), _LONGEST_WAIT) if re.fullmatch("[0-9]+", after) else 0.0
                raise _Busy(f"it answers {status}, which asks to come back later", pause)
            self._reached = True
            span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
            if status == 416 and span and start == int(span[2]):
                yield b"", start
                return
            if status == 416:
                raise ReplayFormatError(f"{url} does not have {start} bytes, as it had before; run the command again")
            if status >= 400:
                raise _Refused(
                    f"{url} answers {status}: the source is closed, or the game, run or --base-url is mistyped; what "
                    "can be done else: another source (--base-url), a local copy of shards or Dopamine logs "
                    "(scripts/build_dataset.py), or data of your own (scripts/collect_replay.py)",
                    status,
                )
            if status != 206 or not span or span[1] is None or int(span[1]) != start:
                raise InputError(
                    f"{url} is not served in byte ranges, which this download needs; copy the file by hand"
                )
            while block := response.raw.read1(_BLOCK):  # as it comes: what breaks off is not fetched twice
                if self.stopped.is_set():
                    raise InputError("the download was stopped")
                with self._lock:
                    self.bytes_moved += len(block)
                    self._bar.update(len(block))
                yield block, int(span[2])

    def _unreachable(self, name: str, why: str) -> InputError:
        again = "run the same command again: it goes on from where it stopped" if self._reached else "try again"
        return InputError(
            f"{self.base_url}/{name} cannot be fetched ({why}); check the connection and --base-url, and {again}"
        )


def _reason(error: Exception) -> str:
    """The innermost reason of what requests and urllib3 wrap several times."""
    inner: Any = error
    while isinstance(wrapped := getattr(inner, "reason", inner.args[0] if inner.args else None), Exception):
        inner = wrapped
    return str(inner).rsplit(": ", 1)[-1]


class _Refused(InputError):
    """The server does not give the file."""

    def __init__(self, why: str, status: int):
        super().__init__(why)
        self.status = status


class _Busy(Exception):
    """The server asks to come again, after ``pause`` seconds or when we like."""

    def __init__(self, why: str, pause: float):
        super().__init__(why)
        self.pause = pause
