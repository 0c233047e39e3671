"""One exchange with a batches API: which requests go out, which batches are waited for, what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from artifacts.journal import Entry
from tasks.clients import _pace
from tasks.clients._batches_api import FETCHES, Batch, Cut, NotFound, Unacknowledged, Unreachable, scrubbed
from tasks.clients._lost import Lost
from tasks.clients._priced import announced, beyond, of, warn
from tasks.clients._results import UNREADABLE, missing_record, reply_of, unpaid, unread
from tasks.clients.base import ClientError, Reply, Request

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.clients._batched import Batched
    from tasks.progress import Bar, Progress
    from tasks.spec import Runtime

ROUNDS = 3
"""Times that a request is sent when it expires, is canceled, or fails on the API's side. Such failures cost nothing."""

ENVELOPE_BYTES = 200
"""What a batch holds beside each request's params, at most."""

SETTLE_SECONDS = 2.0
"""Time given to a batch whose acknowledgement was lost to appear in the API's list, and between two fetches."""

KEPT = timedelta(days=29)
"""How long the API keeps results."""


class Exchange:
    """One call of ``answer``."""

    def __init__(
        self, client: Batched, requests: Iterable[Request], journal: Journal, runtime: Runtime,
        progress: Progress, bar: Bar,
    ) -> None:  # fmt: skip
        self.client, self.requests, self.journal, self.runtime = client, requests, journal, runtime
        self.progress, self.bar = progress, bar
        self.open: set[str] = set()
        self.times_sent: dict[str, int] = {}
        self.failed: dict[str, Reply] = {}
        self.mine: set[str] = set()
        self.usd = 0.0
        self.warned: set[str] = set()
        self.unacknowledged = 0

    def replies(self, asked: list[str]) -> Iterator[Reply]:
        """All replies: those in the journal first, then what the API gives."""
        self.open = set(asked)
        yield from self._known(self.journal.lookup(self.open).answered)
        if not self.open:
            return
        self.client.check(self.runtime)
        self.api = self.client.api(self.runtime)
        self.api.note = self.progress.note
        self.lost = Lost(self.api, self.journal, self.progress.note, min(SETTLE_SECONDS, self.runtime.poll_seconds))
        warn(self.client, self.api.host, self.progress)
        while self.open:
            with self.journal.sending(
                lambda: self.progress.note("another process is sending requests; waiting for it")
            ):
                found = self.journal.lookup(self.open)
                doubtful = {e.id: (e, c) for e in found.unknown if (c := self.lost.candidates(e)) is not None}
                under_way = [*found.in_flight, *(e for e, _ in doubtful.values())]
                for entry in under_way:  # whoever sent them: what a killed process spent counts as well
                    self.journal.pay(entry, entry.client.get("most_usd", 0.0))
                rest = self.open - found.answered.keys() - {d for e in under_way for d in e.digests}
                given_up = {digest for digest in rest if self.times_sent.get(digest, 0) >= ROUNDS}
                sent = self._send(rest - given_up, len(asked), waits=bool(under_way))
            yield from self._known(found.answered)
            for digest in given_up:
                yield self._handed(self.failed.get(digest) or Reply(digest, "missing", detail="its results are gone"))
            yield from self._awaited([*found.in_flight, *sent], doubtful)

    def _known(self, answered: dict[str, str]) -> Iterator[Reply]:
        """Answers that the journal holds already."""
        for id in dict.fromkeys(answered.values()):
            for record in self.journal.replies(id):
                if record["final"] and answered.get(record["digest"]) == id and record["digest"] in self.open:
                    yield self._handed(reply_of(record, reused=True))

    def _handed(self, reply: Reply) -> Reply:
        self.open.discard(reply.digest)
        self.usd += 0.0 if reply.reused else reply.usage.usd or 0.0
        self.bar.advance(1, usd=round(self.usd, 4))
        return reply

    # sending

    def _send(self, digests: set[str], n_asked: int, waits: bool) -> list[Entry]:
        """Send some requests in as few batches as hold them, or none of them before it would cost too much.

        Raises ``ClientError`` then, unless this ``waits`` for others, which may cost less than what is held for them.
        """
        if not digests or not self._within_limit(digests, n_asked, waits):
            return []
        mark, most_bytes = self.api.mark(), self.api.MOST_BYTES
        sent, chunk, size, most = [], {}, 0, 0.0
        for request in self.requests:
            digest = self.client.digest(request)
            if digest not in digests or digest in chunk:
                continue
            params = self.client.params(request)
            n_bytes = len(json.dumps(params, ensure_ascii=False).encode()) + ENVELOPE_BYTES
            if chunk and (len(chunk) == self.client.batch_requests or size + n_bytes > most_bytes):
                sent += self._create(chunk, mark, most)
                digests, chunk, size, most = digests - chunk.keys(), {}, 0, 0.0
                if digest not in digests:
                    continue
            chunk[digest] = params
            size += n_bytes
            most += self.client.most_usd(request)
        return sent + (self._create(chunk, mark, most) if chunk else [])

    def _within_limit(self, digests: set[str], n_asked: int, waits: bool) -> bool:
        likely, most = self.client.foreseen(of(self.client, self.requests, digests))
        spent, limit = self.journal.spent_usd, self.runtime.max_usd
        self.progress.note(announced(self.client, likely, most, len(digests), n_asked, spent, limit))
        if limit is None or spent + most <= limit:
            return True
        error = beyond(self.client, likely, most, len(digests), spent, limit)
        if not waits:
            raise error
        self.progress.note(f"{error}; what is in flight may cost less, and is waited for first")
        return False

    def _create(self, chunk: dict[str, dict[str, Any]], mark: dict[str, Any], usd: float) -> list[Entry]:
        client = {"kind": self.client.kind, "model": self.client.model, "spec": self.client.payload(),
                  "host": self.api.host, "most_usd": usd, **mark}  # fmt: skip
        entry = self.journal.intend(client, chunk, name=lambda id, digest: f"{digest[:40]}-{id[-12:]}")
        self.mine.add(entry.id)
        self.journal.pay(entry, usd)
        try:
            batch = self.api.create(entry.id, {id: chunk[digest] for id, digest in entry.requests.items()})
        except Unacknowledged as error:
            self.unacknowledged += 1
            if self.unacknowledged >= ROUNDS:
                raise
            self.progress.note(str(error))
            return []  # the next round looks for it among the API's batches
        except ClientError as error:
            self.journal.void(entry, str(error))
            raise
        self.journal.sent(entry, batch)
        for digest in chunk:
            self.times_sent[digest] = self.times_sent.get(digest, 0) + 1
        return [Entry(entry.id, entry.client, entry.requests, entry.when, batch)]

    # waiting and fetching

    def _awaited(self, waiting: list[Entry], doubtful: dict[str, tuple[Entry, set[str]]]) -> Iterator[Reply]:
        """Replies of batches as they end. Returns early when it turns out what became of a doubtful one."""
        pause, reached = min(1.0, self.runtime.poll_seconds), time.monotonic()
        while waiting or doubtful:
            try:
                for entry in list(waiting):
                    if self.journal.has_replies(entry) or self._fetched(entry):
                        waiting.remove(entry)
                        yield from self._fresh(entry)
                if any([self.lost.settle(entry, candidates) for entry, candidates in doubtful.values()]):
                    return  # what is still waited for is found again by the next look into the journal
                reached = time.monotonic()
            except Unreachable as error:
                if time.monotonic() - reached > _pace.PATIENCE_SECONDS:
                    raise
                self.progress.note(str(error))
            if waiting or doubtful:
                time.sleep(pause)
                pause = min(2 * pause, self.runtime.poll_seconds)

    def _fetched(self, entry: Entry) -> bool:
        """Whether an entry's results are in the journal by now, or it is known that there are none."""
        assert entry.batch is not None
        batch = self.api.retrieve(entry.batch)
        if batch is None:
            return self._not_found(entry, "it")
        if batch.archived:
            return self._gone(entry)
        self.bar.advance(0, processing=batch.processing)
        if not batch.ended:
            return False
        for left in reversed(range(FETCHES)):
            try:
                self.journal.replied(entry, self._records(entry, batch, forgiving=left == 0))
            except (Cut, NotFound) as error:
                failed = error
            else:
                self.api.forget(entry, batch)
                return True
            if left:
                time.sleep(min(SETTLE_SECONDS, self.runtime.poll_seconds))
        if isinstance(failed, NotFound):
            return self._not_found(entry, "its results")
        raise ClientError(f"{failed}, {FETCHES} times; they stay paid for: give the same command later")

    def _not_found(self, entry: Entry, what: str) -> bool:
        """Give up what the API may no longer keep. Raises ``ClientError`` when it must still have it somewhere."""
        if datetime.now(UTC) - entry.when >= KEPT:
            return self._gone(entry)
        root, file = self.journal.root, f"{entry.id}.json"
        raise ClientError(
            f"batch {entry.batch} was sent on {entry.when:%Y-%m-%d %H:%M} UTC, but {self.api.host} does not know {what}; "
            "use the key and address that sent it, or, to pay for its requests once more, copy "
            f"{root}/sent/{file} to {root}/void/{file}"
        )

    def _gone(self, entry: Entry) -> bool:
        self._warn(entry.id, f"the results of batch {entry.batch} are no longer kept; its requests are sent again")
        self.journal.void(entry, "its results are no longer kept")
        return True

    def _records(self, entry: Entry, batch: Batch, forgiving: bool) -> Iterator[dict[str, Any]]:
        """What the journal keeps of each result. Some may be missing only when ``forgiving``; else raises ``Cut``.

        Answers of unknown cost come last, and share what the others leave of the most that the batch can cost.
        """
        left, n_answered, rest, unpriced = dict(entry.requests), 0, entry.client.get("most_usd", 0.0), []
        for result in self.api.results(batch):
            id = str(result.get("custom_id"))
            digest = left.pop(id, None)
            if digest is None:
                known = "twice" if id in entry.requests else "but nobody asked that"
                self._warn(f"{entry.id} {known}", f"batch {entry.batch} answers {scrubbed(id)} {known}; ignored")
                continue
            try:
                record = self.api.record(digest, result, self.client.price)
            except UNREADABLE as error:
                record = unread(digest, error)
            n_answered += "message" in record
            if record["usd"] is None and rest > 0.0:
                unpriced.append(record)
                continue
            rest -= record["usd"] or 0.0
            yield record
        for record in unpriced:
            yield {**record, "possibly_usd": max(0.0, rest) / len(unpriced)}
        if batch.rest is not None and n_answered >= batch.n_answered:
            yield from (unpaid(digest, *batch.rest, final=False) for digest in left.values())
            return
        if left and not forgiving:
            raise Cut(f"the results of batch {entry.batch} lack {len(left)} of {len(entry.requests)} requests")
        yield from (missing_record(digest) for digest in left.values())

    def _fresh(self, entry: Entry) -> Iterator[Reply]:
        """The answers of an entry that was just fetched; what failed without cost stays open."""
        if not self.journal.has_replies(entry):
            return
        paid = [record["usd"] for record in self.journal.replies(entry.id)]
        if None not in paid:  # else what it may have cost still counts
            self.journal.pay(entry, sum(paid))
        for record in self.journal.replies(entry.id):
            reply = reply_of(record, reused=entry.id not in self.mine)
            if reply.digest in self.open:
                if record["final"]:
                    yield self._handed(reply)
                else:
                    self.failed[reply.digest] = reply

    def _warn(self, key: str, text: str) -> None:
        if key not in self.warned:
            self.warned.add(key)
            self.progress.note(text)
