"""A local server that speaks the wire format of Anthropic's messages and message batches, with switches for what goes
wrong.

It stands behind the real SDK, keeps a ledger of what it was paid for, and answers by a function of a request's
params::

    with FakeAnthropic(answer=lambda params: {"label": "dogs"}) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.fault("create", status(529))           # the next POST is answered 529
        api.fault("create", DROP_AFTER_ACCEPTING)  # the next POST is taken, its answer lost
        ...
        assert api.paid == {...: 1}
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

DROP_AFTER_ACCEPTING = "accept, then drop"
DROP_BEFORE_ACCEPTING = "drop"
CUT_IN_A_LINE = "half a line"
CUT_SILENTLY = "half a line, no sign of it"
DUPLICATE, UNKNOWN, MISSING = "a line twice", "an unknown custom_id", "a line missing"
REDIRECT = "redirect to a foreign host"
HANG, HTML, GARBAGE = "never answer", "a web page", "half the JSON"
"""Faults of ``message``: the request is taken, and paid for, but for the web page."""

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Who are you?</body></html>"
SECONDS_PER_HOUR = 3600


def status(code: int, headers: dict[str, str] | None = None, message: str = "told to fail", name: str = "api_error") -> tuple:
    """A fault: answer with an HTTP error."""
    return ("status", code, headers or {"retry-after-ms": "5"}, message, name)


def succeeded(text: Any, stop: str = "end_turn", thinking: bool = False, usage: dict[str, int] | None = None) -> dict:
    """A result: an answer, which is paid for."""
    content = [] if text is None else [{"type": "text", "text": text if isinstance(text, str) else json.dumps(text)}]
    if thinking:
        content.insert(0, {"type": "thinking", "thinking": "let me see", "signature": "x"})
    return {"type": "succeeded", "content": content, "stop_reason": stop, "usage": usage or {}}


def errored(kind: str = "invalid_request_error") -> dict:
    """A result: an error, which costs nothing."""
    return {
        "type": "errored",
        "error": {"type": "error", "error": {"type": kind, "message": "told to"}, "request_id": "r"},
    }


EXPIRED, CANCELED = {"type": "expired"}, {"type": "canceled"}


def by_schema(params: dict[str, Any]) -> dict[str, Any]:
    """An answer of the shape that was asked for: a yes to everything, some words, a number, a zero for every token."""
    asked = json.loads(params["messages"][0]["content"])
    return _shaped(params["output_config"]["format"]["schema"], asked.get("windows"))


def _shaped(rule: dict[str, Any], windows: Any) -> Any:
    if rule["type"] == "object":
        inner = {name: windows.get(name) if isinstance(windows, dict) else None for name in rule["properties"]}
        return {
            name: _shaped(rule["properties"][name], windows if name == "answers" else inner[name])
            for name in rule["properties"]
        }
    if rule["type"] == "array":
        tokens = windows["tokens"] if isinstance(windows, dict) and "tokens" in windows else windows
        return [_shaped(rule["items"], None)] * (1 if tokens is None else len(tokens))
    plain = {"string": "words that name things", "number": 0.5, "boolean": True, "integer": 1}
    return plain[rule["type"]]


@dataclass
class _Batch:
    id: str
    requests: list[dict[str, Any]]
    created: datetime
    polls: int = 0
    results: dict[str, dict[str, Any]] | None = None
    archived: bool = False


@dataclass
class FakeAnthropic:
    """The server. Start it with ``with``."""

    answer: Callable[[dict[str, Any]], Any] = by_schema
    """Params of a request to its result: made by ``succeeded`` and friends, or text or JSON that is wrapped by it."""

    polls_until_ended: int = 0
    """Looks at a batch after which it has ended."""

    shuffle: bool = True
    foreign_host: str | None = None
    """Host that ``results_url`` names instead of ours."""

    batches: dict[str, _Batch] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    """Method and path of everything that was asked."""

    before: Callable[[str], None] | None = None
    """Called with ``message``, ``create``, ``retrieve``, ``results`` or ``list`` before it is served."""

    seconds: float = 0.0
    """That the answer to a message takes."""

    most_at_once: int = 0
    """Messages that were being answered at the same time."""

    def __post_init__(self) -> None:
        self._at_once = 0
        self._ends = threading.Event()
        self._paid: Counter = Counter()
        self._paid_tokens = [0, 0]
        self._faults: dict[str, list[Any]] = {}
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeAnthropic:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, where: str, *what: Any) -> None:
        """Queue faults; each spoils one request of that sort, in order."""
        self._faults.setdefault(where, []).extend(what)

    def take(self, where: str) -> Any:
        with self._lock:
            queue = self._faults.get(where)
            return queue.pop(0) if queue else None

    def count(self, method: str, ending: str = "/v1/messages/batches") -> int:
        """How often something was asked."""
        return sum(line.startswith(method) and line.partition("?")[0].endswith(ending) for line in self.seen)

    @property
    def paid(self) -> Counter:
        """The ledger: digest of each request's params to the number of times it was paid for, by batches that nobody
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

    # the API

    def create(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [request["custom_id"] for request in requests]
        assert len(set(ids)) == len(ids) and all(1 <= len(id) <= 64 for id in ids), "custom ids"
        assert not any(name in request["params"] for request in requests for name in ("temperature", "top_p", "top_k"))
        with self._lock:
            id = f"msgbatch_{len(self.batches):04d}{hashlib.sha256(''.join(ids).encode()).hexdigest()[:12]}"
            self.batches[id] = _Batch(id, requests, datetime.now(UTC))
            return self.shown(self.batches[id])

    def shown(self, batch: _Batch) -> dict[str, Any]:
        with self._lock:
            if batch.polls >= self.polls_until_ended and batch.results is None:
                self._work(batch)
            kinds = Counter(result["type"] for result in (batch.results or {}).values())
            ended = batch.results is not None
            host = self.foreign_host or self.url
            return {
                "id": batch.id,
                "type": "message_batch",
                "processing_status": "ended" if ended else "in_progress",
                "request_counts": {
                    "processing": 0 if ended else len(batch.requests),
                    **{kind: kinds[kind] for kind in ("succeeded", "errored", "canceled", "expired")},
                },
                "created_at": batch.created.isoformat(),
                "expires_at": (batch.created + timedelta(seconds=24 * SECONDS_PER_HOUR)).isoformat(),
                "ended_at": batch.created.isoformat() if ended else None,
                "archived_at": batch.created.isoformat() if batch.archived else None,
                "cancel_initiated_at": None,
                "results_url": f"{host}/v1/messages/batches/{batch.id}/results" if ended else None,
            }

    def _work(self, batch: _Batch) -> None:
        batch.results = {}
        for request in batch.requests:
            params = request["params"]
            given = self.answer(params)
            if not (isinstance(given, dict) and given.get("type") in ("succeeded", "errored", "expired", "canceled")):
                given = succeeded(given)
            result = dict(given)
            if result["type"] == "succeeded":
                result = {"type": "succeeded", "message": self._message(params, result, "batch")}
            batch.results[request["custom_id"]] = result

    def _message(self, params: dict[str, Any], result: dict[str, Any], tier: str) -> dict[str, Any]:
        """A message as it is sent, and paid for."""
        tokens = len(json.dumps(params)) // 4, 20
        usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], **result["usage"]}
        with self._lock:
            self._paid[digest(params)] += 1
            self._paid_tokens[0] += usage["input_tokens"]
            self._paid_tokens[1] += usage["output_tokens"]
        return {
            "id": f"msg_{sum(self._paid.values())}",
            "type": "message",
            "role": "assistant",
            "model": params["model"],
            "content": result["content"],
            "stop_reason": result["stop_reason"],
            "stop_sequence": None,
            "usage": {**usage, "service_tier": tier},
        }

    def message(self, params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What a single message is answered: HTTP status and body."""
        assert not any(name in params for name in ("temperature", "top_p", "top_k"))
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._ends.wait(self.seconds)
            given = self.answer(params)
        finally:
            with self._lock:
                self._at_once -= 1
        if isinstance(given, dict) and given.get("type") == "errored":
            return 400, given["error"]
        if not (isinstance(given, dict) and given.get("type") == "succeeded"):
            given = succeeded(given)
        return 200, self._message(params, given, "standard")

    def lines(self, batch: _Batch, fault: Any) -> list[bytes]:
        assert batch.results is not None
        items = list(batch.results.items())
        if self.shuffle:
            Random(batch.id).shuffle(items)
        rows = [json.dumps({"custom_id": id, "result": result}, ensure_ascii=False).encode() + b"\n" for id, result in items]
        if fault == MISSING:
            rows = rows[1:]
        if fault == GARBAGE:
            rows[0] = b"<html>" + rows[0]
        if fault == DUPLICATE:
            spoiled = json.dumps({"custom_id": items[0][0], "result": {"type": "expired"}}).encode()
            rows.append(spoiled + b"\n")
        if fault == UNKNOWN:
            rows.insert(0, json.dumps({"custom_id": "who-is-this", "result": {"type": "expired"}}).encode() + b"\n")
        if fault in (CUT_IN_A_LINE, CUT_SILENTLY):
            rows[-1] = rows[-1][: len(rows[-1]) // 2]
        return rows


def digest(params: dict[str, Any]) -> str:
    """The ledger's name for a request."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def page(handler: BaseHTTPRequestHandler, code: int, data: bytes, headers: dict[str, str]) -> None:
    """Send one whole answer."""
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None: ...  # a client that went away is no news


class _Handler(BaseHTTPRequestHandler):
    api: FakeAnthropic
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None: ...

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        headers = {"content-type": "application/json", "request-id": "req_1", **(headers or {})}
        page(self, code, json.dumps(body).encode(), headers)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _handle(self, method: str) -> None:
        self.api.seen.append(f"{method} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.api.keys.add(self.headers.get("authorization", "").removeprefix("Bearer "))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/v1/messages/batches").strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if method == "POST":
            where = "message" if parts.path == "/v1/messages" else "create"
        elif path == [""]:
            where = "list"
        else:
            where = "results" if path[-1] == "results" else "retrieve"
        if self.api.before is not None:
            self.api.before(where)
        fault = self.api.take(where)
        if fault == DROP_BEFORE_ACCEPTING:
            return self._drop()
        if isinstance(fault, tuple) and fault[0] == "status":
            _, code, headers, message, name = fault
            error = {"type": "error", "error": {"type": name, "message": message}, "request_id": "req_1"}
            return self._send(code, error, headers)
        if fault == REDIRECT:
            return self._send(302, {}, {"location": f"http://localhost:1{self.path}"})
        if where == "message":
            return self._message(json.loads(body), fault)
        if fault == HTML:
            return page(self, 200, PAGE, {"content-type": "text/html"})
        if fault == GARBAGE and where == "create":  # taken all the same
            self.api.create(json.loads(body)["requests"])
        if fault == GARBAGE and where != "results":
            return page(self, 200, b'{"id": ', {"content-type": "application/json"})
        if where == "create":
            shown = self.api.create(json.loads(body)["requests"])
            return self._drop() if fault == DROP_AFTER_ACCEPTING else self._send(200, shown)
        if where == "list":
            return self._list(query)
        batch = self.api.batches.get(path[0])
        if batch is None:
            return self._send(404, {"type": "error", "error": {"type": "not_found_error", "message": "no such batch"}})
        if where == "retrieve":
            shown = self.api.shown(batch)
            batch.polls += 1
            return self._send(200, shown)
        return self._results(batch, fault)

    def _message(self, params: dict[str, Any], fault: Any) -> None:
        if fault == HTML:
            return self._raw(200, PAGE, "text/html; charset=utf-8")
        code, answer = self.api.message(params)
        if fault == HANG:
            self.api._ends.wait(60)
        if fault in (HANG, DROP_AFTER_ACCEPTING):
            return self._drop()
        data = json.dumps(answer).encode()
        self._raw(code, data[: len(data) // 2] if fault == GARBAGE else data, "application/json")

    def _raw(self, code: int, data: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _list(self, query: dict[str, str]) -> None:
        every = list(reversed(self.api.batches.values()))
        ids = [batch.id for batch in every]
        start = ids.index(query["after_id"]) + 1 if "after_id" in query else 0
        limit = int(query.get("limit", 20))
        page = [self.api.shown(batch) for batch in every[start : start + limit]]
        self._send(200, {
            "data": page,
            "has_more": start + limit < len(every),
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        })  # fmt: skip

    def _results(self, batch: _Batch, fault: Any) -> None:
        rows = self.api.lines(batch, fault)
        self.send_response(200)
        self.send_header("content-type", "application/x-jsonl")
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
