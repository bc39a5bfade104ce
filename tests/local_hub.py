"""A Hugging Face Hub on this machine, for huggingface_hub's own code to talk to."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

from huggingface_hub import constants


class HubHandler(BaseHTTPRequestHandler):
    """Answers requests as the Hub does; a subclass has the repositories."""

    def answer_path(self, path: str) -> None:
        """Answer a request for a path without its query."""
        raise NotImplementedError

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.answer_path(self.path.partition("?")[0])

    @property
    def offset(self) -> int | None:
        """First byte that a request wants of a file; None for the whole file."""
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(span[1]) if span else None

    def answer_file(self, content: bytes, commit: str, stop: int | None = None, sent: bytes | None = None) -> None:
        """Answer with a file, or with its bytes after `offset`.

        Args:
            content: The file.
            commit: Commit of the repository.
            stop: Number of bytes after which the connection breaks; None for never.
            sent: What is sent instead of the content.
        """
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(content)),
        }
        offset = self.offset
        if offset is not None:
            headers["Content-Range"] = f"bytes {offset}-{len(content) - 1}/{len(content)}"
        body = (content if sent is None else sent)[offset or 0 :]
        self.answer(200 if offset is None else 206, body, headers, stop)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, stop: int | None = None) -> None:
        """Send a response; of its body, only the first ``stop`` bytes, if that is given."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:stop])


@contextmanager
def serve_hub(handler: type[HubHandler], cache: Path) -> Iterator[None]:
    """Serve a Hub, and let huggingface_hub use it, with its cache in ``cache``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        with mock.patch.multiple(
            constants,
            ENDPOINT=endpoint,
            HUGGINGFACE_CO_URL_TEMPLATE=endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            HF_HUB_CACHE=str(cache),
            HF_HUB_OFFLINE=False,
        ):
            yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
