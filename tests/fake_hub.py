"""A Hugging Face hub on loopback: repositories are folders, their one commit a digest of their files.

Who may write is said by ``tokens``; what is written arrives as the hub takes it, small files in the commit and large ones by LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".parquet")


class FakeHub:
    """Serves ``root/<owner>/<name>/...``; ``asked`` lists the files whose contents were sent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.tokens: dict[str, tuple[str, ...]] = {}
        """Token to the owners it may write for."""
        self.private: set[str] = set()
        self.commits: list[dict] = []
        """Each commit's header and operations."""
        self.large: dict[str, bytes] = {}
        """What came by LFS, by its SHA-256."""
        self.failing: list[tuple[str, int]] = []
        """Beginning of a path, and the status with which the next request to it fails."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_POST(self) -> None:
                hub.take(self)

            def do_PUT(self) -> None:
                hub.take(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def files(self, repo: str) -> list[str]:
        folder = self.root / repo
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    def commit(self, repo: str) -> str:
        found = hashlib.sha1()
        for name in self.files(repo):
            found.update(name.encode() + b"\n" + hashlib.sha1((self.root / repo / name).read_bytes()).digest())
        return found.hexdigest()

    # reading

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = unquote(urlsplit(request.path).path).strip("/").split("/")
        if self._fails(request, path):
            return
        if path[:2] == ["api", "whoami-v2"]:
            known = self._token(request) in self.tokens
            self._send(request, *(200, b'{"name": "me", "type": "user"}') if known else (401, b'{"error": "Invalid token"}'))
        elif path[:2] == ["api", "models"]:
            self._api(request, "/".join(path[2:4]), path[4:])
        elif len(path) > 4 and path[2] == "resolve":
            self._file(request, "/".join(path[:2]), "/".join(path[4:]), body)
        else:
            self._send(request, 404, b"{}")

    def _api(self, request: BaseHTTPRequestHandler, repo: str, rest: list[str]) -> None:
        commit = self.commit(repo)
        hidden = repo in self.private and self._token(request) not in self.tokens
        strange = bool(self._token(request)) and bool(self.tokens) and self._token(request) not in self.tokens
        if strange or hidden or not (self.root / repo).is_dir() or (rest[:1] == ["revision"] and rest[1] not in ("main", commit)):
            self._send(request, 401 if strange else 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return
        if rest[:1] == ["tree"]:
            listed = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.files(repo)]
            self._send(request, 200, json.dumps(listed).encode())
            return
        siblings = [{"rfilename": name} for name in self.files(repo)]
        body = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "private": repo in self.private}
        self._send(request, 200, json.dumps(body).encode())

    def _file(self, request: BaseHTTPRequestHandler, repo: str, name: str, body: bool) -> None:
        file = self.root / repo / name
        if not file.is_file() or (repo in self.private and self._token(request) not in self.tokens):
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        if body:
            self.asked.append(name)
        more = {"X-Repo-Commit": self.commit(repo), "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        self._send(request, 200, data, more, body)

    # writing

    def take(self, request: BaseHTTPRequestHandler) -> None:
        data = self._body(request)
        path = unquote(urlsplit(request.path).path).strip("/").split("/")
        if self._fails(request, path):
            return
        if path == ["api", "validate-yaml"]:
            self._validate(request, json.loads(data)["content"])
        elif path[0] == "lfs":  # the address itself is the permission, as with signed ones
            assert hashlib.sha256(data).hexdigest() == path[1]
            self.large[path[1]] = data
            self._send(request, 200, b"")
        elif self._token(request) not in self.tokens:
            self._send(request, 401, b'{"error": "Invalid username or password."}')
        elif path == ["api", "repos", "create"]:
            self._create(request, json.loads(data))
        elif path[-4:] == ["info", "lfs", "objects", "batch"]:
            self._batch(request, json.loads(data))
        elif path[:2] == ["api", "models"] and path[4:5] in (["preupload"], ["commit"]):
            repo = "/".join(path[2:4])
            if path[2] not in self.tokens[self._token(request)]:
                self._send(request, 403, b'{"error": "Forbidden: pass a token with write access"}')
            elif path[4] == "preupload":
                self._preupload(request, repo, json.loads(data)["files"])
            else:
                self._commit(request, repo, [json.loads(line) for line in data.splitlines() if line.strip()])
        else:
            self._send(request, 404, b"{}")

    def _create(self, request: BaseHTTPRequestHandler, said: dict) -> None:
        owner = said.get("organization") or "me"
        repo = f"{owner}/{said['name']}"
        if owner not in self.tokens[self._token(request)]:
            self._send(request, 403, b'{"error": "You don\'t have the rights to create a model under this namespace"}')
            return
        if not (self.root / repo).is_dir():
            (self.root / repo).mkdir(parents=True)
            (self.root / repo / ".gitattributes").write_text("*.safetensors filter=lfs\n")
            if said.get("private") or said.get("visibility") == "private":
                self.private.add(repo)
        self._send(request, 200, json.dumps({"url": f"{self.url}/{repo}", "name": repo, "id": repo}).encode())

    def _validate(self, request: BaseHTTPRequestHandler, content: str) -> None:
        errors = []
        try:
            found = yaml.safe_load(content.split("---\n")[1])
            if found.get("license") not in ("mit", "apache-2.0", "other"):
                errors.append({"message": '"license" must be one of [apache-2.0, mit, other]'})
        except Exception as error:
            errors.append({"message": f"no front matter: {error}"})
        self._send(request, 400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())

    def _preupload(self, request: BaseHTTPRequestHandler, repo: str, files: list[dict]) -> None:
        told = []
        for file in files:
            there = self.root / repo / file["path"]
            large = file["path"].endswith(LARGE)
            one = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if there.is_file():
                data = there.read_bytes()
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                one["oid"] = hashlib.sha256(data).hexdigest() if large else blob
            told.append(one)
        self._send(request, 200, json.dumps({"files": told}).encode())

    def _batch(self, request: BaseHTTPRequestHandler, said: dict) -> None:
        told = []
        for one in said["objects"]:
            upload = {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}
            told.append({**one, **({} if one["oid"] in self.large else {"actions": upload})})
        self._send(request, 200, json.dumps({"transfer": "basic", "objects": told}).encode())

    def _commit(self, request: BaseHTTPRequestHandler, repo: str, lines: list[dict]) -> None:
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, self.commit(repo)):
            self._send(request, 412, b'{"error": "A commit has happened since. Please refresh and try again."}')
            return
        for line in lines[1:]:
            value = line["value"]
            file = self.root / repo / value["path"]
            if line["key"] == "deletedFile":
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(base64.b64decode(value["content"]) if line["key"] == "file" else self.large[value["oid"]])
        self.commits.append({"repo": repo, "header": header, "operations": lines[1:]})
        oid = self.commit(repo)
        told = {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo}/commit/{oid}", "hookOutput": ""}
        self._send(request, 200, json.dumps(told).encode())

    # both

    def _fails(self, request: BaseHTTPRequestHandler, path: list[str]) -> bool:
        for i, (beginning, status) in enumerate(self.failing):
            if "/".join(path).startswith(beginning):
                del self.failing[i]
                self._send(request, status, b'{"error": "as the test wants it"}')
                return True
        return False

    @staticmethod
    def _token(request: BaseHTTPRequestHandler) -> str:
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length", 0)))
        found = b""
        while size := int(request.rfile.readline(), 16):
            found += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        return found

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
