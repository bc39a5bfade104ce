"""Byte ranges from servers that stall, trickle, lie or never end, with short time-outs."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage import http_ranges
from replay_data.storage.http_ranges import RangeClient
from tests.replay_data.memory import limited_memory

CONTENT = bytes(range(256)) * 800  # 204,800 bytes

Answer = Callable[[socket.socket, int, int], None]
"""Answers a request for bytes ``start:stop`` of `CONTENT` on a connection, which is then closed."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "_SHORTEST_WAIT", 0.001)
    monkeypatch.setattr(http_ranges, "_TIMEOUT", (0.3, 0.3))
    monkeypatch.setattr(http_ranges, "_PATIENCE", 0.5)


@contextmanager
def serving(answer: Answer) -> Iterator[list[str]]:
    """Serve `CONTENT`; yield the address of the server, followed by the requests that it has received."""
    stopped = threading.Event()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            request = connection.recv(65536).decode()
            log.append(request)
            span = re.search(r"bytes=(\d+)-(\d+)", request)
            assert span
            answer(connection, int(span[1]), min(int(span[2]) + 1, len(CONTENT)))

    def accept() -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        log = [f"http://127.0.0.1:{listener.getsockname()[1]}"]
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield log
        finally:
            stopped.set()
            thread.join()


def head(start: int, stop: int, **changes: str) -> bytes:
    """Return the status line and the headers of an answer."""
    fields = {"Content-Range": f"bytes {start}-{stop - 1}/{len(CONTENT)}", "Content-Length": str(stop - start)}
    changed = fields | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = ["HTTP/1.1 206 Partial Content", *(f"{name}: {value}" for name, value in changed.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def fetch(address: str, start: int = 0, end: int = 100_000) -> bytes:
    """Return a range of `CONTENT`, downloaded."""
    with ProgressBar(disable=True) as bar:
        client = RangeClient(address, 1, bar)
        return b"".join(block for block, _ in client.fetch("file", start, end))


def trickle(connection: socket.socket, content: bytes, seconds: float) -> None:
    for position in range(len(content)):
        connection.sendall(content[position : position + 1])
        time.sleep(seconds)


def send(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop) + CONTENT[start:stop])


def stall(connection: socket.socket, start: int, stop: int) -> None:
    time.sleep(0.6)


def stall_after_headers(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop))
    time.sleep(0.6)


def send_nothing(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop, Content_Length="0"))


def hang_up(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop))


def send_one_byte(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop) + CONTENT[start : start + 1])


def trickle_headers(connection: socket.socket, start: int, stop: int) -> None:
    trickle(connection, b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 50, 0.02)


def trickle_body(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop))
    trickle(connection, CONTENT[start:stop][:200], 0.02)


def trickle_chunk_length(connection: socket.socket, start: int, stop: int) -> None:
    connection.sendall(head(start, stop).replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: "))
    trickle(connection, b"1;" + b"x" * 200, 0.02)


@pytest.mark.parametrize(
    "answer",
    [
        stall,
        stall_after_headers,
        send_nothing,
        hang_up,
        send_one_byte,
        trickle_headers,
        trickle_body,
        trickle_chunk_length,
    ],
)
def test_a_server_that_sends_too_little_is_given_up(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "_MAX_FAILURES", 3)
    monkeypatch.setattr(http_ranges, "_MAX_FAILURES_AT_FIRST", 2)
    with serving(answer) as (address, *_), pytest.raises(InputError, match=r"file cannot be downloaded \(.*check the"):
        fetch(address)


def test_a_slow_server_that_gets_on_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "_PATIENCE", 100)
    clock = [0.0]  # 64 KiB take 60 seconds, the file takes twice the patience
    monkeypatch.setattr(http_ranges, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    content = b""
    with serving(send) as (address, *_), ProgressBar(disable=True) as bar:
        for block, size in RangeClient(address, 1, bar).fetch("file", 0, len(CONTENT)):
            content += block
            clock[0] += len(block) / 65536 * 60
            assert size == len(CONTENT)
    assert content == CONTENT
    assert clock[0] > 180


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Content_Range": "bytes 5-99999/204800"}, "is not served in byte ranges"),
        ({"Content_Range": "bytes 0-99999/*"}, "is not served in byte ranges"),
        ({"Content_Range": "nonsense"}, "is not served in byte ranges"),
        ({"Content_Range": "bytes 0-99999/0"}, "contradict each other"),
    ],
)
def test_ranges_that_were_not_requested_are_refused(changes: dict[str, str], message: str) -> None:
    def answer(connection: socket.socket, start: int, stop: int) -> None:
        connection.sendall(head(start, stop, **changes) + CONTENT[start:stop])

    with serving(answer) as (address, *_), pytest.raises(InputError, match=message):
        fetch(address)


@pytest.mark.parametrize("length", ["10", "99999999999"])
def test_a_wrong_length_does_not_change_the_bytes(length: str) -> None:
    def answer(connection: socket.socket, start: int, stop: int) -> None:
        connection.sendall(head(start, stop, Content_Length=length) + CONTENT[start:] * 2)

    with serving(answer) as (address, *_):
        assert fetch(address, 100, 200) == CONTENT[100:200]


def test_a_body_without_end_is_cut_off() -> None:
    def answer(connection: socket.socket, start: int, stop: int) -> None:
        connection.sendall(head(start, stop).replace(b"Content-Length", b"X"))
        connection.sendall(CONTENT[start:])
        for _ in range(1000):
            connection.sendall(bytes(100_000))

    with serving(answer) as (address, *_):
        assert fetch(address, 50, 10**12) == CONTENT[50:]


def test_a_redirect_is_followed_without_its_body() -> None:
    def answer(connection: socket.socket, start: int, stop: int) -> None:
        if log[-1].startswith("GET /file"):
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nConnection: close\r\n\r\n")
            for _ in range(300):
                connection.sendall(bytes(100_000))
        else:
            connection.sendall(head(start, stop) + CONTENT[start:stop])

    with serving(answer) as log, limited_memory(5):
        assert fetch(log[0]) == CONTENT[:100_000]
