"""Claude by whichever API: how a request is put."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, Literal

from tasks.clients._anthropic_batches import BatchesAPI
from tasks.clients._priced import Priced
from tasks.clients.base import ClientError, Request
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.spec import Runtime


class Claude(Priced):
    """Claude, by any model id."""

    model: str = "claude-haiku-5-5"
    """Model id."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = "low"
    """How much the model thinks, which is paid as output; null for models that know no effort."""

    def check(self, runtime: Runtime) -> None:
        self.check_address(runtime, "ANTHROPIC")
        self.check_price(runtime)
        kind = getattr(self, "kind", "")
        if importlib.util.find_spec("anthropic") is None:
            raise SpecError(f"client = {kind!r}, but the package anthropic is not installed; pip install anthropic")
        if os.environ.get("ANTHROPIC_API_KEY"):
            return
        try:
            usable = BatchesAPI(runtime.base_url).has_credentials
        except ClientError as error:
            raise SpecError(str(error)) from None
        if not usable:
            raise SpecError(
                f"client = {kind!r}, but ANTHROPIC_API_KEY is not set; "
                "set it, or use explainer=lexical, which needs no client"
            )

    def params(self, request: Request) -> dict[str, Any]:
        """The request in the API's words. No temperature: the API refuses it."""
        output: dict[str, Any] = {}
        if self.effort is not None:
            output["effort"] = self.effort
        if request.schema is not None:
            from anthropic import transform_schema  # what the API cannot hold an answer to, it tells the model in words

            output["format"] = {"type": "json_schema", "schema": transform_schema(request.schema)}
        params: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_tokens,
            "system": request.system,
            "messages": [{"role": "user", "content": request.user}],
        }
        return {**params, "output_config": output} if output else params
