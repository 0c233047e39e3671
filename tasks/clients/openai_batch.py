"""OpenAI and compatible servers through files and batches: half the price where the server gives that, within a day."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.clients._batched import Batched
from tasks.clients._openai_batches import OpenAIBatchesAPI
from tasks.clients.base import Request
from tasks.prices import BATCH, Price, price_of
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.spec import Runtime


class OpenAIBatch(Batched):
    """Any model behind the batches API of an OpenAI-compatible server."""

    GIVES_LOGPROBS: ClassVar[bool] = True
    kind: Literal["openai_batch"] = "openai_batch"

    model: str
    """Model id."""

    base_url: str | None = None
    """Address, which ends with ``/v1``; ``runtime.base_url`` goes before it, the SDK's own environment variable and
    default after it. Never enters a key."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """How much the model thinks, which is paid as output; null for models that know no effort."""

    temperature: float | None = Field(None, ge=0, le=2)
    """Of sampling; null leaves it to the server, as models that think ask for."""

    batch_requests: int = Field(10_000, ge=1, le=50_000)
    """Most requests in one batch. Never enters a key."""

    price_batch: float = Field(BATCH, ge=0, le=1)
    """Price in a batch, relative to the prices below. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = Batched.NOT_ASKED | {"base_url", "price_batch"}

    @property
    def price(self) -> Price | None:
        if self.price_input is not None and self.price_output is not None:
            return Price(self.price_input, self.price_output, batch=self.price_batch)
        return price_of(self.model)

    def api(self, runtime: Runtime) -> OpenAIBatchesAPI:
        return OpenAIBatchesAPI(runtime.base_url or self.base_url)

    def check(self, runtime: Runtime) -> None:
        self.check_price(runtime)
        if importlib.util.find_spec("openai") is None:
            raise SpecError(
                "client = 'openai_batch', but the package openai is not installed; pip install 'saint-sae[openai]'"
            )
        if not os.environ.get("OPENAI_API_KEY"):
            raise SpecError(
                "client = 'openai_batch', but OPENAI_API_KEY is not set; set it (to anything, for a server that asks "
                "for none), or use explainer=lexical, which needs no client"
            )

    def params(self, request: Request) -> dict[str, Any]:
        """The request in the API's words."""
        params: dict[str, Any] = {
            "model": self.model,
            "max_completion_tokens": request.max_tokens,
            "messages": [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}],
        }
        if self.effort is not None:
            params["reasoning_effort"] = self.effort
        if self.temperature is not None:
            params["temperature"] = self.temperature
        if request.schema is not None:
            form = {"name": "answer", "strict": True, "schema": request.schema}
            params["response_format"] = {"type": "json_schema", "json_schema": form}
        if request.logprobs:
            params |= {"logprobs": True, "top_logprobs": min(request.logprobs, MOST_LOGPROBS)}
        return params


MOST_LOGPROBS = 20
"""Alternatives per token that the API gives."""
