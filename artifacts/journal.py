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

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

DRAFT_SECONDS = 86_400.0
"""Age from which a draft that nobody finished is swept away."""

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
    """A folder of entries. Any number of processes may read and write it at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._intents: dict[str, Entry] = {}
        self._final: dict[str, frozenset[str]] = {}

    # what was written

    def intend(self, client: Mapping[str, Any], digests: Iterable[str], name: Callable[[str, str], str]) -> Entry:
        """Record requests that are about to be sent. ``name(entry id, digest)`` is a request's id in the batch."""
        id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        requests = {name(id, digest): digest for digest in digests}
        entry = Entry(id, dict(client), requests, datetime.now(UTC))
        record = {"id": id, "client": entry.client, "when": entry.when.isoformat(), "requests": requests}
        self._create(f"intents/{id}.json", [json.dumps(record)])
        return entry

    def sent(self, entry: Entry, batch: str) -> None:
        """Record the API's acknowledgement."""
        self._create(f"sent/{entry.id}.json", [json.dumps({"batch": batch, "when": _now()})])

    def void(self, entry: Entry, why: str) -> None:
        """Record that an entry has no answers and never will: its requests may be sent again."""
        self._create(f"void/{entry.id}.json", [json.dumps({"why": why, "when": _now()})])
        _spent.get(str(self.root.absolute()), {}).pop(entry.id, None)

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
            record = json.loads((self.root / "intents" / f"{id}.json").read_bytes())
            when = datetime.fromisoformat(record["when"])
            self._intents[id] = Entry(id, record["client"], record["requests"], when)
        return self._intents[id]

    def batches(self) -> dict[str, str]:
        """Every acknowledged batch id to its entry."""
        return {json.loads((self.root / "sent" / f"{id}.json").read_bytes())["batch"]: id for id in self._ids("sent")}

    def replies(self, id: str) -> Iterator[dict[str, Any]]:
        """The results of an entry, one by one."""
        with open(self.root / "replies" / f"{id}.jsonl", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def has_replies(self, entry: Entry) -> bool:
        """Whether the results of an entry were fetched, by whomever."""
        return (self.root / "replies" / f"{entry.id}.jsonl").exists()

    # who sends

    @contextmanager
    def sending(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Be the only process that decides what to send. ``waiting`` is called once if another one is.

        A flock, so the kernel gives it back at once when its holder dies.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "sending.lock", "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            self._sweep()
            yield

    @property
    def spent_usd(self) -> float:
        """US dollars that this process has paid for answers in this journal, or may still have to for those in flight."""
        return sum(_spent.get(str(self.root.absolute()), {}).values())

    def pay(self, entry: Entry, usd: float) -> None:
        """Record what an entry may cost this process at most, and once it is known, what it did cost."""
        _spent.setdefault(str(self.root.absolute()), {})[entry.id] = usd

    # files

    def _acknowledged(self, entry: Entry) -> Entry:
        batch = json.loads((self.root / "sent" / f"{entry.id}.json").read_bytes())["batch"]
        return Entry(entry.id, entry.client, entry.requests, entry.when, batch)

    def _answered(self, id: str) -> frozenset[str]:
        if id not in self._final:
            self._final[id] = frozenset(record["digest"] for record in self.replies(id) if record["final"])
        return self._final[id]

    def _ids(self, folder: str) -> set[str]:
        try:
            names = [path.name for path in (self.root / folder).iterdir()]
        except FileNotFoundError:
            return set()
        return {name.partition(".")[0] for name in names if not name.startswith(".")}

    def _create(self, path: str, lines: Iterable[str]) -> bool:
        """Write a file that appears whole, on disk, or not at all; False when it exists already."""
        target = self.root / path
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(self.root)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(draft, "x", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, target)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return True

    def _sweep(self) -> None:
        for draft in self.root.glob("*/.*.tmp"):
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > DRAFT_SECONDS:
                    draft.unlink()


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return datetime.now(UTC).isoformat()
