"""A web server on loopback that serves byte ranges, counts what it sends, and breaks on request."""

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
    """What a running server was asked and did.

    Attributes:
        url: where it listens.
        misbehave: from the number of the request to ``"drop"`` (after half of the body), ``"trickle"`` (after 3,000
            bytes of it), a status, or None.
        bytes_sent: of bodies.
        requests: path and Range header of each.
    """

    url: str
    misbehave: Callable[[int], str | int | None]
    bytes_sent: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(root: Path, misbehave: Callable[[int], str | int | None] = lambda number: None) -> Iterator[Server]:
    """Serve the files under ``root``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            with lock:
                number = len(server.requests)
                server.requests.append((self.path, wanted))
            how = server.misbehave(number)
            file = root / self.path.lstrip("/")
            if isinstance(how, int) or not file.is_file():
                self.send_response(how if isinstance(how, int) else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = file.stat().st_size
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
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
                size = {"drop": (stop - start) // 2, "trickle": 3000}.get(str(how), stop - start)
                body = content.read(min(size, stop - start))
            try:
                self.wfile.write(body)
            except OSError:  # the client has gone
                self.close_connection = True
            with lock:
                server.bytes_sent += len(body)
            if how is not None:
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
