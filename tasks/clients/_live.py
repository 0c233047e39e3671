"""Live clients: each request goes out by itself, many at a time, and is answered at once.

The order of things is what keeps money safe. Under the journal's lock: what is answered, or being asked by a process
that lives, is left out; the rest is claimed by an entry. Without the lock: note what is about to be sent, send it,
note the answer, hand it out. Killed anywhere in between, the same command goes on from the journal; only what was on
its way at that moment is asked again, and the ledger says what that may have cost.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from artifacts.live import Live
from tasks.clients._flight import Flight, Limit
from tasks.clients._priced import Priced, announced, beyond, of, warn
from tasks.clients._results import reply_of
from tasks.clients.base import Reply, Request

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.progress import Bar, Progress
    from tasks.spec import Runtime

MOST_REQUESTS = 10_000
"""Requests claimed at a time, so that two processes with the same questions share them."""


class LiveClient(Priced):
    """A client of an HTTP API that answers each request by itself."""

    in_flight: int = Field(64, ge=1, le=1024)
    """Most requests that wait for their answer at a time. Never enters a key."""

    requests_per_minute: float | None = Field(None, gt=0)
    """Most requests sent in a minute, evenly; null sets no limit of ours. Never enters a key."""

    tokens_per_minute: float | None = Field(None, gt=0)
    """Most tokens, input and longest output, sent for in a minute; null sets no limit of ours. Never enters a key."""

    timeout_seconds: float = Field(300.0, gt=0)
    """Seconds that an answer may take. Never enters a key."""

    tries: int = Field(8, ge=1)
    """Times that a request is sent before it counts as errored; those that a busy server puts off are not counted. Never
    enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = Priced.NOT_ASKED | {
        "in_flight", "requests_per_minute", "tokens_per_minute", "timeout_seconds", "tries",
    }  # fmt: skip

    SDK: ClassVar[str]
    """Package whose exceptions ``post`` raises."""

    @abstractmethod
    def connect(self, runtime: Runtime) -> Any:
        """The SDK's asynchronous client: one host, no redirects, no tries of its own."""

    @abstractmethod
    async def post(self, connection: Any, request: Request) -> Any:
        """Send a request, once; returns the HTTP response."""

    @abstractmethod
    def record(self, digest: str, answer: dict[str, Any], request: Request) -> dict[str, Any]:
        """The journal's record of an answer. Raises ``ValueError`` or the like when it is none, or ``Failed``."""

    def counted(self, record: dict[str, Any], request: Request) -> dict[str, Any]:
        """The record of an answer, counted at the most that it can cost where its server does not tell."""
        if record["usd"] is not None or self.price is None:
            return record
        detail = record["detail"] or "the server tells no usage; the most it can cost is counted"
        return {**record, "usd": self.most_usd(request), "detail": detail}

    def host(self, connection: Any) -> str:
        return str(connection.base_url).rstrip("/")

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        asked = list(dict.fromkeys(self.digest(request) for request in requests))
        with progress.bar(self.model, len(asked), "replies") as bar:
            yield from Calls(self, requests, journal, runtime, progress, bar).replies(asked)


class Calls:
    """One call of ``answer``."""

    def __init__(
        self, client: LiveClient, requests: Iterable[Request], journal: Journal, runtime: Runtime,
        progress: Progress, bar: Bar,
    ) -> None:  # fmt: skip
        self.client, self.requests, self.journal, self.runtime = client, requests, journal, runtime
        self.progress, self.bar = progress, bar
        self.open: dict[str, None] = {}
        self.usd = 0.0
        self.announced = False

    def replies(self, asked: list[str]) -> Iterator[Reply]:
        """All replies: those in the journal first, then what the API gives."""
        self.open = dict.fromkeys(asked)
        yield from self._known(self.journal.lookup(self.open).answered)
        if not self.open:
            return
        self.client.check(self.runtime)
        waits = False
        while self.open:
            with ExitStack() as stack:
                with self.journal.sending(
                    lambda: self.progress.note("another process is sending requests; waiting for it")
                ):
                    theirs = self.journal.claimed(self.open)
                    answered = self.journal.lookup(self.open).answered
                    mine = [d for d in self.open if d not in theirs and d not in answered][:MOST_REQUESTS]
                    live = stack.enter_context(self.journal.asking(self._who(), mine)) if mine else None
                yield from self._known(answered)
                if live is not None:
                    if not self.announced:
                        self._announce(set(self.open) - theirs, len(asked))
                    yield from self._asked(live, mine)
                elif self.open:
                    if not waits:
                        self.progress.note(f"another process is asking {len(self.open):,} of these; waiting for it")
                    waits = True
                    time.sleep(min(self.journal.poll_seconds, self.runtime.poll_seconds))

    def _who(self) -> dict[str, Any]:
        return {"kind": getattr(self.client, "kind", ""), "model": self.client.model, "spec": self.client.payload()}

    def _known(self, answered: dict[str, str]) -> Iterator[Reply]:
        """Answers that the journal holds already."""
        for id in dict.fromkeys(answered.values()):
            for record in self.journal.replies(id):
                if record["final"] and answered.get(record["digest"]) == id and record["digest"] in self.open:
                    yield self._handed(reply_of(record, reused=True))

    def _announce(self, digests: set[str], n_asked: int) -> None:
        client, limit = self.client, self.runtime.max_usd
        foreseen = client.foreseen(of(client, self.requests, digests))
        self.progress.note(announced(client, *foreseen, len(digests), n_asked, self.journal.spent_usd, limit))

    def _asked(self, live: Live, digests: list[str]) -> Iterator[Reply]:
        """What the API answers. Raises ``ClientError`` when it cannot be used, or no more may be spent."""
        client = self.client
        connection = client.connect(self.runtime)
        if not self.announced:
            warn(client, client.host(connection), self.progress)
        self.announced = True
        flight = Flight(client, connection, of(client, self.requests, set(digests)), live, self.journal, self.runtime, self.progress.note)
        try:
            for record in flight.records():
                yield self._handed(reply_of(record, reused=False))
        except Limit:
            left = set(self.open)
            foreseen = client.foreseen(of(client, self.requests, left))
            assert self.runtime.max_usd is not None
            raise beyond(client, *foreseen, len(left), self.journal.spent_usd, self.runtime.max_usd) from None
        for digest in digests:
            if digest in self.open:  # or it would be waited for without end
                yield self._handed(Reply(digest, "missing", detail="the request was not made again"))

    def _handed(self, reply: Reply) -> Reply:
        del self.open[reply.digest]
        self.usd += 0.0 if reply.reused else reply.usage.usd or 0.0
        self.bar.advance(1, **({} if reply.usage.usd is None else {"usd": round(self.usd, 4)}))
        return reply
