"""Chat completions, asked for at once or in batches: how a request is put."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.clients._priced import Priced
from tasks.clients.base import Request
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.spec import Runtime

OURS = frozenset({"model", "messages", "stream", "n"})
"""What ``extra`` may not say: one answer to each question is what all else counts on."""

MOST_LOGPROBS = 20
"""Alternatives per token that the API gives."""


class Chat(Priced):
    """A model behind ``/v1/chat/completions``."""

    model: str
    """Model id, as the server calls it."""

    base_url: str | None = None
    """Address, which ends with ``/v1``; ``runtime.base_url`` goes before it, the SDK's own environment variable and
    default after it. Never enters a key."""

    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is made to answer in the form that is asked for: by the schema itself, by any JSON, or not at all.
    Other than by the schema, it is told to the model in words."""

    max_tokens_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What the server calls the most tokens of an answer; many compatible ones know only the older ``max_tokens``."""

    temperature: float | None = Field(None, ge=0)
    """Randomness of the answer; null leaves it to the server, since models that reason refuse one."""

    effort: str | None = None
    """How much a model that reasons does so (``low``, ``medium``, ``high``), which is paid as output; null says nothing."""

    extra: dict[str, Any] = {}
    """Further fields of the request, as the server calls them (``{seed: 0}``, ``{provider: {order: [x]}}``)."""

    GIVES_LOGPROBS: ClassVar[bool] = True

    @model_validator(mode="after")
    def _extra_is_extra(self) -> Self:
        if wrong := sorted(OURS & self.extra.keys()):
            raise SpecError(f"client.extra.{wrong[0]} = {self.extra[wrong[0]]!r}, but that is not for extra to say; leave it out")
        return self

    def check(self, runtime: Runtime) -> None:
        kind = getattr(self, "kind", "")
        if importlib.util.find_spec("openai") is None:
            raise SpecError(f"client = {kind!r}, but the package openai is not installed; pip install 'saint-sae[openai]'")
        if not os.environ.get("OPENAI_API_KEY"):
            raise SpecError(
                f"client = {kind!r}, but OPENAI_API_KEY is not set; set it (to any word where the server asks for none), or "
                "use explainer=lexical, which needs no client"
            )
        self.check_address(runtime, "OPENAI")
        self.check_price(runtime)

    def address(self, runtime: Runtime) -> str | None:
        """Whom to ask; None leaves it to the SDK."""
        return runtime.base_url or self.base_url

    @property
    def in_words(self) -> bool:
        """Whether the model is told its form in words only, so that there may be something around its JSON."""
        return self.structured != "json_schema"

    def params(self, request: Request) -> dict[str, Any]:
        """The request in the server's words."""
        system, schema = request.system, request.schema
        if schema is not None and self.in_words:
            system += f"\n\nAnswer with one JSON object and nothing else. Its JSON schema: {json.dumps(schema)}"
        params: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": request.user}],
            self.max_tokens_name: request.max_tokens,
        }
        if schema is not None and self.structured == "json_schema":
            form = {"name": "answer", "strict": True, "schema": schema}
            params["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema is not None and self.structured == "json_object":
            params["response_format"] = {"type": "json_object"}
        if self.temperature is not None:
            params["temperature"] = self.temperature
        if self.effort is not None:
            params["reasoning_effort"] = self.effort
        if request.logprobs:
            params |= {"logprobs": True, "top_logprobs": min(request.logprobs, MOST_LOGPROBS)}
        return params | self.extra


def bare(text: str) -> str:
    """An answer without the reasoning before it and the fence around it, which models write that are not held to JSON."""
    text = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    found = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, flags=re.DOTALL)
    return found[1] if found else text
