"""What clients share that send requests in batches and pay for them.

The order of things is what keeps money safe. Under the journal's lock: what is answered or in flight is left out,
lost acknowledgements are looked up at the API, the most that the rest can cost is held against ``max_usd``, the
intent is written, the batch is created, its id is written. Without the lock: wait, fetch, record, hand out.
Killed anywhere in between, the same command goes on from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.clients._exchange import Exchange
from tasks.clients._priced import Priced
from tasks.clients.base import Reply, Request

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.clients._batches_api import BatchAPI
    from tasks.progress import Progress
    from tasks.spec import Runtime


class Batched(Priced):
    """A model behind a batches API."""

    kind: str

    batch_requests: int = Field(10_000, ge=1)
    """Most requests in one batch. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = Priced.NOT_ASKED | {"batch_requests"}

    def api(self, runtime: Runtime) -> BatchAPI:
        """The API, opened. Raises ``ClientError`` when it cannot be."""
        raise NotImplementedError

    def params(self, request: Request) -> dict[str, Any]:
        """A request in the API's words."""
        raise NotImplementedError

    def usd(self, input_tokens: int, output_tokens: int) -> float | None:
        return self.price.batch_usd(input_tokens, output_tokens) if self.price else None

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        asked = list(dict.fromkeys(self.digest(request) for request in requests))
        with progress.bar(self.model, len(asked), "replies") as bar:
            yield from Exchange(self, requests, journal, runtime, progress, bar).replies(asked)
