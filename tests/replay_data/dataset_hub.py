"""A dataset on a local Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.local_hub import HubHandler, serve_hub

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

    class Handler(HubHandler):
        def answer_path(self, path: str) -> None:
            hub.num_requests += 1
            if hub.portal:
                self.answer(200, b"<html>Welcome</html>")
            elif match := re.fullmatch(f"{api}(?:/revision/([^/]+))?", path):
                content = {"id": hub.repository, "sha": match[1] or hub.revision}
                self.answer(200, json.dumps(content).encode())
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
            if self.command == "GET":
                hub.downloads.append((file.name, self.offset or 0))
            content = sent = file.read_bytes()
            if file.name in hub.altered:
                sent = bytes([sent[0] ^ 1]) + sent[1:]
            if file.name in hub.cut_off:
                sent = sent[:-1]
            self.answer_file(content, revision, hub.break_after.get(file.name), sent)

    with serve_hub(Handler, cache):
        yield
