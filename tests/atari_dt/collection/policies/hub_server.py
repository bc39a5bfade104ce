"""Agents on a local Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.local_hub import HubHandler, serve_hub

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

    class Handler(HubHandler):
        def answer_path(self, path: str) -> None:
            hub.requests.append(f"{self.command} {self.path}")
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
            hub.offsets.append(self.offset or 0)
            commit = hub.commits[-1] if revision == "main" else revision
            self.answer_file(hub.repositories[repository][name], commit, stop=hub.break_after)

    with serve_hub(Handler, cache):
        yield
