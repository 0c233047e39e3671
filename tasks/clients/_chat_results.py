"""What chat completions mean: pure functions from the wire of OpenAI-compatible servers to the journal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tasks.clients._results import tokens, unpaid
from tasks.prices import Price

OURS = frozenset({400, 404, 413, 422})
"""Statuses of a request that will never succeed."""

UNDONE = {"batch_expired": "expired", "batch_cancelled": "canceled"}
"""Codes of requests that a batch did not come to."""


def record_of(digest: str, line: dict[str, Any], price: Price | None, clean: Callable[[str], str]) -> dict[str, Any]:
    """The journal's record of one line of a batch's output or error file.

    ``final`` is True where nothing is gained by asking again: it was answered (and paid), or is refused as such.
    """
    response, error = line.get("response"), line.get("error")
    if not isinstance(response, dict):
        code, message = _told(error)
        status = UNDONE.get(code, "errored")
        return unpaid(digest, status, clean(f"{code}: {message}"), final=False)
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and isinstance(body, dict):
        return completion_record(digest, body, price.batch_usd if price else None, clean)
    code, message = _told(body.get("error", body) if isinstance(body, dict) else body)
    return unpaid(digest, "errored", clean(f"{status} {code}: {message}"), final=status in OURS)


def _told(error: Any) -> tuple[str, str]:
    if not isinstance(error, dict):
        return "unknown_error", str(error or "")
    return str(error.get("code") or error.get("type") or "unknown_error"), str(error.get("message") or "")


def completion_record(
    digest: str, body: dict[str, Any], cost: Callable[[int, int], float | None] | None, clean: Callable[[str], str]
) -> dict[str, Any]:
    """The journal's record of a chat completion, which is paid for whatever it says. Raises one of ``UNREADABLE``."""
    choice = body["choices"][0]
    message, stop = choice["message"], choice.get("finish_reason")
    text = _text(message.get("content"))
    status, detail = "ok", ""
    if message.get("refusal") or stop == "content_filter":
        status, detail = "refused", "the content filter" if stop == "content_filter" else "the model declined to answer"
    elif stop == "length":
        status, detail = "truncated", "stopped by length"
    elif not text.strip():
        status, detail = "errored", clean(f"an empty answer, stopped by {stop}")
    usage = body.get("usage")
    n_in, n_out = tokens(usage, "prompt_tokens", "completion_tokens")
    # Cached input counts in full: its discount is not the same everywhere, and a limit errs on the dear side.
    usd = cost(n_in, n_out) if cost and (usage or not cost(1, 1)) else None
    record = {"digest": digest, "status": status, "final": True, "detail": detail, "text": text, "usd": usd,
              "input_tokens": n_in, "output_tokens": n_out, "model": body.get("model"), "message": body.get("id")}  # fmt: skip
    logprobs = read_logprobs(choice.get("logprobs"))
    return record if logprobs is None else {**record, "logprobs": logprobs}


def _text(content: Any) -> str:
    """The text of a message: a string, or parts, of which those that think are left out."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
    return "".join(str(part.get("text", "")) for part in parts)


def read_logprobs(given: Any) -> list[list[Any]] | None:
    """``[token, logprob, {token: logprob}]`` for each token of an answer; None when that is not what was given."""
    try:
        found = [
            [str(t["token"]), t["logprob"], {str(o["token"]): o["logprob"] for o in t.get("top_logprobs") or []}]
            for t in given["content"]
        ]
    except (TypeError, KeyError, AttributeError):
        return None
    numbers = [number for _, logprob, top in found for number in (logprob, *top.values())]
    good = all(type(n) in (int, float) and math.isfinite(n) and n <= 1e-3 for n in numbers)
    return found if found and good else None
