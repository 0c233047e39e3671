"""Claude, answered at once: for trying things out, and where a batch would take too long. Batches cost half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.clients._batches_api import scrubbed
from tasks.clients._claude import Claude
from tasks.clients._live import LiveClient
from tasks.clients._priced import MOST_OVERHEAD_TOKENS, n_bytes
from tasks.clients._results import succeeded
from tasks.clients.base import ClientError, Request

if TYPE_CHECKING:
    from tasks.spec import Runtime

LEAST_CACHED_BYTES = 2500
"""Shorter system turns are below what any model caches (1,024 tokens)."""


class Anthropic(Claude, LiveClient):
    """Claude, by any model id, through the messages API."""

    kind: Literal["anthropic"] = "anthropic"

    cache: bool = True
    """Let the API keep the system turn for five minutes, where it is long enough: read again it costs a tenth, written
    a quarter more. Never enters a key."""

    NOT_ASKED: ClassVar[frozenset[str]] = LiveClient.NOT_ASKED | {"cache"}

    SDK: ClassVar[str] = "anthropic"

    def connect(self, runtime: Runtime) -> Any:
        import anthropic
        import httpx2

        try:
            return anthropic.AsyncAnthropic(
                base_url=runtime.base_url,
                max_retries=0,
                timeout=self.timeout_seconds,
                http_client=anthropic.DefaultAsyncHttpxClient(
                    follow_redirects=False,
                    limits=httpx2.Limits(max_connections=self.in_flight, max_keepalive_connections=self.in_flight),
                ),
            )
        except anthropic.AnthropicError as error:
            raise ClientError(
                f"client: the SDK found no usable credentials ({scrubbed(str(error))}); mend them"
            ) from None

    async def post(self, connection: Any, request: Request) -> Any:
        import httpx2

        return await connection.post("/v1/messages", body=self.params(request), cast_to=httpx2.Response)

    def params(self, request: Request) -> dict[str, Any]:
        params = super().params(request)
        if not self._cached(request):
            return params
        block = {"type": "text", "text": request.system, "cache_control": {"type": "ephemeral"}}
        return {**params, "system": [block]}

    def record(self, digest: str, answer: dict[str, Any], request: Request) -> dict[str, Any]:
        if not isinstance(answer["content"], list) or not isinstance(answer["usage"], dict):
            raise TypeError("a message has content and usage")
        return self.counted(succeeded(digest, answer, self.price.live_usd if self.price else None), request)

    def most_usd(self, request: Request) -> float:
        if self.price is None:
            return 0.0
        n = MOST_OVERHEAD_TOKENS + n_bytes(request)
        return self.price.live_usd(0, request.max_tokens, write_5m=n) if self._cached(request) else super().most_usd(request)

    def _cached(self, request: Request) -> bool:
        return self.cache and len(request.system.encode()) >= LEAST_CACHED_BYTES
