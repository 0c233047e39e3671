"""Any server that speaks OpenAI's chat completions: OpenAI itself, OpenRouter, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.clients._batches_api import scrubbed
from tasks.clients._chat import Chat, bare
from tasks.clients._chat_results import read_logprobs
from tasks.clients._failures import Failed
from tasks.clients._live import LiveClient
from tasks.clients._statuses import PASSING
from tasks.clients.base import ClientError, Request

if TYPE_CHECKING:
    from tasks.spec import Runtime


class OpenAI(Chat, LiveClient):
    """A model behind ``/v1/chat/completions``, asked at once."""

    kind: Literal["openai"] = "openai"

    NOT_ASKED: ClassVar[frozenset[str]] = LiveClient.NOT_ASKED | {"base_url"}

    SDK: ClassVar[str] = "openai"

    def connect(self, runtime: Runtime) -> Any:
        import httpx2
        import openai

        try:
            return openai.AsyncOpenAI(
                base_url=self.address(runtime),
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
        elif request.schema is not None and self.in_words:
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
