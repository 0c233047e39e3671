"""Lost acknowledgements: batches that may have been taken without our hearing of it.

The API gives batches no name and echoes no request until it has answered them. What remains is to list what was
created since the intent, to wait for what may be ours, and to look at the ids in its results, which name the intent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.clients._batches_api import BatchesAPI, Cut
from tasks.clients.base import ClientError

if TYPE_CHECKING:
    from artifacts.journal import Entry, Journal

FETCHES = 5


class Lost:
    """Finds out what became of intents without acknowledgement. ``pause`` in seconds lets the API's list catch up."""

    def __init__(self, api: BatchesAPI, journal: Journal, note: Callable[[str], None], pause: float) -> None:
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
        n = len(entry.requests)
        for last in (False, True):
            found = {
                batch.id
                for batch in self.api.newer_than(entry.client.get("after"))
                if batch.id not in known and (batch.total == n if batch.ended else batch.processing <= n)
            }
            if found:
                return found
            if not last:
                time.sleep(self.pause)
        self.journal.void(entry, "the API has no batch that could be it")
        return None

    def settle(self, entry: Entry, candidates: set[str]) -> bool:
        """Look into candidates that have ended; True once it is known which one, or that none, is the intent's."""
        for id in sorted(candidates):
            batch = self.api.retrieve(id)
            if batch is not None and not batch.ended:
                continue
            if batch is not None and not batch.archived and self._is(entry, id):
                self.journal.sent(entry, id)
                self.note(f"found batch {id}, whose acknowledgement was lost: {len(entry.requests):,} requests")
                return True
            candidates.discard(id)
        if not candidates:
            self.journal.void(entry, "none of the API's batches of that time is it")
        return not candidates

    def _is(self, entry: Entry, id: str) -> bool:
        for _ in range(FETCHES):
            results = self.api.results(id)
            try:
                return any(line.get("custom_id") in entry.requests for line in results)
            except Cut:
                time.sleep(self.pause)
            finally:
                results.close()
        raise ClientError(
            f"batch {id} may be ours, but its results broke off {FETCHES} times; give the same command later"
        )
