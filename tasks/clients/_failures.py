"""What it means when an LLM API gives no answer: try again, give up this request, or end the run. And: was it paid for?"""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

from tasks.clients._batches_api import never_connected, scrubbed, wait_asked
from tasks.clients._statuses import BUSY, PASSING, SURELY_NOT_ACCEPTED, UNPAID, too_early

OF_THE_ACCOUNT = {
    401: "set a valid key",
    402: "pay the bill or raise the spend limit",
    403: "ask for access",
    404: "check client.model, the address and the key's workspace",
    405: "check the address",
}
"""Statuses that every other request would meet as well, and what to do."""


class Failed(Exception):
    """A request that gave no answer. The message is fit to be shown."""

    def __init__(
        self, detail: str, *, again: bool = False, paid: bool = False, wait: float | None = None,
        busy: bool = False, early: bool = False, stops: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.again = again
        """Whether it may succeed when tried again."""

        self.paid = paid
        """Whether it may have been paid for."""

        self.wait = wait
        """Seconds that the server asks for."""

        self.busy = busy
        """Whether other requests should wait as well."""

        self.early = early
        """Whether it does not count as a try; see ``too_early``."""

        self.stops = stops
        """Whether all other requests would fail too."""


def failure(error: Exception, sdk: ModuleType, host: str) -> Failed:
    """What an exception of an SDK, of the Anthropic and OpenAI family, means. Raises it when it is none of theirs."""
    if isinstance(error, TimeoutError):
        return Failed("no answer within client.timeout_seconds", again=True, paid=True)
    if isinstance(error, sdk.APIConnectionError):
        reason = scrubbed(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}")
        return Failed(f"{host} cannot be reached ({reason})", again=True, paid=not never_connected(error))
    if isinstance(error, sdk.APIStatusError):
        return _of_status(error.response, host)
    if isinstance(error, TypeError) and "authentication" in str(error):  # how the SDK says that it has no key
        return Failed(f"client: the SDK cannot identify itself ({scrubbed(str(error))}); set a key", stops=True)
    raise error


def _of_status(response: Any, host: str) -> Failed:
    code = response.status_code
    names, message, flagged = _told(response)
    reason = scrubbed(f"{code} {message}")
    if 300 <= code < 400:
        return Failed(
            f"{host} sends us elsewhere ({code}), but the key goes to one host; set that address", stops=True
        )
    if names & UNPAID:
        return Failed(f"{host} refused ({reason}); {OF_THE_ACCOUNT[402]}", stops=True)
    if flagged:
        return Failed(reason)
    if code in OF_THE_ACCOUNT:
        return Failed(f"{host} refused ({reason}); {OF_THE_ACCOUNT[code]}", stops=True)
    wait = wait_asked(response.headers, None)
    return Failed(
        reason,
        again=code in PASSING,
        paid=code not in SURELY_NOT_ACCEPTED,
        wait=wait,
        busy=code in BUSY,
        early=too_early(code, wait),
    )


def _told(response: Any) -> tuple[set[str], str, bool]:
    """Names that a server gives its error, what it says of it, and whether it is the question that it objects to."""
    text = response.text
    if is_html(response):
        return set(), f"an HTML page{_title(text)}", False
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return set(), text, False
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return set(), str(error), False
    details, metadata = error.get("details"), error.get("metadata")
    more = details.get("error_code") if isinstance(details, dict) else None
    names = {str(name) for name in (error.get("type"), error.get("code"), more) if name}
    message = f"{error.get('type') or error.get('code') or ''} {error.get('message') or ''}".strip()
    flagged = isinstance(metadata, dict) and "flagged_input" in metadata  # OpenRouter's moderation, a 403 as well
    return names, message, flagged


def answer_of(response: Any, host: str) -> dict[str, Any]:
    """The JSON object of a successful response. Raises ``Failed``."""
    if is_html(response):
        raise Failed(
            f"LLM API = {host!r}, but it answers with an HTML page{_title(response.text)}, not like the API; "
            "set runtime.base_url to the API's address (of OpenAI-compatible servers it ends with /v1)",
            stops=True,
        )
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        raise Failed("an answer that is no JSON", again=True, paid=True) from None
    if not isinstance(found, dict):
        raise Failed("an answer that is no JSON object", again=True, paid=True)
    return found


def is_html(response: Any) -> bool:
    """Whether a web page came back."""
    start = response.content[:200].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html")) or (
        "text/html" in response.headers.get("content-type", "") and not start.startswith((b"{", b"["))
    )


def _title(text: str) -> str:
    found = re.search(r"<title[^>]*>(.*?)</title", text[:20_000], re.IGNORECASE | re.DOTALL)
    return f" ({scrubbed(found[1])[:80]!r})" if found else ""
