"""What the results of a message batch mean: pure functions from the wire to the journal, and from it to replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.clients.base import Reply, TokenLogprobs, Usage
from tasks.prices import Price

AGAIN = frozenset({"api_error", "overloaded_error", "rate_limit_error", "timeout_error"})
"""Errors of the API's, not of ours: the same request may succeed."""

OURS = frozenset({"invalid_request_error", "request_too_large"})
"""Errors of the request itself: it will never succeed."""

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What reading an answer raises that is not of the form that its API promises."""


def record_of(digest: str, result: Any, price: Price | None, clean: Callable[[str], str]) -> dict[str, Any]:
    """The journal's record of one result.

    ``final`` is True where nothing is gained by asking again: it was answered (and paid), or is refused as such.
    """
    kind = result.get("type") if isinstance(result, dict) else None
    if kind == "succeeded" and isinstance(result.get("message"), dict):
        return succeeded(digest, result["message"], price.batch_usd if price else None)
    if kind == "errored":
        error = result.get("error") or {}
        error = error.get("error", error) if isinstance(error, dict) else {}
        name = str(error.get("type", "unknown_error"))
        detail = clean(f"{name}: {error.get('message', '')}")
        return unpaid(digest, "errored", detail, final=name in OURS)
    if kind in ("expired", "canceled"):
        return unpaid(digest, kind, kind, final=False)
    return unpaid(digest, "errored", clean(f"a result of unknown type {kind!r}"), final=False)


def missing_record(digest: str) -> dict[str, Any]:
    """The record of a request that an ended batch says nothing of."""
    return unpaid(digest, "missing", "the batch ended without a result for it", final=False)


def unpaid(digest: str, status: str, detail: str, final: bool) -> dict[str, Any]:
    """The record of a request that was not answered, and so not paid for."""
    return {"digest": digest, "status": status, "final": final, "detail": detail, "text": "", "usd": 0.0,
            "input_tokens": 0, "output_tokens": 0}  # fmt: skip


def unread(digest: str, error: Exception) -> dict[str, Any]:
    """The record of an answer that cannot be read, and so what it cost is not known: it would not be asked for again."""
    return {**unpaid(digest, "errored", f"an answer of unknown form ({type(error).__name__})", final=True),
            "usd": None, "message": None}  # fmt: skip


def tokens(usage: Any, *names: str) -> list[int]:
    """Counts of tokens, of which those that are not told are 0. Raises one of ``UNREADABLE`` for what is no count."""
    return [max(0, int(usage.get(name) or 0)) for name in names] if usage else [0] * len(names)


def succeeded(digest: str, message: dict[str, Any], cost: Callable[..., float] | None) -> dict[str, Any]:
    """The record of a message; ``cost`` is a method of ``Price``. Raises one of ``UNREADABLE``."""
    blocks = content if isinstance(content := message.get("content"), list) else []
    text = "".join(str(b.get("text", "")) for b in blocks if isinstance(b, dict) and b.get("type") == "text")
    stop = message.get("stop_reason")
    status, detail = "ok", ""
    if stop == "refusal":
        status, detail = "refused", "the model declined to answer"
    elif stop in ("max_tokens", "model_context_window_exceeded"):
        status, detail = "truncated", f"stopped by {stop}"
    elif not text.strip():
        status, detail = "errored", f"an empty answer, stopped by {stop}"
    usage = message.get("usage")
    plain, write, read, output = tokens(
        usage, "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"
    )
    write_1h = min(write, *tokens(usage and usage.get("cache_creation"), "ephemeral_1h_input_tokens"))
    usd = cost(plain, output, write - write_1h, write_1h, read) if cost and usage else None
    return {"digest": digest, "status": status, "final": True, "detail": detail, "text": text, "usd": usd,
            "input_tokens": plain + write + read, "output_tokens": output, "model": message.get("model"),
            "message": message.get("id")}  # fmt: skip


def reply_of(record: dict[str, Any], reused: bool) -> Reply:
    """The reply that a journal's record stands for."""
    usage = Usage(record["input_tokens"], record["output_tokens"], record["usd"])
    given = record.get("logprobs")
    logprobs = None if given is None else tuple(TokenLogprobs(*token) for token in given)
    return Reply(record["digest"], record["status"], record["text"], usage, record["detail"], reused, logprobs)
