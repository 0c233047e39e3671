"""Any server that speaks OpenAI's chat completions: OpenAI itself, OpenRouter, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.clients._batches_api import scrubbed
from tasks.clients._chat import Chat, bare
from tasks.clients._chat_results import completion_record
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
        record = self.counted(completion_record(digest, answer, self.usd, scrubbed), request)
        if request.logprobs and record["status"] == "ok":
            if "logprobs" not in record:
                record["detail"] = record["detail"] or "the server gave no log-probabilities that could be read"
        elif request.schema is not None and self.in_words:
            record["text"] = bare(record["text"])
        return record


def _failed(error: dict[str, Any]) -> Failed:
    code = error.get("code")
    passing = not isinstance(code, int) or code in PASSING
    return Failed(scrubbed(f"{code} {error.get('message') or ''}"), again=passing, paid=True)
