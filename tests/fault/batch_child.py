"""A process that asks questions and is killed at a chosen step. The fork server imports it ahead, for speed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import anthropic  # noqa: F401  imported once, not in every child

from artifacts.journal import Journal
from tasks.clients._anthropic_batches import BatchesAPI
from tasks.clients.anthropic_batch import AnthropicBatch
from tasks.clients.base import Request
from tasks.progress import Progress
from tasks.spec import Runtime

N = 5
STEPS = (
    "before intent", "after intent", "after create", "after sent", "at poll", "within results", "before recording",
    "after recording", "at the first reply",
)  # fmt: skip
"""Everything that happens to a batch, in order."""


def requests() -> list[Request]:
    """Five questions, which go out in three batches."""
    return [Request("system", f'{{"windows": [{i}]}}', {"type": "object", "properties": {}}, 64) for i in range(N)]


def client() -> AnthropicBatch:
    return AnthropicBatch(batch_requests=2)


def runtime(url: str) -> Runtime:
    return Runtime(base_url=url, poll_seconds=0.02)


def ask(url: str, root: str, out: Any = None, step: str = "", nth: int = 1) -> None:
    """Ask, and die without warning at the nth time that a step comes round."""
    os.environ["ANTHROPIC_API_KEY"] = "sk-canary-key"
    left = [nth]

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

    {
        "": lambda: None,
        "before intent": lambda: before(Journal, "intend"),
        "after intent": lambda: after(Journal, "intend"),
        "after create": lambda: after(BatchesAPI, "create"),
        "after sent": lambda: after(Journal, "sent"),
        "at poll": lambda: before(BatchesAPI, "retrieve"),
        "within results": lambda: within(BatchesAPI, "results"),
        "before recording": lambda: before(Journal, "replied"),
        "after recording": lambda: after(Journal, "replied"),
        "at the first reply": lambda: None,
    }[step]()
    statuses = []
    for reply in client().answer(requests(), Journal(root), runtime(url), Progress()):
        if step == "at the first reply":
            die()
        statuses.append(reply.status)
    if out is not None:
        out.put(statuses)
