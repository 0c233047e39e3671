"""Claude through message batches: half the price, answers within a day, mostly within the hour.

The order of things is what keeps money safe. Under the journal's lock: what is answered or in flight is left out,
lost acknowledgements are looked up at the API, the most that the rest can cost is held against ``max_usd``, the
intent is written, the batch is created, its id is written. Without the lock: wait, fetch, record, hand out.
Killed anywhere in between, the same command goes on from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.clients._claude import Claude
from tasks.clients._exchange import Exchange
from tasks.clients._priced import Priced
from tasks.clients.base import Reply, Request

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.progress import Progress
    from tasks.spec import Runtime


class AnthropicBatch(Claude):
    """Claude, by any model id, through the message-batches API."""

    kind: Literal["anthropic_batch"] = "anthropic_batch"

    batch_requests: int = Field(10_000, ge=1, le=100_000)
    """Most requests in one batch. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = Priced.NOT_ASKED | {"batch_requests"}

    def usd(self, input_tokens: int, output_tokens: int) -> float | None:
        return self.price.batch_usd(input_tokens, output_tokens) if self.price else None

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        asked = list(dict.fromkeys(self.digest(request) for request in requests))
        with progress.bar(self.model, len(asked), "replies") as bar:
            yield from Exchange(self, requests, journal, runtime, progress, bar).replies(asked)
