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
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.fake_anthropic import by_schema as _by_schema
from tests.faulty import Faulty, Handler, digest


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
class FakeOpenAI(Faulty):
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

    routes: ClassVar[tuple[tuple[str, str, str], ...]] = (("POST", r"/v1/chat/completions", "chat"),)
    """HTTP method, pattern of the path, and the name of the route: of the method here that serves it, and of its faults.

    Such a method gets the pattern's groups by name, the ``body`` (bytes), the ``headers`` and the ``query``, and returns
    an HTTP status and the answer, as JSON or as bytes."""

    def __post_init__(self) -> None:
        self.serve(_Routes, "/v1")

    def chat(self, body: bytes, **_: Any) -> tuple[int, Any]:
        params = json.loads(body)
        with self._lock:
            self.asked.append(params)
        with self.answering(self.seconds):
            return self.completed(params)

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


class _Routes(Handler):
    api: FakeOpenAI
    REQUEST_ID = "x-request-id"

    def sort(self, method: str, path: str) -> str | None:
        return next((name for name, _ in self._matches(method, path)), None)

    def error(self, message: str, name: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": name, "code": None}}

    def answer(self, where: str, path: str, query: dict[str, str], body: bytes, fault: Any) -> None:
        ((_, match), *_) = self._matches(self.command, path)
        given = getattr(self.api, where)(body=body, headers=self.headers, query=query, **match.groupdict())
        self.send_unless(fault, *given)

    def _matches(self, method: str, path: str) -> list[tuple[str, re.Match[str]]]:
        return [(name, m) for verb, shape, name in self.api.routes if verb == method and (m := re.fullmatch(shape, path))]
