"""Lost acknowledgements: batches that may have been taken without our hearing of it.

How an API can be asked for them is its own affair (``BatchAPI.candidates``, ``is_of``). Common to all: ask where the
requests went, look several times, and send again only what is surely not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.clients._batches_api import FETCHES, BatchAPI, Cut
from tasks.clients.base import ClientError

if TYPE_CHECKING:
    from artifacts.journal import Entry, Journal

LOOKS = 4
"""At the API's list, with a pause that doubles between them: a large batch may take a while to be listed."""


class Lost:
    """Finds out what became of intents without acknowledgement. ``pause`` in seconds lets the API's list catch up."""

    def __init__(self, api: BatchAPI, journal: Journal, note: Callable[[str], None], pause: float) -> None:
        self.api, self.journal, self.note, self.pause = api, journal, note, pause

    def candidates(self, entry: Entry) -> set[str] | None:
        """Batches that may be the one of an intent; None, and the intent is void, when there is none."""
        host = entry.client.get("host")
        if host != self.api.host:
            raise ClientError(
                f"runtime.base_url = {self.api.host!r}, but requests of {entry.when:%Y-%m-%d %H:%M} UTC went to {host} "
                f"and may have been taken there; set runtime.base_url={host} once, or, if that is gone for good, "
                f"delete {self.journal.root}/intents/{entry.id}.json"
            )
        known = self.journal.batches()
        for look in range(LOOKS):
            if look:
                time.sleep(self.pause * 2 ** (look - 1))
            if found := self.api.candidates(entry) - known.keys():
                return found
        self._void(entry, "the API has no batch that could be it")
        return None

    def settle(self, entry: Entry, candidates: set[str]) -> bool:
        """Look into candidates that have ended; True once it is known which one, or that none, is the intent's."""
        for id in sorted(candidates):
            is_it = self._is(entry, id)
            if is_it is None:
                continue
            if is_it:
                self.journal.sent(entry, id)
                self.note(f"found batch {id}, whose acknowledgement was lost: {len(entry.requests):,} requests")
                return True
            candidates.discard(id)
        if not candidates:
            self._void(entry, "none of the API's batches of that time is it")
        return not candidates

    def _void(self, entry: Entry, why: str) -> None:
        self.journal.void(entry, why)
        self.api.forget(entry, None)

    def _is(self, entry: Entry, id: str) -> bool | None:
        for _ in range(FETCHES):
            try:
                return self.api.is_of(id, entry)
            except Cut:
                time.sleep(self.pause)
        raise ClientError(
            f"batch {id} may be ours, but its results broke off {FETCHES} times; give the same command later"
        )
