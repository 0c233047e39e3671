"""Batches APIs through the official SDKs, with the retries, the host and the errors in our hands.

The SDKs retry a POST whose answer was lost, and so make a second paid batch; they sleep as long as a ``retry-after``
says; and they take the key to whatever host a url names. So every call here goes out once, to one host, without
following redirects, and what to do next is decided below. ``BatchAPI`` is what an exchange needs of an API;
``_anthropic_batches`` and ``_openai_batches`` are two.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from tasks.clients import _pace
from tasks.clients._statuses import PASSING, SURELY_NOT_ACCEPTED, UNPAID, too_early
from tasks.clients.base import ClientError

if TYPE_CHECKING:
    from artifacts.journal import Entry
    from tasks.prices import Price

T = TypeVar("T")

TRIES = 8
FETCHES = 5
"""Times that results are fetched when they break off: they are paid for, and fetching them again is not."""

SECRETS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_IDENTITY_TOKEN", "OPENAI_API_KEY")


class Unreachable(ClientError):
    """The API does not answer now; it may later."""


class Unacknowledged(ClientError):
    """The API may or may not have taken a batch: its answer was lost."""


class Cut(ClientError):
    """Results ended before their end."""


class NotFound(ClientError):
    """The API has no such thing, or none that this key may see."""


class Again(NamedTuple):
    """A failure that may pass."""

    reason: str
    wait: float | None = None
    """Seconds that the API asks for."""

    early: bool = False
    """Whether the API says only that it is busy; see ``too_early``."""


class Batch(NamedTuple):
    """What the API says of a batch."""

    id: str
    ended: bool
    processing: int
    total: int
    """Requests in all once it has ended; before that, those still being worked on."""

    created: datetime
    archived: bool = False
    """Whether its results are no longer kept."""

    rest: tuple[str, str] | None = None
    """Status and detail of requests that its results are silent about; None where they tell of each."""

    n_answered: int = 0
    """Requests that were answered, where ``rest`` is given: results that hold fewer answers are cut."""

    files: tuple[str, ...] = ()
    """Where its results lie, for an API that keeps them in files."""

    input: str = ""
    """Its requests, likewise."""


class BatchAPI:
    """What an exchange needs of an API: one host, one key, batches that are paid for once they were taken."""

    MOST_BYTES: ClassVar[int]
    """Size of a batch that is surely taken."""

    host: str
    _sdk: ModuleType
    _sleep: Callable[[float], None]
    _told_busy = False

    def note(self, text: str) -> None:
        """Tell whoever waits, in a line. Replaced by who can."""

    def mark(self) -> dict[str, Any]:
        """What an intent must note, so that its batch is found when the acknowledgement is lost."""
        return {}

    def create(self, entry: str, requests: Mapping[str, dict[str, Any]]) -> str:
        """Send a batch of custom id to params, once, for an entry of the journal; returns its id.

        Raises ``Unacknowledged`` when nobody can say whether it was taken, other ``ClientError`` when it was not.
        """
        raise NotImplementedError

    def retrieve(self, id: str) -> Batch | None:
        """The state of a batch; None when this key cannot see one of that id."""
        raise NotImplementedError

    def results(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """The results of a batch that has ended, streamed: objects with a ``custom_id``.

        Raises ``Cut`` when they break off, ``NotFound`` when they are no longer kept.
        """
        raise NotImplementedError

    def record(self, digest: str, result: dict[str, Any], price: Price | None) -> dict[str, Any]:
        """What the journal keeps of a result."""
        raise NotImplementedError

    def candidates(self, entry: Entry) -> set[str]:
        """Ids of batches that may be the one of an intent, as far as a list shows."""
        raise NotImplementedError

    def is_of(self, id: str, entry: Entry) -> bool | None:
        """Whether a candidate is the intent's batch; None as long as nobody can tell. May raise ``Cut``."""
        raise NotImplementedError

    def forget(self, entry: Entry, batch: Batch | None) -> None:
        """Take back what lies at the API for nothing, of an entry that was fetched, or never taken (None)."""

    def _call(self, call: Callable[[], T], posts: bool = False) -> T:
        """Call once, and again while that is safe and useful."""
        tries, waited, draw = 0, 0.0, random.Random()
        for sent in itertools.count(1):
            try:
                found = call()
            except Exception as error:
                verdict = self._verdict(error, posts)
            else:
                if not isinstance(found, str):  # as which the SDKs hand out a page of HTML
                    return found
                verdict = self._strange(found, posts)
            if isinstance(verdict, ClientError):
                raise verdict  # out here, so that it drags no exception along whose request holds the key
            tries += not verdict.early
            if tries == TRIES or waited >= _pace.PATIENCE_SECONDS:
                raise Unreachable(
                    f"{self.host} cannot be used now, but it was asked {sent} times in {waited:,.0f} s (the last: "
                    f"{verdict.reason}); nothing that was paid is lost: give the same command later"
                )
            if verdict.early and not self._told_busy:
                self._told_busy = True
                self.note(busy(self.host, verdict.reason))
            wait = _pace.backoff_seconds(sent, verdict.wait, draw)
            waited += wait
            self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _verdict(self, error: Exception, posts: bool) -> ClientError | Again:
        """What an exception of the SDK comes to. Raises what is none."""
        if isinstance(error, self._sdk.APIConnectionError):
            reason = scrubbed(f"{type(error.__cause__ or error).__name__}: {error}")
            if posts and not never_connected(error):
                return Unacknowledged(
                    f"{self.host} took a batch's bytes, but the connection broke before its answer ({reason}); "
                    "give the same command again, which looks for the batch first"
                )
            return Again(reason)
        if isinstance(error, self._sdk.APIResponseValidationError):
            return self._strange(str(error), posts)
        if isinstance(error, self._sdk.APIStatusError):
            reason = scrubbed(f"{error.status_code} {error.type or ''} {_message(error)}".strip())
            if UNPAID & {error.type, getattr(error, "code", None)}:
                return self._refusal(402, reason)
            if error.status_code not in PASSING:
                return self._refusal(error.status_code, reason)
            if posts and error.status_code not in SURELY_NOT_ACCEPTED:
                return Unacknowledged(
                    f"{self.host} answered a new batch with {reason}, but may have taken it; "
                    "give the same command again, which looks for the batch first"
                )
            wait = wait_asked(error.response.headers, None)
            return Again(reason, wait, too_early(error.status_code, wait))
        if isinstance(error, ValueError):
            reason = f"an answer that is no JSON: {scrubbed(str(error))}"
            return self._strange(reason, posts) if posts else Again(reason)
        if isinstance(error, AttributeError) and isinstance(error.obj, str):  # a page of HTML, taken for a list
            return self._strange(error.obj, posts)
        if isinstance(error, TypeError) and "authentication" in str(error):  # how the SDK says that it has no key
            return ClientError(f"client: the SDK cannot identify itself ({scrubbed(str(error))}); set a key")
        raise error

    def _strange(self, answer: Any, posts: bool = False) -> ClientError:
        kind = Unacknowledged if posts else ClientError
        return kind(f"{self.host} does not answer like the API ({scrubbed(str(answer))[:200]}); check the address")

    def _refusal(self, status: int, reason: str) -> ClientError:
        if status == 404:
            return NotFound(f"{self.host} knows no such thing ({reason}); check the address and the key's workspace")
        if 300 <= status < 400:
            return ClientError(
                f"{self.host} sends us elsewhere ({reason}), but the key goes to one host; set that address"
            )
        what = {401: "set a valid key", 402: "pay the bill or raise the spend limit", 403: "ask for access"}
        return ClientError(f"{self.host} refused ({reason}); {what.get(status, 'mend the request')}")


def busy(host: str, reason: str) -> str:
    """What is told of an API that asks for patience, once."""
    return f"{host} is busy ({reason}); waiting for it, for {_pace.PATIENCE_SECONDS / 60:.0f} minutes at most"


def scrubbed(text: str) -> str:
    """A text that came from outside, without the key, on one line, of bounded length."""
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"[{name}]")
    return " ".join(text.split())[:500]


def _message(error: Any) -> str:
    """What the API said, in whichever field its SDK has it."""
    body = getattr(error, "body", None)
    told = getattr(error, "api_message", None) or (body.get("message") if isinstance(body, dict) else None)
    return str(told or error)


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
