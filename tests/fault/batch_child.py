"""A process that asks questions and is killed at a chosen step. The fork server imports it ahead, for speed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import anthropic  # noqa: F401  imported once, not in every child
import openai  # noqa: F401
from openai.resources.files import Files

from artifacts.journal import Journal
from tasks.clients._anthropic_batches import BatchesAPI
from tasks.clients._batched import Batched
from tasks.clients._openai_batches import OpenAIBatchesAPI
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import Request
from tasks.clients.openai_batch import OpenAIBatch
from tasks.progress import Progress
from tasks.spec import Runtime

N = 5
STEPS = (
    "before intent", "after intent", "after create", "after sent", "at poll", "within results", "before recording",
    "after recording", "at the first reply",
)  # fmt: skip
"""Everything that happens to a batch, in order."""

APIS = {"anthropic_batch": BatchesAPI, "openai_batch": OpenAIBatchesAPI}


def requests() -> list[Request]:
    """Five questions, which go out in three batches."""
    return [Request("system", f'{{"windows": [{i}]}}', {"type": "object", "properties": {}}, 64) for i in range(N)]


def client(kind: str = "anthropic_batch") -> Batched:
    if kind == "openai_batch":
        return OpenAIBatch(model="m", price_input=1.0, price_output=4.0, batch_requests=2)
    return AnthropicBatch(batch_requests=2)


def runtime(url: str) -> Runtime:
    return Runtime(base_url=url, poll_seconds=0.02)


def ask(
    url: str, root: str, out: Any = None, step: str = "", nth: int = 1, kind: str = "anthropic_batch"
) -> None:
    """Ask, and die without warning at the nth time that a step comes round, or any step at all."""
    os.environ["ANTHROPIC_API_KEY"] = os.environ["OPENAI_API_KEY"] = "sk-canary-key"
    left, api = [nth], APIS[kind]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(cls: type, name: str) -> None:
        inner: Callable = getattr(cls, name)
        setattr(cls, name, lambda *a, **k: (die(), inner(*a, **k))[1])

    def after(cls: type, name: str) -> None:
        inner: Callable = getattr(cls, name)
        setattr(cls, name, lambda *a, **k: (inner(*a, **k), die())[0])

    def within(cls: type, name: str) -> None:
        inner: Callable = getattr(cls, name)

        def streamed(*a: Any, **k: Any) -> Any:
            for line in inner(*a, **k):
                yield line
                die()

        setattr(cls, name, streamed)

    def anywhere() -> None:
        for name in ("intend", "sent", "replied", "void"):
            before(Journal, name)
            after(Journal, name)
        for name in ("create", "retrieve", "candidates"):
            before(api, name)
            after(api, name)
        after(Files, "create")
        within(api, "results")

    {
        "": lambda: None,
        "any": anywhere,
        "before intent": lambda: before(Journal, "intend"),
        "after intent": lambda: after(Journal, "intend"),
        "after create": lambda: after(api, "create"),
        "after sent": lambda: after(Journal, "sent"),
        "at poll": lambda: before(api, "retrieve"),
        "within results": lambda: within(api, "results"),
        "before recording": lambda: before(Journal, "replied"),
        "after recording": lambda: after(Journal, "replied"),
        "at the first reply": lambda: None,
    }[step]()
    statuses = []
    for reply in client(kind).answer(requests(), Journal(root), runtime(url), Progress()):
        if step in ("at the first reply", "any"):
            die()
        statuses.append(reply.status)
    if out is not None:
        out.put(statuses)
