"""A dataset of a local Hugging Face Hub, for huggingface_hub's own code to download."""

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

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class DatasetHub:
    """A repository with one revision, and the requests for it.

    Attributes:
        repository: Name of the repository.
        root: Directory that holds its files.
        revision: The newest commit; the repository has the same files at every commit.
        break_after: Number of bytes of a file after which a connection breaks, by file name.
        cut_off: Names of the files whose last byte is never sent.
        altered: Names of the files that are sent with another first byte.
        portal: Whether every answer is a web page.
        downloads: Name and first byte of every download of a file.
        num_requests: Number of requests.
    """

    repository: str
    root: Path
    revision: str = REVISION
    break_after: dict[str, int] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    portal: bool = False
    downloads: list[tuple[str, int]] = field(default_factory=list)
    num_requests: int = 0


@contextmanager
def serve_dataset(hub: DatasetHub, cache: Path) -> Iterator[None]:
    """Serve a dataset, and let huggingface_hub use this Hub, with its cache in ``cache``."""
    api, files = f"/api/datasets/{hub.repository}", f"/datasets/{hub.repository}/resolve/"

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.num_requests += 1
            path = self.path.partition("?")[0]
            if hub.portal:
                self.answer(200, b"<html>Welcome</html>", {})
            elif match := re.fullmatch(f"{api}(?:/revision/([^/]+))?", path):
                content = {"id": hub.repository, "sha": match[1] or hub.revision}
                self.answer(200, json.dumps(content).encode(), {})
            elif match := re.fullmatch(f"{api}/tree/([^/]+)/(.+)", path):
                self.list_directory(match[2])
            elif match := re.fullmatch(f"{files}([^/]+)/(.+)", path):
                self.send_file(match[1], hub.root / match[2])
            else:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        def list_directory(self, name: str) -> None:
            if not (hub.root / name).is_dir():
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            entries: list[dict[str, object]] = [{"type": "directory", "path": f"{name}/folder", "oid": "0"}]
            for file in sorted((hub.root / name).iterdir()):
                content = file.read_bytes()
                lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
                entries.append(
                    {"type": "file", "path": f"{name}/{file.name}", "size": len(content), "oid": "0", "lfs": lfs}
                )
            self.answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

        def send_file(self, revision: str, file: Path) -> None:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": revision, "X-Linked-Size": str(len(content))}
            span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(span[1]) if span else 0
            if span:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if self.command == "GET":
                hub.downloads.append((file.name, start))
            if file.name in hub.altered:
                content = bytes([content[0] ^ 1]) + content[1:]
            if file.name in hub.cut_off:
                content = content[:-1]
            self.answer(206 if span else 200, content[start:], headers, hub.break_after.get(file.name))

        def answer(self, status: int, body: bytes, headers: dict[str, str], stop: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:stop])

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
