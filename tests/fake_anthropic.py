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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

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

SECONDS_PER_HOUR = 3600


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
class FakeAnthropic(Faulty):
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

    def __post_init__(self) -> None:
        self._paid: Counter = Counter()
        self._paid_tokens = [0, 0]
        self.serve(_Messages)

    def count(self, method: str, ending: str = "/v1/messages/batches") -> int:
        """How often something was asked."""
        return self.asked_for(method, ending)

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
        with self.answering(self.seconds):
            given = self.answer(params)
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
        return spoilt(rows, fault, lambda id: {"custom_id": id, "result": EXPIRED}, items[0][0])


class _Messages(Handler):
    api: FakeAnthropic

    def sort(self, method: str, path: str) -> str:
        rest = self._rest(path)
        if method == "POST":
            return "message" if path == "/v1/messages" else "create"
        return "list" if rest == [""] else "results" if rest[-1] == "results" else "retrieve"

    def error(self, message: str, name: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": name, "message": message}, "request_id": "req_1"}

    def answer(self, where: str, path: str, query: dict[str, str], body: bytes, fault: Any) -> None:
        if where == "message":
            return self.send_unless(fault, *self.api.message(json.loads(body)))
        if fault == GARBAGE and where == "create":  # taken all the same
            self.api.create(json.loads(body)["requests"])
        if fault == GARBAGE and where != "results":
            return self.send(200, b'{"id": ')
        if where == "create":
            return self.send_unless(fault, 200, self.api.create(json.loads(body)["requests"]))
        if where == "list":
            return self._list(query)
        batch = self.api.batches.get(self._rest(path)[0])
        if batch is None:
            return self.send(404, self.error("no such batch", "not_found_error"))
        if where == "retrieve":
            shown = self.api.shown(batch)
            batch.polls += 1
            return self.send(200, shown)
        return self.send_lines(self.api.lines(batch, fault), fault, "application/x-jsonl")

    def _rest(self, path: str) -> list[str]:
        return path.removeprefix("/v1/messages/batches").strip("/").split("/")

    def _list(self, query: dict[str, str]) -> None:
        every = list(reversed(self.api.batches.values()))
        ids = [batch.id for batch in every]
        start = ids.index(query["after_id"]) + 1 if "after_id" in query else 0
        limit = int(query.get("limit", 20))
        page = [self.api.shown(batch) for batch in every[start : start + limit]]
        self.send(200, {
            "data": page,
            "has_more": start + limit < len(every),
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        })  # fmt: skip
