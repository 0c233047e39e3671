"""A Hugging Face hub on loopback: repositories are folders, their one commit a digest of their files' names."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Serves ``root/<owner>/<name>/...``; ``asked`` lists the files whose contents were sent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def files(self, repo: str) -> list[str]:
        folder = self.root / repo
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def commit(self, repo: str) -> str:
        return hashlib.sha1("\n".join(self.files(repo)).encode()).hexdigest()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = unquote(urlsplit(request.path).path).strip("/").split("/")
        if path[:2] == ["api", "models"]:
            self._api(request, "/".join(path[2:4]), path[4:])
        elif len(path) > 4 and path[2] == "resolve":
            self._file(request, "/".join(path[:2]), "/".join(path[4:]), body)
        else:
            self._send(request, 404, b"{}")

    def _api(self, request: BaseHTTPRequestHandler, repo: str, rest: list[str]) -> None:
        commit = self.commit(repo)
        if not (self.root / repo).is_dir() or (rest[:1] == ["revision"] and rest[1] not in ("main", commit)):
            self._send(request, 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        if rest[:1] == ["tree"]:
            listed = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.files(repo)]
            self._send(request, 200, json.dumps(listed).encode())
            return
        siblings = [{"rfilename": name} for name in self.files(repo)]
        self._send(request, 200, json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}).encode())

    def _file(self, request: BaseHTTPRequestHandler, repo: str, name: str, body: bool) -> None:
        file = self.root / repo / name
        if not file.is_file():
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        if body:
            self.asked.append(name)
        more = {"X-Repo-Commit": self.commit(repo), "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        self._send(request, 200, data, more, body)

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None, body: bool = True
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        if body and request.command != "HEAD":
            request.wfile.write(data)


@contextmanager
def fake_hub(root: Path) -> Iterator[FakeHub]:
    """A hub that runs for the time of the block."""
    hub = FakeHub(root)
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
