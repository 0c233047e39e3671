"""What clients share that send requests in batches and pay for them.

The order of things is what keeps money safe. Under the journal's lock: what is answered or in flight is left out,
lost acknowledgements are looked up at the API, the most that the rest can cost is held against ``max_usd``, the
intent is written, the batch is created, its id is written. Without the lock: wait, fetch, record, hand out.
Killed anywhere in between, the same command goes on from the journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from tasks.clients._exchange import Exchange
from tasks.clients.base import Client, Reply, Request, Usage
from tasks.prices import Price, price_of
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.clients._batches_api import BatchAPI
    from tasks.progress import Progress
    from tasks.spec import Runtime

BYTES_PER_TOKEN = 2.5
"""A low guess, so that estimates err on the dear side: our prompts are JSON, which has short tokens."""


class Batched(Client):
    """A model behind a batches API."""

    kind: str
    model: str
    """Model id."""

    batch_requests: int = Field(10_000, ge=1)
    """Most requests in one batch. Never enters a key."""

    price_input: float | None = Field(None, ge=0)
    """US dollars per million input tokens, before the batch discount; null takes our table. Never enters a key."""

    price_output: float | None = Field(None, ge=0)
    """US dollars per million output tokens, before the batch discount; null takes our table. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = frozenset({"batch_requests", "price_input", "price_output"})
    """Fields that change no answer."""

    def api(self, runtime: Runtime) -> BatchAPI:
        """The API, opened. Raises ``ClientError`` when it cannot be."""
        raise NotImplementedError

    def params(self, request: Request) -> dict[str, Any]:
        """A request in the API's words."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.price_input is None) != (self.price_output is None):
            raise SpecError(
                f"client.price_input = {self.price_input}, but client.price_output = {self.price_output}; "
                "set both or none"
            )
        return self

    def payload(self) -> dict[str, Any]:
        return {name: value for name, value in super().payload().items() if name not in self.NOT_ASKED}

    @property
    def price(self) -> Price | None:
        """What is paid, as configured or from our table."""
        if self.price_input is not None and self.price_output is not None:
            return Price(self.price_input, self.price_output)
        return price_of(self.model)

    def check_price(self, runtime: Runtime) -> None:
        """Raise ``SpecError`` when ``max_usd`` could not be kept."""
        if self.price is None and runtime.max_usd is not None:
            raise SpecError(
                f"client.model = {self.model!r}, but its price is not in our table, so runtime.max_usd could not be "
                "kept; set client.price_input and client.price_output (US dollars per million tokens)"
            )

    def estimate(self, requests: Iterable[Request]) -> Usage:
        """The most that some requests can cost: every answer as long as it may be. Dollars None without a price."""
        input_tokens = output_tokens = 0
        usd = 0.0
        for request in requests:
            asked = 50 + int(len(json.dumps(request.payload, ensure_ascii=False).encode()) / BYTES_PER_TOKEN)
            input_tokens += asked
            output_tokens += request.max_tokens
            usd += self.price.batch_usd(asked, request.max_tokens) if self.price else 0.0
        return Usage(input_tokens, output_tokens, usd if self.price else None)

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        asked = list(dict.fromkeys(self.digest(request) for request in requests))
        with progress.bar(self.model, len(asked), "replies") as bar:
            yield from Exchange(self, requests, journal, runtime, progress, bar).replies(asked)
