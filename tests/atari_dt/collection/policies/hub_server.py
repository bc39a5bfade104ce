"""A small Hugging Face Hub on this machine, for huggingface_hub's own code to talk to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories, all of the same commits, and what was asked for.

    Attributes:
        repositories: Content of each file, by repository and name.
        commits: Commits, oldest first; all have the same files.
        gated: Repositories that list their files, but do not give them.
        break_after: Bytes of a file after which a download breaks; None for never.
        portal: Whether every answer is a web page, as of a network that wants a login.
        requests: Methods and paths of all requests.
        offsets: First byte of each download.
    """

    repositories: dict[str, dict[str, bytes]]
    commits: list[str] = field(default_factory=lambda: [COMMIT])
    gated: set[str] = field(default_factory=set)
    break_after: int | None = None
    portal: bool = False
    requests: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


@contextmanager
def serve(hub: Hub, cache: Path) -> Iterator[None]:
    """Serve a Hub, and let huggingface_hub use it, with its cache in ``cache``."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            if hub.portal:
                self.answer(200, b"<html>Welcome</html>")
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self.describe(match[1], match[2] or "main")
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.send(match[1], match[2], match[3])
            else:
                self.answer(404, b"")

        def describe(self, repository: str, revision: str) -> None:
            if repository not in hub.repositories:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("main", *hub.commits):
                self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            else:
                files = hub.repositories[repository].items()
                siblings = [{"rfilename": name, "size": len(content)} for name, content in files]
                commit = hub.commits[-1] if revision == "main" else revision
                self.answer(200, json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode())

        def send(self, repository: str, revision: str, name: str) -> None:
            if repository in hub.gated:
                self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
                return
            content = hub.repositories[repository][name]
            commit = hub.commits[-1] if revision == "main" else revision
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            offset = int(start[1]) if start else 0
            hub.offsets.append(offset)
            self.answer(206 if start else 200, content[offset:], headers)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: hub.break_after] if "ETag" in (headers or {}) else body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
