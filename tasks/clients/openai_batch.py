"""OpenAI and compatible servers through files and batches: half the price where the server gives that, within a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.clients._batched import Batched
from tasks.clients._chat import Chat
from tasks.clients._openai_batches import OpenAIBatchesAPI
from tasks.prices import BATCH, Price, price_of

if TYPE_CHECKING:
    from tasks.spec import Runtime


class OpenAIBatch(Chat, Batched):
    """Any model behind the batches API of an OpenAI-compatible server."""

    kind: Literal["openai_batch"] = "openai_batch"

    batch_requests: int = Field(10_000, ge=1, le=50_000)
    """Most requests in one batch. Never enters a key."""

    price_batch: float = Field(BATCH, ge=0, le=1)
    """Price in a batch, relative to the prices below. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = Batched.NOT_ASKED | {"base_url", "price_batch"}

    KEEPS_KEY: ClassVar[dict[str, Any]] = {
        "structured": "json_schema", "max_tokens_name": "max_completion_tokens", "extra": {},
    }  # fmt: skip

    @property
    def price(self) -> Price | None:
        if self.price_input is not None and self.price_output is not None:
            return Price(self.price_input, self.price_output, batch=self.price_batch)
        return price_of(self.model)

    def api(self, runtime: Runtime) -> OpenAIBatchesAPI:
        return OpenAIBatchesAPI(self.address(runtime), in_words=self.in_words)
