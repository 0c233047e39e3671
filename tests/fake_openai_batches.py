"""A local server that speaks the wire format of OpenAI's files and batches, with switches for what goes wrong.

It stands behind the real SDK, keeps a ledger of what it was paid for, and answers by a function of a request's body.
Its switches are those of ``tests.fake_anthropic``, whose faults it takes::

    with FakeOpenAIBatches(answer=lambda body: {"label": "dogs"}) as api:
        monkeypatch.setenv("OPENAI_BASE_URL", api.url)
        api.fault("create", status(529))           # the next batch is answered 529
        api.fault("upload", DROP_AFTER_ACCEPTING)  # the next file is taken, its answer lost
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fake_anthropic import (
    CUT_IN_A_LINE,
    CUT_SILENTLY,
    DROP_AFTER_ACCEPTING,
    DROP_BEFORE_ACCEPTING,
    DUPLICATE,
    GARBAGE,
    HTML,
    MISSING,
    PAGE,
    REDIRECT,
    UNKNOWN,
    page,
)
from tests.fake_openai import by_schema

FAILED = "the batch is not worked on at all"


def succeeded(text: Any, stop: str = "stop", usage: dict[str, int] | None = None, **message: Any) -> dict:
    """A result: an answer, which is paid for."""
    content = text if isinstance(text, str) or text is None else json.dumps(text)
    return {"type": "succeeded", "content": content, "stop": stop, "usage": usage or {}, "more": message}


def errored(code: int = 400, kind: str = "invalid_request_error") -> dict:
    """A result: an error, which costs nothing."""
    return {"type": "errored", "code": code, "kind": kind}


EXPIRED, CANCELED = {"type": "expired"}, {"type": "canceled"}


@dataclass
class _Batch:
    id: str
    file: str
    requests: list[dict[str, Any]]
    metadata: dict[str, str] | None
    created: int
    failed: bool = False
    polls: int = 0
    results: dict[str, dict[str, Any]] | None = None

    @property
    def kinds(self) -> Counter:
        return Counter(result["type"] for result in (self.results or {}).values())


@dataclass
class FakeOpenAIBatches:
    """The server. Start it with ``with``."""

    answer: Callable[[dict[str, Any]], Any] = by_schema
    """Body of a request to its result: made by ``succeeded`` and friends, or text or JSON that is wrapped by it."""

    polls_until_ended: int = 0
    shuffle: bool = True
    keeps_metadata: bool = True
    newest_first: bool = True
    page_size: int = 100

    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Id to name and content."""

    batches: dict[str, _Batch] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)

    before: Callable[[str], None] | None = None
    """Called with ``upload``, ``create``, ``retrieve``, ``results``, ``list``, ``files`` or ``delete`` before it is served."""

    def __post_init__(self) -> None:
        self._paid: Counter = Counter()
        self._paid_tokens = [0, 0]
        self._faults: dict[str, list[Any]] = {}
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeOpenAIBatches:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, where: str, *what: Any) -> None:
        """Queue faults; each spoils one request of that sort, in order."""
        self._faults.setdefault(where, []).extend(what)

    def take(self, where: str) -> Any:
        with self._lock:
            queue = self._faults.get(where)
            return queue.pop(0) if queue else None

    def count(self, method: str, ending: str = "/v1/batches") -> int:
        """How often something was asked."""
        return sum(line.startswith(method) and line.partition("?")[0].endswith(ending) for line in self.seen)

    @property
    def paid(self) -> Counter:
        """The ledger: digest of each request's body to the number of times it was paid for, by batches that nobody
        fetched or even knows of too."""
        with self._lock:
            for batch in self.batches.values():
                if batch.results is None:
                    self._work(batch)
        return self._paid

    @property
    def paid_tokens(self) -> list[int]:
        """Input and output tokens paid for."""
        return self._paid_tokens if self.paid else [0, 0]

    @property
    def uploads(self) -> list[str]:
        """Names of the files of requests that lie here."""
        return [name for id, (name, _) in self.files.items() if id.startswith("file-in")]

    # the API

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        with self._lock:
            id = f"file-in{len(self.seen)}-{hashlib.sha256(content).hexdigest()[:8]}"
            self.files[id] = name, content
            return self.file(id)

    def file(self, id: str) -> dict[str, Any]:
        name, content = self.files[id]
        return {"id": id, "object": "file", "bytes": len(content), "created_at": int(time.time()), "filename": name,
                "purpose": "batch", "status": "processed"}  # fmt: skip

    def create(self, asked: dict[str, Any], fails: bool = False) -> dict[str, Any]:
        assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
        requests = [json.loads(line) for line in self.files[asked["input_file_id"]][1].splitlines()]
        ids = [request["custom_id"] for request in requests]
        assert len(set(ids)) == len(ids) and all(1 <= len(id) <= 64 for id in ids), "custom ids"
        assert all(r["method"] == "POST" and r["url"] == asked["endpoint"] for r in requests)
        metadata = asked.get("metadata") if self.keeps_metadata else None
        with self._lock:
            id = f"batch_{len(self.batches):04d}{hashlib.sha256(''.join(ids).encode()).hexdigest()[:12]}"
            self.batches[id] = _Batch(id, asked["input_file_id"], requests, metadata, int(time.time()), fails)
            return self.shown(self.batches[id])

    def shown(self, batch: _Batch) -> dict[str, Any]:
        with self._lock:
            if batch.polls >= self.polls_until_ended and batch.results is None:
                self._work(batch)
            kinds, status, out, error = batch.kinds, "in_progress", None, None
            if batch.failed:
                status = "failed"
            elif batch.results is not None:
                status = "expired" if kinds["expired"] else "cancelled" if kinds["canceled"] else "completed"
                out = f"file-out-{batch.id}" if kinds["succeeded"] else None
                error = f"file-err-{batch.id}" if kinds["errored"] + kinds["expired"] else None
            why = [{"code": "token_limit_exceeded", "message": "too much at once", "line": None, "param": None}]
            return {
                "id": batch.id,
                "object": "batch",
                "endpoint": "/v1/chat/completions",
                "errors": {"object": "list", "data": why} if batch.failed else None,
                "input_file_id": batch.file,
                "completion_window": "24h",
                "status": status,
                "output_file_id": out,
                "error_file_id": error,
                "created_at": batch.created,
                "metadata": batch.metadata,
                "request_counts": {
                    "total": len(batch.requests),
                    "completed": kinds["succeeded"],
                    "failed": kinds["errored"] + kinds["expired"],
                },
            }

    def _work(self, batch: _Batch) -> None:
        batch.results = {}
        for request in [] if batch.failed else batch.requests:
            body = request["body"]
            given = self.answer(body)
            if not (isinstance(given, dict) and given.get("type") in ("succeeded", "errored", "expired", "canceled")):
                given = succeeded(given)
            if given["type"] == "succeeded":
                self._paid[digest(body)] += 1
                usage = {"prompt_tokens": len(json.dumps(body)) // 4, "completion_tokens": 20, **given["usage"]}
                self._paid_tokens[0] += usage["prompt_tokens"]
                self._paid_tokens[1] += usage["completion_tokens"]
                given = {**given, "usage": usage}
            batch.results[request["custom_id"]] = given

    def lines(self, batch: _Batch, output: bool, fault: Any) -> list[bytes]:
        assert batch.results is not None
        wanted = ("succeeded",) if output else ("errored", "expired")
        items = [(id, result) for id, result in batch.results.items() if result["type"] in wanted]
        if self.shuffle:
            Random(batch.id).shuffle(items)
        rows = [json.dumps(_line(id, result), ensure_ascii=False).encode() + b"\n" for id, result in items]
        if fault == MISSING:
            rows = rows[1:]
        if fault == DUPLICATE:
            rows.append(json.dumps(_line(items[0][0], EXPIRED)).encode() + b"\n")
        if fault == UNKNOWN:
            rows.insert(0, json.dumps(_line("who-is-this", EXPIRED)).encode() + b"\n")
        if fault == GARBAGE:
            rows[0] = b"<html>" + rows[0]
        if fault in (CUT_IN_A_LINE, CUT_SILENTLY):
            rows[-1] = rows[-1][: len(rows[-1]) // 2]
        return rows


def _line(id: str, result: dict[str, Any]) -> dict[str, Any]:
    """A result as a line of a file."""
    line = {"id": f"batch_req_{id[:8]}", "custom_id": id, "response": None, "error": None}
    if result["type"] == "expired":
        return {**line, "error": {"code": "batch_expired", "message": "not done before the window expired"}}
    if result["type"] == "errored":
        body: dict[str, Any] = {"error": {"message": "told to", "type": result["kind"], "code": None, "param": None}}
        return {**line, "response": {"status_code": result["code"], "request_id": "req_1", "body": body}}
    more = dict(result["more"])
    logprobs = more.pop("logprobs", None)
    message = {"role": "assistant", "content": result["content"], "refusal": None, **more}
    choice = {"index": 0, "message": message, "finish_reason": result["stop"], "logprobs": logprobs}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": result["usage"]}
    return {**line, "response": {"status_code": 200, "request_id": "req_1", "body": body}}


def digest(body: dict[str, Any]) -> str:
    """The ledger's name for a request."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    api: FakeOpenAIBatches
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None: ...

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        page(self, code, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _missing(self) -> None:
        self._send(404, {"error": {"message": "no such thing", "type": "invalid_request_error", "code": None}})

    def _handle(self, method: str) -> None:
        api = self.api
        api.seen.append(f"{method} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        api.keys.add(self.headers.get("authorization", "").removeprefix("Bearer "))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/v1/").strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        where = {
            ("POST", "files"): "upload", ("POST", "batches"): "create", ("DELETE", "files"): "delete",
            ("GET", "files"): "results" if path[-1] == "content" else "files",
            ("GET", "batches"): "list" if len(path) == 1 else "retrieve",
        }[method, path[0]]  # fmt: skip
        if api.before is not None:
            api.before(where)
        fault = api.take(where)
        if fault == DROP_BEFORE_ACCEPTING:
            return self._drop()
        if isinstance(fault, tuple) and fault[0] == "status":
            _, code, headers, message, name = fault
            return self._send(code, {"error": {"message": message, "type": name, "code": None}}, headers)
        if fault == REDIRECT:
            return self._send(302, {}, {"location": f"http://localhost:1{self.path}"})
        if fault == HTML:
            return page(self, 200, PAGE, {"content-type": "text/html"})
        if fault == GARBAGE and where == "create":  # taken all the same
            api.create(json.loads(body))
        if fault == GARBAGE and where != "results":
            return page(self, 200, b'{"id": ', {"content-type": "application/json"})
        if where == "upload":
            name, content = _uploaded(body)
            shown = api.upload(name, content)
            return self._drop() if fault == DROP_AFTER_ACCEPTING else self._send(200, shown)
        if where == "create":
            shown = api.create(json.loads(body), fails=fault == FAILED)
            return self._drop() if fault == DROP_AFTER_ACCEPTING else self._send(200, shown)
        if where == "list":
            return self._list([api.shown(batch) for batch in api.batches.values()], query)
        if where == "retrieve":
            batch = api.batches.get(path[1])
            if batch is None:
                return self._missing()
            shown = api.shown(batch)
            batch.polls += 1
            return self._send(200, shown)
        if where == "results":
            return self._results(path[1], fault)
        if len(path) == 1:
            return self._list([api.file(id) for id in api.files], query)
        if path[1] not in api.files:
            return self._missing()
        if where == "delete":
            del api.files[path[1]]
            return self._send(200, {"id": path[1], "object": "file", "deleted": True})
        return self._send(200, api.file(path[1]))

    def _list(self, every: list[dict[str, Any]], query: dict[str, str]) -> None:
        if self.api.newest_first:
            every.reverse()
        ids = [item["id"] for item in every]
        start = ids.index(query["after"]) + 1 if "after" in query else 0
        past = start + min(int(query.get("limit", 20)), self.api.page_size)
        shown = every[start:past]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        self._send(200, {"object": "list", "data": shown, "has_more": past < len(every), **ends})

    def _results(self, id: str, fault: Any) -> None:
        batch = self.api.batches.get(id.split("-", 2)[-1])
        if batch is None or batch.results is None:
            return self._missing()
        rows = self.api.lines(batch, id.startswith("file-out"), fault)
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        if fault == CUT_SILENTLY:  # no length, so that only the half line shows that something is missing
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"".join(rows))
            self.wfile.flush()
            return self._drop()
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for row in rows:
            self.wfile.write(f"{len(row):x}\r\n".encode() + row + b"\r\n")
        if fault == CUT_IN_A_LINE:
            self.wfile.flush()
            time.sleep(0.01)
            return self._drop()
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")


def _uploaded(body: bytes) -> tuple[str, bytes]:
    """Name and content of the one file in a multipart form."""
    boundary = body.split(b"\r\n", 1)[0]
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'filename="' in head:
            return head.split(b'filename="')[1].split(b'"')[0].decode(), content.removesuffix(b"\r\n")
    raise AssertionError("no file in the form")
