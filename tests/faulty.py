"""What the fake LLM servers share: an HTTP server on loopback that does what goes wrong when it is told to.

A fake is a ``Faulty`` with a handler that extends ``Handler``. Faults are queued by sort of request; each spoils one::

    api.fault("create", status(529), DROP_AFTER_ACCEPTING)
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

DROP_AFTER_ACCEPTING = "accept, then drop"
DROP_BEFORE_ACCEPTING = "drop"
CUT_IN_A_LINE = "half a line"
CUT_SILENTLY = "half a line, no sign of it"
DUPLICATE, UNKNOWN, MISSING = "a line twice", "an unknown custom_id", "a line missing"
REDIRECT = "redirect to a foreign host"
HANG, HTML, GARBAGE = "never answer", "a web page", "half the JSON"

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Who are you?</body></html>"


def status(code: int, headers: dict[str, str] | None = None, message: str = "told to fail", name: str = "api_error") -> tuple:
    """A fault: answer with an HTTP error."""
    return ("status", code, headers or {"retry-after-ms": "5"}, message, name)


def digest(params: dict[str, Any]) -> str:
    """The ledger's name for a request."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def spoilt(rows: list[bytes], fault: Any, expired: Callable[[str], Any], first_id: str) -> list[bytes]:
    """Lines of results as a fault makes them. ``expired`` is the line, as JSON, of a request that was not worked on."""

    def line(id: str) -> bytes:
        return json.dumps(expired(id)).encode() + b"\n"

    if fault == MISSING:
        return rows[1:]
    if fault == GARBAGE:
        return [b"<html>" + rows[0], *rows[1:]]
    if fault == DUPLICATE:
        return [*rows, line(first_id)]
    if fault == UNKNOWN:
        return [line("who-is-this"), *rows]
    if fault in (CUT_IN_A_LINE, CUT_SILENTLY):
        return [*rows[:-1], rows[-1][: len(rows[-1]) // 2]]
    return rows


class Faulty:
    """A server that is started with ``with``, and its faults."""

    seen: list[str]
    """Method and path of everything that was asked."""

    most_at_once: int = 0
    """Answers that were being made at the same time."""

    def serve(self, handler: type[Handler], path: str = "") -> None:
        """Listen on a free port; ``url`` is the address, with ``path`` at its end."""
        self._faults: dict[str, list[Any]] = {}
        self._lock = threading.RLock()
        self._at_once = 0
        self._ends = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (handler,), {"api": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self) -> Self:
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

    def asked_for(self, method: str, ending: str) -> int:
        """How often something was asked."""
        return sum(line.startswith(method) and line.partition("?")[0].endswith(ending) for line in self.seen)

    @contextmanager
    def answering(self, seconds: float) -> Iterator[None]:
        """Counts what is answered at the same time, and takes its time over it."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self.wait(seconds)
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def wait(self, seconds: float) -> None:
        """Let time pass, unless the server ends."""
        self._ends.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None: ...  # a client that went away is no news


class Handler(BaseHTTPRequestHandler):
    """One request: who asks is noted, what is queued goes wrong, the rest is answered by ``answer``."""

    api: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    REQUEST_ID = "request-id"

    def log_message(self, *_: object) -> None: ...

    def sort(self, method: str, path: str) -> str | None:
        """The sort of request, as ``fault`` and ``before`` name it; None for what there is not."""
        raise NotImplementedError

    def answer(self, where: str, path: str, query: dict[str, str], body: bytes, fault: Any) -> None:
        """Send the answer."""
        raise NotImplementedError

    def error(self, message: str, name: str) -> dict[str, Any]:
        """The body of an HTTP error."""
        raise NotImplementedError

    def send(self, code: int, body: Any, headers: dict[str, str] | None = None, kind: str = "application/json") -> None:
        """One whole answer, JSON or bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"content-type": kind, self.REQUEST_ID: "req_1", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def send_lines(self, rows: Sequence[bytes], fault: Any, kind: str) -> None:
        """Lines as a stream, broken off as the fault says."""
        self.send_response(200)
        self.send_header("content-type", kind)
        if fault == CUT_SILENTLY:  # no length, so that only the half line shows that something is missing
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"".join(rows))
            self.wfile.flush()
            return self.drop()
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for row in rows:
            self.wfile.write(f"{len(row):x}\r\n".encode() + row + b"\r\n")
        if fault == CUT_IN_A_LINE:
            self.wfile.flush()
            time.sleep(0.01)
            return self.drop()
        self.wfile.write(b"0\r\n\r\n")

    def _handle(self, method: str) -> None:
        self.api.seen.append(f"{method} {self.path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.api.keys.add(self.headers.get("authorization", "").removeprefix("Bearer "))
        parts = urlsplit(self.path)
        where = self.sort(method, parts.path)
        if where is None:
            return self.send(404, self.error("no such thing", "not_found_error"))
        if self.api.before is not None:
            self.api.before(where)
        fault = self.api.take(where)
        if fault == DROP_BEFORE_ACCEPTING:
            return self.drop()
        if isinstance(fault, tuple) and fault[0] == "status":
            _, code, headers, message, name = fault
            return self.send(code, self.error(message, name), headers)
        if fault == REDIRECT:
            return self.send(302, {}, {"location": f"http://localhost:1{self.path}"})
        if fault == HTML:
            return self.send(200, PAGE, kind="text/html; charset=utf-8")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return self.answer(where, parts.path, query, body, fault)

    def send_unless(self, fault: Any, code: int, answer: Any) -> None:
        """An answer that was made, and may have been paid for, but gets lost as the fault says."""
        if fault == HANG:
            self.api.wait(60)
        if fault in (HANG, DROP_AFTER_ACCEPTING):
            return self.drop()
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send(code, data[: len(data) // 2] if fault == GARBAGE else data)

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")
