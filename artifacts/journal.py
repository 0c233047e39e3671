"""The journal of paid work: what was asked, under which batch, and every answer, kept for the whole store.

An answer that was paid for is never paid for again, whichever run, stage or process asked first. Three records
make an entry, each an immutable file that appears whole or not at all::

    intents/<entry>.json     which requests are about to be sent; written before a byte leaves
    sent/<entry>.json        the id that the API gave the batch
    replies/<entry>.jsonl    one line per request, once all of them have ended
    void/<entry>.json        instead of these two: surely never accepted; or beside ``sent``: accepted, and its
                             answers are gone at the API, so that all it may have cost stays on the bill

An intent with none of the others is a lost acknowledgement: the API may or may not have taken it, and only the API
can tell. Journals know digests, never prompts, so a journal can be shared where a corpus cannot.

A live entry, whose requests go out one by one, has no batch. While its process asks, and after it was killed, there
are instead of ``sent`` and ``replies``::

    live/<entry>.lock        held by the process that asks, for as long as it lives
    live/<entry>.<n>.jsonl   what happened since the part before (``artifacts.live``), answers among it

From these, whoever finds its process gone makes its ``replies``. While it lives, its requests are its own: others who
want the same wait for it, so only what was on its way when a process died can be paid for twice.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from artifacts import spending
from artifacts.entries import Entries, Entry, Found
from artifacts.errors import LeaseLost
from artifacts.live import Live, folded, id_of

__all__ = ["Entry", "Found", "Journal"]


class Journal(Entries):
    """A folder of entries. Any number of processes on any number of hosts may read and write it at once."""

    _check: Callable[[], None] = staticmethod(lambda: None)

    # what was written

    def intend(self, client: Mapping[str, Any], digests: Iterable[str], name: Callable[[str, str], str]) -> Entry:
        """Record requests that are about to be sent. ``name(entry id, digest)`` is a request's id in the batch.

        Raises ``LeaseLost`` when another process decides by now what to send: then do not send.
        """
        id = _new_id()
        requests = {name(id, digest): digest for digest in digests}
        return self._intended(Entry(id, dict(client), requests, datetime.now(UTC)), requests)

    def _intended(self, entry: Entry, requests: Mapping[str, str] | list[str]) -> Entry:
        record = {"id": entry.id, "client": entry.client, "when": entry.when.isoformat(), "requests": requests}
        self._create(f"intents/{entry.id}.json", [json.dumps(record | ({"live": True} if entry.live else {}))])
        try:
            self._check()  # after the intent: who takes over from here on sees it
        except LeaseLost as error:
            self.void(entry, str(error))
            raise
        return entry

    def sent(self, entry: Entry, batch: str) -> None:
        """Record the API's acknowledgement."""
        self._create(f"sent/{entry.id}.json", [json.dumps({"batch": batch, "when": _now()})])

    def void(self, entry: Entry, why: str) -> None:
        """Record that an entry has no answers and never will: its requests may be sent again."""
        self._create(f"void/{entry.id}.json", [json.dumps({"why": why, "when": _now()})])
        if entry.batch is None:  # else it was paid for
            spending.forget(self.root, entry.id)

    @contextmanager
    def asking(self, client: Mapping[str, Any], digests: Iterable[str]) -> Iterator[Live]:
        """A live entry, for as long as the block lasts; to be begun while ``sending``, and gone on with after it."""
        id = _new_id()
        with self._backend.exclusively(self._at(f"live/{id}.lock")) as check:
            ended = self._ids("replies") | self._ids("void")
            for path in list(self._backend.paths(self._at("live"))):
                if path.endswith(".lock") and id_of(path) in ended:
                    self._backend.delete(path)
            entry = Entry(id, dict(client), {d: d for d in digests}, datetime.now(UTC), live=True)
            try:
                yield Live(self._intended(entry, [*entry.requests]), self._create, check)
            finally:
                self._end(entry)

    def claimed(self, digests: Iterable[str]) -> set[str]:
        """Those of some requests that other live processes are asking now; what dead ones left is brought to its end.

        To be called while ``sending``, before ``lookup``, which sees what they answer until then.
        """
        wanted, found = frozenset(digests), set()
        for id in sorted(self._ids("intents") - self._ids("replies") - self._ids("void")):
            entry = self.entry(id)
            if not entry.live or entry.digests.isdisjoint(wanted):
                continue
            try:
                with self._backend.exclusively(self._at(f"live/{id}.lock"), waiting=_busy):
                    self._end(entry)
            except _Busy:
                found |= entry.digests & wanted
        return found

    def _end(self, entry: Entry) -> None:
        """Put the parts of a live entry that nobody asks any more into its replies."""
        parts = self._live.paths().get(entry.id, [])
        records = folded(lambda: self._live.lines(parts))
        first = next(records, None)
        if first is None:
            self.void(entry, "nothing of it was sent")
        elif self.replied(entry, itertools.chain([first], records)):  # if not, another's may lack our last parts
            for path in parts:
                self._backend.delete(path)

    def replied(self, entry: Entry, records: Iterable[Mapping[str, Any]]) -> bool:
        """Record all results of an entry, streamed; False when another process was first.

        A record has ``digest``, ``status`` and ``final`` (nothing is gained by asking again). When ``records``
        raises, nothing is recorded.
        """
        return self._create(f"replies/{entry.id}.jsonl", (json.dumps(dict(record)) for record in records))

    # who sends

    @contextmanager
    def sending(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Be the only process that decides what to send. ``waiting`` is called once if another one is.

        When a backend cannot promise that it stays so, ``intend`` finds out.
        """
        with self._backend.exclusively(self._at("sending.lock"), waiting) as check:
            self._backend.tidy(self._folder)
            self._check = check
            try:
                yield
            finally:
                self._check = lambda: None

    @property
    def spent_usd(self) -> float:
        """US dollars that this process has paid for answers in this journal, or may still have to for those in flight."""
        return spending.spent(self.root)

    def pay(self, entry: Entry, usd: float, limit: float | None = None) -> bool:
        """Record what an entry may cost this process at most, and once it is known, what it did cost.

        False when this process would then have spent more than ``limit``: then nothing is recorded.
        """
        return spending.pay(self.root, entry.id, usd, limit)

    # files

    def _create(self, path: str, lines: Iterable[str]) -> bool:
        """Write a file that appears whole, durably, or not at all; False when it exists already."""
        return self._backend.create(self._at(path), (f"{line}\n".encode() for line in lines))


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"


class _Busy(Exception):
    pass


def _busy() -> None:
    raise _Busy


def _now() -> str:
    return datetime.now(UTC).isoformat()
