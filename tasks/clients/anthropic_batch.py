"""Claude through message batches: half the price, answers within a day, mostly within the hour.

The order of things is what keeps money safe. Under the journal's lock: what is answered or in flight is left out,
lost acknowledgements are looked up at the API, the most that the rest can cost is held against ``max_usd``, the
intent is written, the batch is created, its id is written. Without the lock: wait, fetch, record, hand out.
Killed anywhere in between, the same command goes on from the journal.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.clients._batches_api import BatchesAPI
from tasks.clients._exchange import Exchange
from tasks.clients.base import Client, ClientError, Reply, Request, Usage
from tasks.prices import Price, price_of
from tasks.spec import SpecError

if TYPE_CHECKING:
    from artifacts.journal import Journal
    from tasks.progress import Progress
    from tasks.spec import Runtime

BYTES_PER_TOKEN = 2.5
"""A low guess, so that estimates err on the dear side: our prompts are JSON, which has short tokens."""


class AnthropicBatch(Client):
    """Claude, by any model id, through the message-batches API."""

    kind: Literal["anthropic_batch"] = "anthropic_batch"

    model: str = "claude-haiku-5-5"
    """Model id."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = "low"
    """How much the model thinks, which is paid as output; null for models that know no effort."""

    batch_requests: int = Field(10_000, ge=1, le=100_000)
    """Most requests in one batch. Never enters a key."""

    price_input: float | None = Field(None, ge=0)
    """US dollars per million input tokens, before the batch discount; null takes our table. Never enters a key."""

    price_output: float | None = Field(None, ge=0)
    """US dollars per million output tokens, before the batch discount; null takes our table. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = frozenset({"batch_requests", "price_input", "price_output"})
    """Fields that change no answer."""

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

    def check(self, runtime: Runtime) -> None:
        if self.price is None:
            raise SpecError(
                f"client.model = {self.model!r}, but its price is not in our table, so runtime.max_usd could not be "
                "kept; set client.price_input and client.price_output (US dollars per million tokens)"
            )
        if importlib.util.find_spec("anthropic") is None:
            raise SpecError(
                "client = 'anthropic_batch', but the package anthropic is not installed; pip install anthropic"
            )
        if os.environ.get("ANTHROPIC_API_KEY"):
            return
        try:
            usable = BatchesAPI(runtime.base_url).has_credentials
        except ClientError as error:
            raise SpecError(str(error)) from None
        if not usable:
            raise SpecError(
                "client = 'anthropic_batch', but ANTHROPIC_API_KEY is not set; "
                "set it, or use explainer=lexical, which needs no client"
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

    def params(self, request: Request) -> dict[str, Any]:
        """The request in the API's words. No temperature: the API refuses it."""
        output: dict[str, Any] = {}
        if self.effort is not None:
            output["effort"] = self.effort
        if request.schema is not None:
            output["format"] = {"type": "json_schema", "schema": request.schema}
        params: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": request.user}],
        }
        return {**params, "output_config": output} if output else params

    def answer(
        self, requests: Iterable[Request], journal: Journal, runtime: Runtime, progress: Progress
    ) -> Iterator[Reply]:
        asked = list(dict.fromkeys(self.digest(request) for request in requests))
        with progress.bar(self.model, len(asked), "replies") as bar:
            yield from Exchange(self, requests, journal, runtime, progress, bar).replies(asked)
