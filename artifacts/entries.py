"""Reading a journal: its entries, and what they know of some requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from artifacts.backends.base import Backend
from artifacts.backends.local import Local
from artifacts.live import Parts, folded, id_of


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

    live: bool = False
    """Whether its requests go out one by one."""

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


class Entries:
    """The entries of a journal. Reads only."""

    def __init__(self, where: Backend | Path | str, folder: str = "") -> None:
        """In a backend's ``folder``, or in a local folder."""
        self._backend = where if isinstance(where, Backend) else Local(where)
        self._folder = folder
        self._live = Parts(self._backend, self._at("live"))
        self._intents: dict[str, Entry] = {}
        self._batches: dict[str, str] = {}
        self._final: dict[str, frozenset[str]] = {}
        """Path of replies or of a part of a live entry to what it answers."""

    @property
    def root(self) -> str:
        """Where the entries lie, for people."""
        return f"{self._backend.root}/{self._folder}".rstrip("/")

    @property
    def poll_seconds(self) -> float:
        """Between two looks for what another process is asking."""
        return self._backend.poll_seconds

    def lookup(self, digests: Iterable[str]) -> Found:
        """What is answered, in flight, or unknown, of some requests. Reads replies only where they matter."""
        wanted = frozenset(digests)
        found = Found()
        parts = self._live.paths()  # before replies: these are made of them
        sent, replied, void = (self._ids(folder) for folder in ("sent", "replies", "void"))
        for id in sorted(self._ids("intents") - void):
            entry = self.entry(id)
            if entry.digests.isdisjoint(wanted):
                continue
            if id in replied or entry.live:
                for digest in self._answered(id, id in replied, parts.get(id, [])) & wanted:
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
            live, requests = record.get("live", False), record["requests"]
            requests = {digest: digest for digest in requests} if live else requests
            self._intents[id] = Entry(id, record["client"], requests, when, live=live)
        return self._intents[id]

    def batches(self) -> dict[str, str]:
        """Every acknowledged batch id to its entry."""
        return {self._batch(id): id for id in self._ids("sent")}

    def replies(self, id: str) -> Iterator[dict[str, Any]]:
        """The results of an entry, one by one; of a live one, those that there are."""
        path = self._at(f"replies/{id}.jsonl")
        if not self.entry(id).live:
            yield from self._live.lines([path])
            return
        final: dict[str, bool] = {}

        def new(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            for line in lines:
                if not final.get(line["digest"], False) and (line["final"] or line["digest"] not in final):
                    final[line["digest"]] = line["final"]
                    yield line

        parts = self._live.paths().get(id, [])
        if self._backend.size(path):
            yield from new(self._live.lines([path]))
        try:
            yield from new(self._live.ends(parts))  # replies have these too, but for those of a process thought dead
        except FileNotFoundError:
            yield from new(self._live.lines([path]))  # which were just made of them

    def entries(self) -> Iterator[tuple[Entry, Iterator[dict[str, Any]] | None]]:
        """Every entry that may have cost something, with its results; None while a batch has none, or lost them."""
        parts = self._live.paths()
        sent, replied = self._ids("sent"), self._ids("replies")
        for id in sorted(self._ids("intents") - (self._ids("void") - sent)):
            entry = self.entry(id)
            if id in replied:
                yield entry, self.replies(id)
            elif entry.live:
                yield entry, self._so_far(id, parts.get(id, []))
            else:
                yield (self._acknowledged(entry) if id in sent else entry), None

    def _so_far(self, id: str, parts: list[str]) -> Iterator[dict[str, Any]]:
        try:
            found = list(folded(lambda: self._live.lines(parts)))
        except FileNotFoundError:
            found = list(self.replies(id))
        yield from found

    def has_replies(self, entry: Entry) -> bool:
        """Whether the results of an entry were fetched, by whomever."""
        return self._backend.size(self._at(f"replies/{entry.id}.jsonl")) > 0

    # files

    def _acknowledged(self, entry: Entry) -> Entry:
        return Entry(entry.id, entry.client, entry.requests, entry.when, self._batch(entry.id))

    def _batch(self, id: str) -> str:
        if id not in self._batches:
            self._batches[id] = self._read(f"sent/{id}.json")["batch"]
        return self._batches[id]

    def _answered(self, id: str, replied: bool, parts: list[str]) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for path in [*parts, *([self._at(f"replies/{id}.jsonl")] if replied else [])]:
            if path not in self._final:
                try:
                    ends = list(self._live.ends([path]))
                except FileNotFoundError:
                    if path not in parts:
                        raise
                    return self._answered(id, True, [])  # of which the parts became replies since they were listed
                self._final[path] = frozenset(record["digest"] for record in ends if record["final"])
            found |= self._final[path]
        return found

    def _at(self, path: str) -> str:
        return f"{self._folder}/{path}" if self._folder else path

    def _ids(self, folder: str) -> set[str]:
        return {id_of(path) for path in self._backend.paths(self._at(folder))}

    def _read(self, path: str) -> dict[str, Any]:
        data = self._backend.read(self._at(path))
        if data is None:
            raise FileNotFoundError(f"{self.root}/{path}: it was there a moment ago; somebody deleted it")
        return json.loads(data)
