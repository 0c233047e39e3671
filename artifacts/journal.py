"""The journal of paid work: what was asked, under which batch, and every answer, kept for the whole store.

An answer that was paid for is never paid for again, whichever run, stage or process asked first. Three records
make an entry, each an immutable file that appears whole or not at all::

    intents/<entry>.json     which requests are about to be sent; written before a byte leaves
    sent/<entry>.json        the id that the API gave the batch
    replies/<entry>.jsonl    one line per request, once all of them have ended
    void/<entry>.json        instead of the two above: surely never accepted, or gone at the API

An intent with none of the others is a lost acknowledgement: the API may or may not have taken it, and only the API
can tell. Journals know digests, never prompts, so a journal can be shared where a corpus cannot.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from artifacts.backends.base import Backend
from artifacts.backends.local import Local
from artifacts.errors import LeaseLost

_spent: dict[str, dict[str, float]] = {}
"""Journal folder to what each entry of this process costs, in US dollars: several stages of one run share one limit."""


@dataclass(frozen=True)
class Entry:
    """One batch of requests, as intended."""

    id: str
    client: Mapping[str, Any]
    """Kind and model of the client, and what else it needs to find its batch again."""

    requests: Mapping[str, str]
    """Id of the request within the batch to its digest."""

    when: datetime
    batch: str | None = None
    """The API's id, once it has acknowledged."""

    @cached_property
    def digests(self) -> frozenset[str]:
        return frozenset(self.requests.values())


@dataclass(frozen=True)
class Found:
    """What a journal knows of some digests."""

    answered: dict[str, str] = field(default_factory=dict)
    """Digest to the entry whose replies hold a final answer."""

    in_flight: list[Entry] = field(default_factory=list)
    """Acknowledged, not fetched yet."""

    unknown: list[Entry] = field(default_factory=list)
    """Intended, never acknowledged."""


class Journal:
    """A folder of entries. Any number of processes on any number of hosts may read and write it at once."""

    def __init__(self, where: Backend | Path | str, folder: str = "") -> None:
        """In a backend's ``folder``, or in a local folder."""
        self._backend = where if isinstance(where, Backend) else Local(where)
        self._folder = folder
        self._check: Callable[[], None] = lambda: None
        self._intents: dict[str, Entry] = {}
        self._batches: dict[str, str] = {}
        self._final: dict[str, frozenset[str]] = {}

    @property
    def root(self) -> str:
        """Where the entries lie, for people."""
        return f"{self._backend.root}/{self._folder}".rstrip("/")

    # what was written

    def intend(self, client: Mapping[str, Any], digests: Iterable[str], name: Callable[[str, str], str]) -> Entry:
        """Record requests that are about to be sent. ``name(entry id, digest)`` is a request's id in the batch.

        Raises ``LeaseLost`` when another process decides by now what to send: then do not send.
        """
        id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        requests = {name(id, digest): digest for digest in digests}
        entry = Entry(id, dict(client), requests, datetime.now(UTC))
        record = {"id": id, "client": entry.client, "when": entry.when.isoformat(), "requests": requests}
        self._create(f"intents/{id}.json", [json.dumps(record)])
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
        _spent.get(self.root, {}).pop(entry.id, None)

    def replied(self, entry: Entry, records: Iterable[Mapping[str, Any]]) -> bool:
        """Record all results of an entry, streamed; False when another process was first.

        A record has ``digest``, ``status`` and ``final`` (nothing is gained by asking again). When ``records``
        raises, nothing is recorded.
        """
        return self._create(f"replies/{entry.id}.jsonl", (json.dumps(dict(record)) for record in records))

    # what was found

    def lookup(self, digests: Iterable[str]) -> Found:
        """What is answered, in flight, or unknown, of some requests. Reads replies only where they matter."""
        wanted = frozenset(digests)
        found = Found()
        sent, replied, void = (self._ids(folder) for folder in ("sent", "replies", "void"))
        for id in sorted(self._ids("intents") - void):
            entry = self.entry(id)
            if entry.digests.isdisjoint(wanted):
                continue
            if id in replied:
                for digest in self._answered(id) & wanted:
                    found.answered.setdefault(digest, id)
            elif id in sent:
                found.in_flight.append(self._acknowledged(entry))
            else:
                found.unknown.append(entry)
        return found

    def entry(self, id: str) -> Entry:
        """The entry as intended, with its batch id if one is known."""
        if id not in self._intents:
            record = self._read(f"intents/{id}.json")
            when = datetime.fromisoformat(record["when"])
            self._intents[id] = Entry(id, record["client"], record["requests"], when)
        return self._intents[id]

    def batches(self) -> dict[str, str]:
        """Every acknowledged batch id to its entry."""
        return {self._batch(id): id for id in self._ids("sent")}

    def replies(self, id: str) -> Iterator[dict[str, Any]]:
        """The results of an entry, one by one."""
        with self._backend.open(self._at(f"replies/{id}.jsonl")) as file:
            for line in file:
                yield json.loads(line)

    def has_replies(self, entry: Entry) -> bool:
        """Whether the results of an entry were fetched, by whomever."""
        return self._backend.size(self._at(f"replies/{entry.id}.jsonl")) > 0

    def ledger(self) -> list[dict[str, Any]]:
        """What requests took, by day, kind of client and model: tokens and dollars of answers, and requests without one.

        ``usd`` is None where an answer has no price; ``possibly_usd`` is what requests in flight, or lost, may come to.
        """
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        replied = self._ids("replies")
        for id in sorted(self._ids("intents") - self._ids("void")):
            entry = self.entry(id)
            at = (f"{entry.when:%Y-%m-%d}", str(entry.client.get("kind", "")), str(entry.client.get("model", "")))
            zeros = {n: 0 for n in ("n_requests", "n_answered", "input_tokens", "output_tokens")}
            row = found.setdefault(at, {"day": at[0], "kind": at[1], "model": at[2], **zeros, "usd": 0.0, "possibly_usd": 0.0})
            row["n_requests"] += len(entry.requests)
            for record in self.replies(id) if id in replied else ():
                row["n_answered"] += bool(record.get("final"))
                row["input_tokens"] += record.get("input_tokens") or 0
                row["output_tokens"] += record.get("output_tokens") or 0
                usd = record.get("usd")
                row["usd"] = None if usd is None or row["usd"] is None else row["usd"] + usd
        return [found[at] for at in sorted(found)]

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
        return sum(_spent.get(self.root, {}).values())

    def pay(self, entry: Entry, usd: float) -> None:
        """Record what an entry may cost this process at most, and once it is known, what it did cost."""
        _spent.setdefault(self.root, {})[entry.id] = usd

    # files

    def _acknowledged(self, entry: Entry) -> Entry:
        return Entry(entry.id, entry.client, entry.requests, entry.when, self._batch(entry.id))

    def _batch(self, id: str) -> str:
        if id not in self._batches:
            self._batches[id] = self._read(f"sent/{id}.json")["batch"]
        return self._batches[id]

    def _answered(self, id: str) -> frozenset[str]:
        if id not in self._final:
            self._final[id] = frozenset(record["digest"] for record in self.replies(id) if record["final"])
        return self._final[id]

    def _at(self, path: str) -> str:
        return f"{self._folder}/{path}" if self._folder else path

    def _ids(self, folder: str) -> set[str]:
        return {path.rpartition("/")[2].partition(".")[0] for path in self._backend.paths(self._at(folder))}

    def _read(self, path: str) -> dict[str, Any]:
        data = self._backend.read(self._at(path))
        if data is None:
            raise FileNotFoundError(f"{self.root}/{path}: it was there a moment ago; somebody deleted it")
        return json.loads(data)

    def _create(self, path: str, lines: Iterable[str]) -> bool:
        """Write a file that appears whole, durably, or not at all; False when it exists already."""
        return self._backend.create(self._at(path), (f"{line}\n".encode() for line in lines))


def _now() -> str:
    return datetime.now(UTC).isoformat()
