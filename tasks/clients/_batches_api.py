"""The message-batches API of the official SDK, with the retries, the host and the errors in our hands.

The SDK retries a POST whose answer was lost, and so makes a second paid batch; it sleeps as long as a ``retry-after``
says; and it takes the key to whatever host ``results_url`` names. So every call here goes out once, to one host,
without following redirects, and what to do next is decided below.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

from tasks.clients.base import ClientError

T = TypeVar("T")

TRIES = 8
LONGEST_WAIT_SECONDS = 60.0
"""A server that asks for more patience than this is asked again after it all the same."""

SURELY_NOT_ACCEPTED = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422, 429, 431, 503, 529})
"""Answers to a POST after which no batch exists. After any other failure one may."""

PASSING = frozenset({408, 409, 429, 500, 502, 503, 504, 529})

SECRETS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_IDENTITY_TOKEN", "OPENAI_API_KEY")


class Unreachable(ClientError):
    """The API does not answer now; it may later."""


class Unacknowledged(ClientError):
    """The API may or may not have taken a batch: its answer was lost."""


class Cut(ClientError):
    """Results ended before their end."""


class Batch(NamedTuple):
    """What the API says of a batch."""

    id: str
    ended: bool
    processing: int
    total: int
    """Requests in all once it has ended; before that, those still being worked on."""

    created: datetime
    archived: bool


class BatchesAPI:
    """One host, one key. ``sleep`` is a seam for tests."""

    def __init__(self, base_url: str | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        import anthropic

        self._sleep = sleep
        try:
            self._client = anthropic.Anthropic(
                base_url=base_url, max_retries=0, http_client=anthropic.DefaultHttpxClient(follow_redirects=False)
            )
        except anthropic.AnthropicError as error:
            raise ClientError(
                f"client: the SDK found no usable credentials ({scrubbed(str(error))}); mend them"
            ) from None
        self.host = str(self._client.base_url).rstrip("/")

    @property
    def has_credentials(self) -> bool:
        """Whether the environment or a profile gives the SDK anything to identify itself with."""
        return any((self._client.api_key, self._client.auth_token, self._client.credentials))

    def create(self, requests: list[dict[str, Any]]) -> str:
        """Send a batch, once; returns its id.

        Raises ``Unacknowledged`` when nobody can say whether it was taken, other ``ClientError`` when it was not.
        """
        batch = self._call(lambda: self._client.messages.batches.create(requests=requests), posts=True)
        if not isinstance(getattr(batch, "id", None), str):
            raise Unacknowledged(f"{self.host} answered a new batch with something else; give the same command again")
        return batch.id

    def retrieve(self, id: str) -> Batch | None:
        """The state of a batch; None when this key cannot see one of that id."""
        try:
            return _batch(self._call(lambda: self._client.messages.batches.retrieve(id)))
        except _NotFound:
            return None

    def newest(self) -> str | None:
        """The id of the batch that was created last."""
        page = self._call(lambda: self._client.messages.batches.list(limit=1))
        return page.data[0].id if page.data else None

    def newer_than(self, marker: str | None) -> Iterator[Batch]:
        """Batches created after the one of that id (all, for None), newest first."""
        after: dict[str, str] = {}
        while True:
            page = self._call(lambda after=after: self._client.messages.batches.list(limit=100, **after))
            for batch in page.data:
                if batch.id == marker:
                    return
                yield _batch(batch)
            if not page.has_more or not page.data:
                return
            after = {"after_id": page.data[-1].id}

    def results(self, id: str) -> Iterator[dict[str, Any]]:
        """The results of a batch that has ended, streamed from our host whatever ``results_url`` says.

        Raises ``Cut`` when they break off.
        """
        import anthropic
        import httpx2
        from anthropic._decoders.jsonl import JSONLDecoder

        path = f"/v1/messages/batches/{id}/results"
        options = {"headers": {"Accept": "application/binary"}}
        lines = self._call(
            lambda: self._client.get(path, cast_to=JSONLDecoder[dict[str, object]], stream=True, options=options)
        )
        try:
            for line in lines:
                if not isinstance(line, dict):
                    raise Cut(f"a result of batch {id} is no JSON object")
                yield line
        except (json.JSONDecodeError, httpx2.HTTPError, anthropic.APIConnectionError) as error:
            raise Cut(f"the results of batch {id} break off ({scrubbed(str(error))})") from None
        finally:
            lines.close()

    def _call(self, call: Callable[[], T], posts: bool = False) -> T:
        """Call once, and again while that is safe and useful."""
        import anthropic

        for tried in range(1, TRIES + 1):
            wait = min(0.5 * 2**tried, 30.0)
            try:
                return call()
            except anthropic.APIConnectionError as error:
                reason = f"{type(error.__cause__ or error).__name__}: {error}"
                if posts and not never_connected(error):
                    raise Unacknowledged(
                        f"{self.host} took a batch's bytes, but the connection broke before its answer "
                        f"({scrubbed(reason)}); give the same command again, which looks for the batch first"
                    ) from None
            except anthropic.APIResponseValidationError as error:
                kind = Unacknowledged if posts else ClientError
                raise kind(
                    f"{self.host} does not answer like the API ({scrubbed(str(error))}); check the address"
                ) from None
            except anthropic.APIStatusError as error:
                reason = f"{error.status_code} {error.type or ''} {error.api_message or ''}".strip()
                if error.status_code not in PASSING:
                    raise self._refusal(error.status_code, scrubbed(reason)) from None
                if posts and error.status_code not in SURELY_NOT_ACCEPTED:
                    raise Unacknowledged(
                        f"{self.host} answered a new batch with {scrubbed(reason)}, but may have taken it; "
                        "give the same command again, which looks for the batch first"
                    ) from None
                wait = wait_asked(error.response.headers, wait)
            except TypeError as error:  # how the SDK says that it has no key
                if "authentication" not in str(error):
                    raise
                raise ClientError(
                    f"client: the SDK cannot identify itself ({scrubbed(str(error))}); set a key"
                ) from None
            if tried < TRIES:
                self._sleep(min(wait, LONGEST_WAIT_SECONDS))
        raise Unreachable(
            f"{self.host} cannot be used now, but {TRIES} tries were made (the last: {scrubbed(reason)}); "
            "nothing that was paid is lost: give the same command later"
        )

    def _refusal(self, status: int, reason: str) -> ClientError:
        if status == 404:
            return _NotFound(f"{self.host} knows no such thing ({reason}); check the address and the key's workspace")
        if 300 <= status < 400:
            return ClientError(
                f"{self.host} sends us elsewhere ({reason}), but the key goes to one host; set that address"
            )
        what = {401: "set a valid key", 402: "pay the bill or raise the spend limit", 403: "ask for access"}
        return ClientError(f"{self.host} refused ({reason}); {what.get(status, 'mend the request')}")


class _NotFound(ClientError):
    pass


def never_connected(error: Exception) -> bool:
    """Whether a connection error of an SDK came before a byte of the request could leave."""
    import httpx2

    return isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))


def wait_asked(headers: Any, otherwise: T) -> float | T:
    """Seconds that ``retry-after-ms`` or ``retry-after`` (seconds or a date) asks for."""
    try:
        if "retry-after-ms" in headers:
            wait = float(headers["retry-after-ms"]) / 1000
        elif not (asked := headers.get("retry-after", "")):
            return otherwise
        elif asked.replace(".", "", 1).isdigit():
            wait = float(asked)
        else:
            wait = parsedate_to_datetime(asked).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return otherwise
    return max(0.0, wait) if math.isfinite(wait) else otherwise


def _batch(found: Any) -> Batch:
    counts = found.request_counts
    total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(
        id=found.id,
        ended=found.processing_status == "ended",
        processing=counts.processing,
        total=total,
        created=found.created_at,
        archived=found.archived_at is not None,
    )


def scrubbed(text: str) -> str:
    """A text that came from outside, without the key, on one line, of bounded length."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"[{name}]")
    return " ".join(text.split())[:500]
