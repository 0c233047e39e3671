"""Any server that speaks OpenAI's chat completions: OpenAI itself, OpenRouter, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.clients._batches_api import scrubbed
from tasks.clients._chat_results import read_logprobs
from tasks.clients._failures import Failed
from tasks.clients._live import LiveClient
from tasks.clients._statuses import PASSING
from tasks.clients.base import ClientError, Request
from tasks.spec import SpecError

if TYPE_CHECKING:
    from tasks.spec import Runtime

OURS = frozenset({"model", "messages", "stream", "n"})
"""What ``extra`` may not say: one answer to each question is what all else counts on."""


class OpenAI(LiveClient):
    """A model behind ``/v1/chat/completions``."""

    kind: Literal["openai"] = "openai"

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

    NOT_ASKED: ClassVar[frozenset[str]] = LiveClient.NOT_ASKED | {"base_url"}

    GIVES_LOGPROBS: ClassVar[bool] = True

    SDK: ClassVar[str] = "openai"

    @model_validator(mode="after")
    def _extra_is_extra(self) -> Self:
        if wrong := sorted(OURS & self.extra.keys()):
            raise SpecError(f"client.extra.{wrong[0]} = {self.extra[wrong[0]]!r}, but that is not for extra to say; leave it out")
        return self

    def check(self, runtime: Runtime) -> None:
        if importlib.util.find_spec("openai") is None:
            raise SpecError("client = 'openai', but the package openai is not installed; pip install 'saint-sae[openai]'")
        if not os.environ.get("OPENAI_API_KEY"):
            raise SpecError(
                "client = 'openai', but OPENAI_API_KEY is not set; set it (to any word where the server asks for none)"
            )
        self.check_price(runtime)

    def connect(self, runtime: Runtime) -> Any:
        import httpx2
        import openai

        try:
            return openai.AsyncOpenAI(
                base_url=runtime.base_url or self.base_url,
                max_retries=0,
                timeout=self.timeout_seconds,
                http_client=openai.DefaultAsyncHttpxClient(
                    follow_redirects=False,
                    limits=httpx2.Limits(max_connections=self.in_flight, max_keepalive_connections=self.in_flight),
                ),
            )
        except openai.OpenAIError as error:
            raise ClientError(f"client: the SDK found no usable credentials ({scrubbed(str(error))}); mend them") from None

    async def post(self, connection: Any, request: Request) -> Any:
        import httpx2

        return await connection.post("/chat/completions", body=self.params(request), cast_to=httpx2.Response)

    def params(self, request: Request) -> dict[str, Any]:
        """The request in the server's words."""
        system, schema = request.system, request.schema
        if schema is not None and self.structured != "json_schema":
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
            params |= {"logprobs": True, "top_logprobs": request.logprobs}
        return params | self.extra

    def record(self, digest: str, answer: dict[str, Any], request: Request) -> dict[str, Any]:
        if not answer.get("choices") and isinstance(error := answer.get("error"), dict):  # as routers answer, under a 200
            raise _failed(error)
        choice = answer["choices"][0]
        if isinstance(error := choice.get("error"), dict):
            raise _failed(error)
        message, stop = choice["message"], choice.get("finish_reason")
        text = message.get("content") or ""
        if not isinstance(text, str):
            text = "".join(str(part.get("text", "")) for part in text)
        status, detail = "ok", ""
        if message.get("refusal") or stop == "content_filter":
            status, detail = "refused", "the content filter" if stop == "content_filter" else "the model declined to answer"
        elif stop == "length":
            status, detail = "truncated", "stopped by length"
        elif not text.strip():
            status, detail = "errored", scrubbed(f"an empty answer, stopped by {stop}")
        logprobs = None
        if request.logprobs and status == "ok":
            logprobs = read_logprobs(choice.get("logprobs"))
            detail = "" if logprobs is not None else "the server gave no log-probabilities that could be read"
        elif request.schema is not None and self.structured != "json_schema":
            text = bare(text)
        usage = answer.get("usage") or {}
        n_in, n_out = (max(0, int(usage.get(name) or 0)) for name in ("prompt_tokens", "completion_tokens"))
        usd = self.usd(n_in, n_out)
        if usd is not None and not usage:
            usd, detail = self.most_usd(request), detail or "the server tells no usage; the most it can cost is counted"
        found = {"digest": digest, "status": status, "final": True, "detail": detail, "text": text, "usd": usd,
                 "input_tokens": n_in, "output_tokens": n_out, "model": answer.get("model"),
                 "message": answer.get("id")}  # fmt: skip
        return found if logprobs is None else {**found, "logprobs": logprobs}


def _failed(error: dict[str, Any]) -> Failed:
    code = error.get("code")
    passing = not isinstance(code, int) or code in PASSING
    return Failed(scrubbed(f"{code} {error.get('message') or ''}"), again=passing, paid=True)


def bare(text: str) -> str:
    """An answer without the reasoning before it and the fence around it, which models write that are not held to JSON."""
    text = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    found = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, flags=re.DOTALL)
    return found[1] if found else text
