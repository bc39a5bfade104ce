"""Download byte ranges over HTTP from a server that may break, stall or lie."""

from __future__ import annotations

import http.client
import io
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import requests
import urllib3
from urllib3.exceptions import HTTPError

from replay_data.errors import InputError, ReplayFormatError
from replay_data.progress import ProgressBar

_BLOCK_SIZE = 1 << 16  # largest number of bytes written at once
_MAX_FAILURES = 10  # in a row, once the server has answered
_MAX_FAILURES_AT_FIRST = 5  # in a row, before its first answer
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 30.0  # seconds; the wait doubles after each failure
_TIMEOUT = (10, 10)  # seconds to connect, and seconds without a byte
_PATIENCE = 120.0  # seconds in which a range, or 64 KiB of it, must arrive, retries included
_RETRY_STATUSES = {408, 429, 500, 502, 503, 504}


class RangeClient:
    """Downloads byte ranges of files over HTTP, and retries on failures.

    A range is given up after 10 failures in a row (5 before the server's first answer), or when neither 64 KiB of it
    nor its rest have arrived for 2 minutes. Whatever the server does, a download that gets nowhere ends within 5
    minutes.

    Args:
        base_url: Address of the directory that holds the files.
        num_connections: Number of connections to keep open.
        bar: Progress bar to update with each byte received.

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
        self._session.hooks["response"].append(_drop_body_of_redirect)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _PatientAdapter(num_connections, self.stopped))

    def stop_after_error(self, future: Future[Any]) -> None:
        """Stop all downloads if one of them has failed."""
        if not future.cancelled() and future.exception() is not None:
            self.stopped.set()

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return next(size for _, size in self.fetch(name, 0, 1))

    def fetch(self, name: str, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Yield bytes ``start:end`` of a file (or up to its end) in blocks, each with the size of the file.

        Raises:
            InputError: If the server refuses, serves no ranges, or still fails after many retries.
            ReplayFormatError: If the file ends before ``start``.
        """
        failures, progress = 0, _Progress()
        while True:
            pause, start_of_request = 0.0, start
            self._check_stopped()
            try:
                for block, size in self._request(name, start, end):
                    yield block, size
                    start += len(block)
                    if start >= min(end, size):
                        return
                    progress.add(len(block))
                    if progress.is_too_slow:
                        break
                failure = "the connection broke"
            except _BusyError as error:
                failure, pause = str(error), error.pause
            except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
                raise self._unreachable_error(name, _innermost_reason(error)) from error
            except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
                failure = _innermost_reason(error)
            except (requests.RequestException, ValueError) as error:
                raise self._unreachable_error(name, _innermost_reason(error)) from error
            failures = 0 if start > start_of_request else failures + 1
            self._check_stopped()
            if progress.is_too_slow:
                raise self._unreachable_error(name, f"the server sent less than 64 KiB in {_PATIENCE:g} s")
            if failures == (_MAX_FAILURES if self._reached else _MAX_FAILURES_AT_FIRST):
                raise self._unreachable_error(name, failure)
            if failures:
                self._wait(max(pause, min(_SHORTEST_WAIT * 2 ** (failures - 1), _LONGEST_WAIT)), failure)

    def _wait(self, pause: float, failure: str) -> None:
        """Wait after a failure, and show it if the wait is long."""
        if pause >= 1:
            self._bar.set_postfix_str(f"{failure}; waiting {pause:.0f} s")
        self.stopped.wait(pause)
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
                raise RefusedError(
                    f"{url} answers {status}: the source is closed, or the game, run or `base_url` is mistyped; use "
                    "another source (`base_url`), a local copy of shards or Dopamine logs (scripts/build_dataset.py), "
                    "or record your own data (scripts/collect_replay.py)",
                    status,
                )
            if status != 206 or not content_range or content_range[1] is None or int(content_range[1]) != start:
                raise InputError(f"{url} is not served in byte ranges, which this download needs; copy it by hand")
            size = int(content_range[2])
            wanted = min(end, size) - start
            if wanted <= 0:
                raise InputError(f"{url} is served in ranges that contradict each other; use another `base_url`")
            # As it arrives, so that a broken connection loses nothing.
            while wanted and (block := response.raw.read1(min(_BLOCK_SIZE, wanted))):
                self._check_stopped()
                with self._lock:
                    self.bytes_downloaded += len(block)
                    self._bar.update(len(block))
                yield block, size
                wanted -= len(block)

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise DownloadStoppedError("the download was stopped")

    def _unreachable_error(self, name: str, reason: str) -> InputError:
        advice = "run the same command again to resume" if self._reached else "try again"
        return InputError(
            f"{self.base_url}/{name} cannot be downloaded ({reason}); check the connection and `base_url`, and {advice}"
        )


class _Progress:
    """Watches how fast bytes arrive."""

    def __init__(self) -> None:
        self._since, self._num_bytes = time.monotonic(), 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that have arrived."""
        self._num_bytes += num_bytes
        if self._num_bytes >= _BLOCK_SIZE:
            self._since, self._num_bytes = time.monotonic(), 0

    @property
    def is_too_slow(self) -> bool:
        """Whether fewer than 64 KiB have arrived for 2 minutes."""
        return time.monotonic() - self._since > _PATIENCE


class _PatientStream(io.RawIOBase):
    """The bytes of one answer, headers included; fails when they trickle in, or when the download is stopped.

    The time-out of a socket starts again with each byte, so it does not notice a server that sends one now and then.
    """

    def __init__(self, stream: Any, stopped: threading.Event):
        super().__init__()
        self._stream, self._stopped, self._progress = stream, stopped, _Progress()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._progress.is_too_slow or self._stopped.is_set():
            raise TimeoutError
        num_bytes = self._stream.readinto(buffer) or 0
        self._progress.add(num_bytes)
        return num_bytes

    def close(self) -> None:
        self._stream.close()
        super().close()


class _PatientAdapter(requests.adapters.HTTPAdapter):
    """Opens connections whose answers are read through `_PatientStream`."""

    def __init__(self, num_connections: int, stopped: threading.Event):
        self._pool_classes = {
            "http": _patient_pool(urllib3.HTTPConnectionPool, stopped),
            "https": _patient_pool(urllib3.HTTPSConnectionPool, stopped),
        }
        super().__init__(pool_maxsize=num_connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager


def _patient_pool(pool: type[Any], stopped: threading.Event) -> type[Any]:
    """Return a subclass of a connection pool for `_PatientAdapter`."""

    class Response(http.client.HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.fp: Any = io.BufferedReader(_PatientStream(self.fp.detach(), stopped))

    connection = type("PatientConnection", (pool.ConnectionCls,), {"response_class": Response})
    return type("PatientPool", (pool,), {"ConnectionCls": connection})


def _drop_body_of_redirect(response: requests.Response, **kwargs: Any) -> None:
    """Close a redirect, whose body requests would read into memory, however long it is."""
    if response.is_redirect:
        response.close()


def _innermost_reason(error: Exception) -> str:
    """Return the message of the innermost error that requests and urllib3 have wrapped."""
    inner: Any = error
    while isinstance(wrapped := getattr(inner, "reason", inner.args[0] if inner.args else None), Exception):
        inner = wrapped
    return str(inner).rsplit(": ", 1)[-1]


class RefusedError(InputError):
    """The server does not serve the file."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class DownloadStoppedError(InputError):
    """`RangeClient.stopped` was set."""


class _BusyError(Exception):
    """The server is busy; ``pause`` is the number of seconds it asks to wait, or 0."""

    def __init__(self, message: str, pause: float):
        super().__init__(message)
        self.pause = pause
