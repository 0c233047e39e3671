"""Claude through message batches: half the price, answers within a day, mostly within the hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.clients._anthropic_batches import BatchesAPI
from tasks.clients._batched import Batched
from tasks.clients._claude import Claude

if TYPE_CHECKING:
    from tasks.spec import Runtime


class AnthropicBatch(Claude, Batched):
    """Claude, by any model id, through the message-batches API."""

    kind: Literal["anthropic_batch"] = "anthropic_batch"

    batch_requests: int = Field(10_000, ge=1, le=100_000)
    """Most requests in one batch. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = Batched.NOT_ASKED

    def api(self, runtime: Runtime) -> BatchesAPI:
        return BatchesAPI(runtime.base_url)
