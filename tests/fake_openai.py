"""A local server that speaks the wire format of OpenAI's chat completions, with switches for what goes wrong.

It stands behind the real SDK, keeps a ledger of what it was paid for, and answers by a function of a request's
params. More routes are added by subclasses::

    with FakeOpenAI(answer=lambda params: {"label": "dogs"}) as api:
        runtime = Runtime(base_url=api.url)
        api.fault("chat", status(529))            # the next request is answered 529
        api.fault("chat", DROP_AFTER_ACCEPTING)   # the next one is taken and paid for, its answer lost
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.fake_anthropic import (
    DROP_AFTER_ACCEPTING,
    DROP_BEFORE_ACCEPTING,
    GARBAGE,
    HANG,
    HTML,
    PAGE,
    REDIRECT,
    _Server,
    digest,
)
from tests.fake_anthropic import by_schema as _by_schema


def said(
    text: str | None, finish: str = "stop", refusal: str | None = None, usage: dict[str, int] | None = None,
    logprobs: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """An answer in full; ``logprobs`` instead of those that were asked for."""
    return {"said": text, "finish": finish, "refusal": refusal, "usage": usage or {}, "logprobs": logprobs}


def error(code: int, message: str = "told to", name: str = "invalid_request_error") -> dict[str, Any]:
    """An answer: an HTTP error."""
    return {"error": {"message": message, "type": name, "param": None, "code": name}, "http": code}


def by_schema(params: dict[str, Any]) -> dict[str, Any]:
    """An answer of the shape that was asked for, as ``fake_anthropic.by_schema`` gives it."""
    schema = params["response_format"]["json_schema"]["schema"]
    return _by_schema({"messages": params["messages"][-1:], "output_config": {"format": {"schema": schema}}})


@dataclass
class FakeOpenAI:
    """The server. Start it with ``with``; its address ends with ``/v1``."""

    answer: Callable[[dict[str, Any]], Any] = lambda params: "{}"
    """Params of a request to its answer: made by ``said`` or ``error``, or text or JSON."""

    seconds: float = 0.0
    """That an answer takes."""

    before: Callable[[str], None] | None = None
    """Called with a route's name before it is served."""

    keys: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    """Method and path of everything that was asked."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    """Params of every chat completion that was asked for."""

    paid: Counter = field(default_factory=Counter)
    """The ledger: digest of each request's params to the number of times it was paid for."""

    paid_tokens: list[int] = field(default_factory=lambda: [0, 0])
    """Input and output tokens paid for."""

    most_at_once: int = 0
    """Completions that were being made at the same time."""

    routes: ClassVar[tuple[tuple[str, str, str], ...]] = (("POST", r"/v1/chat/completions", "chat"),)
    """HTTP method, pattern of the path, and the name of the route: of the method here that serves it, and of its faults.

    Such a method gets the pattern's groups by name, the ``body`` (bytes), the ``headers`` and the ``query``, and returns
    an HTTP status and the answer, as JSON or as bytes."""

    def __post_init__(self) -> None:
        self._faults: dict[str, list[Any]] = {}
        self._lock = threading.RLock()
        self._at_once = 0
        self._ends = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeOpenAI:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, where: str, *what: Any) -> None:
        """Queue faults; each spoils one request of that route, in order."""
        self._faults.setdefault(where, []).extend(what)

    def take(self, where: str) -> Any:
        with self._lock:
            queue = self._faults.get(where)
            return queue.pop(0) if queue else None

    def chat(self, body: bytes, **_: Any) -> tuple[int, Any]:
        params = json.loads(body)
        with self._lock:
            self.asked.append(params)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._ends.wait(self.seconds)
            return self.completed(params)
        finally:
            with self._lock:
                self._at_once -= 1

    def completed(self, params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The answer to a chat completion, which is paid for: HTTP status and body."""
        given = self.answer(params)
        if isinstance(given, dict) and "http" in given:
            return given["http"], {"error": given["error"]}
        if not (isinstance(given, dict) and "said" in given):
            given = said(given if isinstance(given, str) else json.dumps(given))
        n_in, n_out = len(json.dumps(params)) // 4, 20
        usage = {"prompt_tokens": n_in, "completion_tokens": n_out, **given["usage"]}
        with self._lock:
            self.paid[digest(params)] += 1
            self.paid_tokens[0] += usage["prompt_tokens"]
            self.paid_tokens[1] += usage["completion_tokens"]
            id = f"chatcmpl-{sum(self.paid.values())}"
        logprobs = given["logprobs"]
        if logprobs is None and params.get("logprobs") and given["said"]:
            logprobs = {"content": [_token(text, params["top_logprobs"]) for text in re.findall(r"\w+|\W", given["said"])]}
        message = {"role": "assistant", "content": given["said"], "refusal": given["refusal"]}
        return 200, {
            "id": id,
            "object": "chat.completion",
            "created": 1790000000,
            "model": params["model"],
            "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": given["finish"]}],
            "usage": {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]},
        }


def _token(text: str, k: int) -> dict[str, Any]:
    others = [{"token": f"other{i}", "logprob": -2.5 - i, "bytes": None} for i in range(k - 1)]
    return {"token": text, "logprob": -0.1, "bytes": list(text.encode()),
            "top_logprobs": [{"token": text, "logprob": -0.1, "bytes": None}, *others]}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    api: FakeOpenAI
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None: ...

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"content-type": kind, "x-request-id": "req_1", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _handle(self, method: str) -> None:
        self.api.seen.append(f"{method} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.api.keys.add(self.headers.get("authorization", "").removeprefix("Bearer "))
        parts = urlsplit(self.path)
        found = [(name, m) for verb, path, name in self.api.routes if verb == method and (m := re.fullmatch(path, parts.path))]
        if not found:
            return self._send(404, {"error": {"message": "no such thing", "type": "not_found", "code": None}})
        where, match = found[0]
        if self.api.before is not None:
            self.api.before(where)
        fault = self.api.take(where)
        if fault == DROP_BEFORE_ACCEPTING:
            return self._drop()
        if isinstance(fault, tuple) and fault[0] == "status":
            _, code, headers, message, name = fault
            return self._send(code, {"error": {"message": message, "type": name, "code": None}}, headers)
        if fault == REDIRECT:
            return self._send(302, {}, {"location": f"http://localhost:1{self.path}"})
        if fault == HTML:
            return self._send(200, PAGE, kind="text/html; charset=utf-8")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        code, answer = getattr(self.api, where)(body=body, headers=self.headers, query=query, **match.groupdict())
        if fault == HANG:
            self.api._ends.wait(60)
        if fault in (HANG, DROP_AFTER_ACCEPTING):
            return self._drop()
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self._send(code, data[: len(data) // 2] if fault == GARBAGE else data)

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")
