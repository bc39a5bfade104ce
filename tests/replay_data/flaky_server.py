"""A local web server that serves byte ranges, counts the bytes it sends, and fails on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    """A running server and its log.

    Attributes:
        url: Address of the server.
        misbehave: Function from the index of a request to its failure: ``"drop"`` (the connection breaks after half of
            the body), ``"trickle"`` (it breaks after 3,000 bytes of the body), a status code, or None.
        bytes_sent: Number of bytes in the bodies sent so far.
        requests: Path and Range header of each request.
    """

    url: str
    misbehave: Callable[[int], str | int | None]
    bytes_sent: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(root: Path, misbehave: Callable[[int], str | int | None] = lambda request: None) -> Iterator[Server]:
    """Serve the files in ``root``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            range_header = self.headers.get("Range")
            with lock:
                index = len(server.requests)
                server.requests.append((self.path, range_header))
            failure = server.misbehave(index)
            file = root / self.path.lstrip("/")
            if isinstance(failure, int) or not file.is_file():
                self.send_response(failure if isinstance(failure, int) else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = file.stat().st_size
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", range_header or "")
            if span and int(span[1]) >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, stop = (int(span[1]), min(int(span[2]) + 1, size)) if span else (0, size)
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            with file.open("rb") as content:
                content.seek(start)
                size = {"drop": (stop - start) // 2, "trickle": 3000}.get(str(failure), stop - start)
                body = content.read(min(size, stop - start))
            try:
                self.wfile.write(body)
            except OSError:  # the client has disconnected
                self.close_connection = True
            with lock:
                server.bytes_sent += len(body)
            if failure is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with QuietServer(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_port}", misbehave)
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
