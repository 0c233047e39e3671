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
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fake_openai import by_schema
from tests.faulty import (  # noqa: F401  # faults, as they are named by tests
    CUT_IN_A_LINE,
    CUT_SILENTLY,
    DROP_AFTER_ACCEPTING,
    DROP_BEFORE_ACCEPTING,
    DUPLICATE,
    GARBAGE,
    HANG,
    HTML,
    MISSING,
    REDIRECT,
    UNKNOWN,
    Faulty,
    Handler,
    digest,
    spoilt,
    status,
)

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
class FakeOpenAIBatches(Faulty):
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
        self.serve(_FilesAndBatches, "/v1")

    def count(self, method: str, ending: str = "/v1/batches") -> int:
        """How often something was asked."""
        return self.asked_for(method, ending)

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
        return spoilt(rows, fault, lambda id: _line(id, EXPIRED), items[0][0] if items else "")


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


class _FilesAndBatches(Handler):
    api: FakeOpenAIBatches

    def sort(self, method: str, path: str) -> str | None:
        rest = self._rest(path)
        return {
            ("POST", "files"): "upload", ("POST", "batches"): "create", ("DELETE", "files"): "delete",
            ("GET", "files"): "results" if rest[-1] == "content" else "files",
            ("GET", "batches"): "list" if len(rest) == 1 else "retrieve",
        }.get((method, rest[0]))  # fmt: skip

    def error(self, message: str, name: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": name, "code": None}}

    def answer(self, where: str, path: str, query: dict[str, str], body: bytes, fault: Any) -> None:
        api, rest = self.api, self._rest(path)
        if fault == GARBAGE and where == "create":  # taken all the same
            api.create(json.loads(body))
        if fault == GARBAGE and where != "results":
            return self.send(200, b'{"id": ')
        if where == "upload":
            return self.send_unless(fault, 200, api.upload(*_uploaded(body)))
        if where == "create":
            return self.send_unless(fault, 200, api.create(json.loads(body), fails=fault == FAILED))
        if where == "list":
            return self._list([api.shown(batch) for batch in api.batches.values()], query)
        if where == "files" and len(rest) == 1:
            return self._list([api.file(id) for id in api.files], query)
        if where in ("retrieve", "results"):
            batch = api.batches.get(rest[1] if where == "retrieve" else rest[1].split("-", 2)[-1])
            if batch is None or (where == "results" and batch.results is None):
                return self._missing()
            if where == "results":
                rows = api.lines(batch, rest[1].startswith("file-out"), fault)
                return self.send_lines(rows, fault, "application/octet-stream")
            shown = api.shown(batch)
            batch.polls += 1
            return self.send(200, shown)
        if rest[1] not in api.files:
            return self._missing()
        if where == "delete":
            del api.files[rest[1]]
            return self.send(200, {"id": rest[1], "object": "file", "deleted": True})
        return self.send(200, api.file(rest[1]))

    def _rest(self, path: str) -> list[str]:
        return path.removeprefix("/v1/").strip("/").split("/")

    def _missing(self) -> None:
        self.send(404, self.error("no such thing", "invalid_request_error"))

    def _list(self, every: list[dict[str, Any]], query: dict[str, str]) -> None:
        if self.api.newest_first:
            every.reverse()
        ids = [item["id"] for item in every]
        start = ids.index(query["after"]) + 1 if "after" in query else 0
        past = start + min(int(query.get("limit", 20)), self.api.page_size)
        shown = every[start:past]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        self.send(200, {"object": "list", "data": shown, "has_more": past < len(every), **ends})


def _uploaded(body: bytes) -> tuple[str, bytes]:
    """Name and content of the one file in a multipart form."""
    boundary = body.split(b"\r\n", 1)[0]
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'filename="' in head:
            return head.split(b'filename="')[1].split(b'"')[0].decode(), content.removesuffix(b"\r\n")
    raise AssertionError("no file in the form")
